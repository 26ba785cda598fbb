"""The parts of a page: what its headings say about the lines below them."""

import re
import tomllib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise
from typing import Any

_UNKNOWN_HEADING = re.compile(r"^[ \t]*(?:[A-Z][A-Z /&-]{3,40}|[A-Z][A-Za-z /&-]{2,40}:)[ \t]*$", re.M)
_COLUMNS = re.compile(
    r"^[ \t]*(?:(?:test|analyte|investigation|name|results?|value|units?|ref(?:erence)?\.?|range|interval|flag|normal"
    r"|status|date|drug|dose|route|frequency|form|strength|indication|medicine)s?\b[ \t|/()]*){2,}$",
    re.I | re.M,
)
_ENDS_WITH_PARAGRAPH = frozenset({"allergies", "family", "social"})
"""Roles whose heading, with text on its own line, speaks for its paragraph only: prose often follows unheaded."""


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of text under one heading. ``heading`` is masked: its words are no findings."""

    role: str
    heading: tuple[int, int]
    start: int
    end: int


@cache
def rules(name: str) -> dict[str, Any]:
    """A file of ``rules/``."""
    return tomllib.loads(resources.files(__package__).joinpath("rules", f"{name}.toml").read_text("utf-8"))


def one_of(terms: Sequence[str]) -> str:
    """A regular expression for any of the terms, the longest first, any white space between their words."""
    ordered = sorted(terms, key=len, reverse=True)
    return "|".join(r"\s+".join(re.escape(word) for word in term.split()) for term in ordered)


@cache
def _headings() -> tuple[re.Pattern[str], dict[str, str]]:
    roles = {" ".join(name.lower().split()): role for role, names in rules("sections").items() for name in names}
    pattern = rf"^[ \t•*#–-]*(?:\d{{1,2}}[.)][ \t]*)?(?P<name>{one_of(list(roles))})[ \t]*(?::|[-–](?=[ \t])|$)"
    return re.compile(pattern, re.I | re.M), roles


def sections(text: str) -> list[Section]:
    """The sections of ``text`` from top to bottom, without gaps; the first may have no heading."""
    pattern, roles = _headings()
    marks = {match.start(): (match.end(), "other") for match in _UNKNOWN_HEADING.finditer(text)}
    # An unknown heading resets the role, yet its words may be findings ("CHEST X-RAY"): its own mask is empty.
    marks = {start: (start, role) for start, (_, role) in marks.items()}
    for match in pattern.finditer(text):
        role = roles[" ".join(match["name"].lower().split())]
        marks[match.start()] = (match.end(), role)
        line_end = text.find("\n", match.end())
        inline = text[match.end() : line_end if line_end >= 0 else len(text)].strip()
        paragraph = text.find("\n\n", match.end())
        if inline and role in _ENDS_WITH_PARAGRAPH and paragraph >= 0:
            marks.setdefault(paragraph + 2, (paragraph + 2, "other"))
    for match in _COLUMNS.finditer(text):
        previous = max((start for start in marks if start <= match.start()), default=None)
        marks[match.start()] = (match.end(), marks[previous][1] if previous is not None else "other")
    starts = sorted(marks)
    found = [Section("other", (0, 0), 0, starts[0] if starts else len(text))]
    for start, following in zip(starts, [*starts[1:], len(text)], strict=False):
        masked, role = marks[start]
        found.append(Section(role, (start, masked), start, following))
    return found


def at(parts: Sequence[Section], position: int) -> Section:
    """The section that holds a position."""
    return parts[max(bisect_right([part.start for part in parts], position) - 1, 0)]


def sentences(text: str) -> list[tuple[int, int]]:
    """Stretches inside which a cue may act: sentences of prose, lines of lists and tables."""
    edges = [0]
    for match in _SENTENCE_END.finditer(text):
        if "\n" in match.group() and "\n\n" not in re.sub(r"[ \t]", "", match.group()) and _wraps(text, match):
            continue
        edges.append(match.end())
    edges.append(len(text))
    return [(start, end) for start, end in pairwise(edges) if end > start]


_SENTENCE_END = re.compile(r"(?<=[.!?;])[ \t\u2000-\u200a]*\n?[ \t]*(?=[A-Z(\d])(?<=\s)|\s*\n\s*")
_WRAPPED_FROM = 60
"""Characters of a line that may be prose broken by the page's width; list items and table rows are shorter."""


def _wraps(text: str, match: re.Match[str]) -> bool:
    line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
    following = text[match.end() : match.end() + 1]
    if line.rstrip().endswith((".", ":", ";", "!", "?")) or following in "-•*–":
        return False
    return following.islower() or following in "(" or (len(line) >= _WRAPPED_FROM and not following.isdigit())
