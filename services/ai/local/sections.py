"""The parts of a page: what its headings say about the lines below them."""

import re
import tomllib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from itertools import chain, pairwise
from operator import attrgetter
from typing import Any

_UNKNOWN_HEADING = re.compile(r"^[ \t]*(?:[A-Z][A-Z /&-]{3,40}|[A-Z][A-Za-z /&-]{2,40}:)[ \t]*$", re.M)
_BARE_HEADING = re.compile(r"^[ \t]*(?P<name>PMHx?|PSHx?|FHx?|SHx?|DHx)[ \t]+(?=[A-Za-z])", re.M)
"""Abbreviations that head a line without a colon: "PMH eczema, hernia repair 2011"."""
_TITLE_LINE = re.compile(r"(?:(?<=\n\n)|\A)[ \t]*[A-Z][a-z]+(?: [A-Za-z&/-]+){0,4}[ \t]*(?=\n)")
"""After a blank line, a few words without a stop. Followed by prose they are a heading that we have no name for."""
_PROSE_FROM = 60
"""Characters of a line that is prose, not an item of a list."""
_DATE_CELL = r"(?:(?:19|20)\d\d-\d\d-\d\d|\d{1,2}[ /.-](?:\d{1,2}|[A-Z][a-z]{2,8})(?:[ /.-](?:\d{4}|\d\d))?)"
_COLUMNS = re.compile(
    r"^[ \t]*(?:(?:(?i:test|analyte|investigation|name|results?|value|units?|ref(?:erence)?\.?|range|interval|flag"
    r"|normal|status|date|drug|dose|route|frequency|form|strength|indication|medicine|comment|time|when"
    r"|how often|how|started|prescriber|reference|quantity)s?\b"
    rf"|{_DATE_CELL}(?![\w/.-]))[ \t|/()]*){{2,}}$",
    re.M,
)
_TAIL_DATE = (
    r"\(?(?:(?:\d{1,2}(?:st|nd|rd|th)?[ /.-])?(?:\d{1,2}|[A-Z][a-z]{2,8})[ /.-](?:19|20)?\d\d"
    r"|[A-Z][a-z]{2,8} \d{1,2},? (?:19|20)\d\d|(?:19|20)\d\d-\d\d-\d\d)\)?"
)
_MEDICINES_COLUMNS = re.compile(r"\b(?:drug|dose|route|medicine|strength)s?\b", re.I)
_ENDS_WITH_PARAGRAPH = frozenset({"allergies", "family", "social", "history", "warning"})
"""Roles whose heading speaks for its paragraph only: prose often follows under no heading, or one that nobody knows."""
_ENDS_WITH_LINE = frozenset({"allergies", "family", "social", "warning"})
"""Of them those whose heading speaks for what stands on its own line, where something does."""
_PAGES_KEPT = 64
"""Each pass asks again what the parts of a page are."""
_INLINE = frozenset(
    [
        "medications",
        "history",
        "family",
        "social",
        "allergies",
        "differential",
        "impression",
        "examination",
        "assessment",
    ]
)
"""Roles and names of headings that notes print inside a line, after a full stop."""
_CONTINUED = frozenset({"medications", "history", "plan"})
"""Roles of lists that run on over the edge of a page."""


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of text under one heading. ``heading`` is masked: its words are no findings."""

    role: str
    heading: tuple[int, int]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A page and its parts. ``body`` is its text with headings blanked, offsets kept; ``edges`` are its sentences."""

    text: str
    parts: list[Section]
    body: str
    edges: list[tuple[int, int]]


@cache
def rules(name: str) -> dict[str, Any]:
    """A file of ``rules/``."""
    return tomllib.loads(resources.files(__package__).joinpath("rules", f"{name}.toml").read_text("utf-8"))


def one_of(terms: Iterable[str]) -> str:
    """A regular expression for any of the terms, the longest first, any white space between their words.

    Terms that begin alike share their beginning: where it does not stand, a hundred terms are refused at once.
    """
    beginnings: _Beginnings = {}
    for term in terms:
        rest = beginnings
        for character in " ".join(term.split()):
            rest = rest.setdefault(character, {})
        rest[_END] = {}
    return _any_of(beginnings)


_Beginnings = dict[str, "_Beginnings"]
_END = ""
WHITE_SPACE = r"\s+"


def _any_of(beginnings: _Beginnings) -> str:
    branches = [
        (WHITE_SPACE if character == " " else re.escape(character)) + _any_of(rest)
        for character, rest in beginnings.items()
        if character != _END
    ]
    if not branches:
        return ""
    if _END in beginnings:
        return f"(?:{'|'.join(branches)})?"
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


_NO_ROLES = ("tails", "letterhead", "titles", "closings")


@cache
def _headings() -> tuple[re.Pattern[str], dict[str, str]]:
    content = rules("sections")
    roles = {
        " ".join(name.lower().split()): role
        for role, names in content.items()
        if role not in _NO_ROLES
        for name in names
    }
    known = one_of(roles).replace(WHITE_SPACE, r"[ \t]+")
    tail = one_of([*content["tails"], *(name for name in roles if len(name) > 3)]).replace(WHITE_SPACE, r"[ \t]+")
    pattern = (
        rf"^[ \t•*#–-]*(?:\d{{1,2}}[.)][ \t]*)?(?P<name>{known})"
        rf"(?:[ \t]*(?::|[-–](?=[ \t])|$)|(?P<tail>(?:[ \t,/&]+(?:(?:{tail})\b|(?-i:{_TAIL_DATE}))){{1,8}})"
        r"[ \t]*:?[ \t]*$)"
    )
    return re.compile(pattern, re.I | re.M), roles


@cache
def _inline_headings() -> re.Pattern[str]:
    """Headings inside a line: "PMH: atrial fibrillation. Meds: edoxaban"."""
    names = one_of(name for name, role in _headings()[1].items() if role in _INLINE or name in _INLINE)
    known = names.replace(WHITE_SPACE, r"[ \t]+")
    return re.compile(rf"(?<=[.;])[ \t]+(?P<name>{known}):(?=[ \t])", re.I)


@cache
def _closing() -> re.Pattern[str]:
    return re.compile(rf"^[ \t]*(?:{one_of(rules('sections')['closings'])})\b[^\n]{{0,60}}$", re.I | re.M)


@cache
def _letterhead() -> re.Pattern[str]:
    word = r"(?:[A-Z][\w'’.-]*|&|of|and|the|for|at)"
    named = "|".join(name.capitalize() for name in rules("sections")["letterhead"])
    return re.compile(rf"^[ \t]*(?={word}(?:[ \t]+{word})+[ \t]*$)[^\n]*\b(?:{named})\b[^\n]*$", re.M)


@cache
def _title() -> re.Pattern[str]:
    """The first line of a paper, where it says what the paper is, "Asthma annual review", and names no examination.

    A page may also begin in the middle of a sentence, or with an item of a list: those tell something.
    """
    done = r"(?:ct|mri?|pet|x-?rays?|ultrasound|doppler|scan|ecg|ekg|echo\w*|mammogra\w+|biopsy|\w+(?:scopy|ectomy))"
    tells = r"(?:was|were|is|are|has|had|will|he|she|his|her|they|please|who|which|after|for)"
    says = one_of(rules("sections")["titles"])
    return re.compile(
        rf"\s*(?-i:(?=[A-Z\d]))(?![^\n]*\b(?:{done}|{tells})\b)(?=[^\n]*\b(?:{says})\b)[^\n:]{{4,90}}(?<![.:;,])$",
        re.I | re.M,
    )


@lru_cache(maxsize=_PAGES_KEPT)
def sections(text: str, role: str = "other") -> list[Section]:
    """The sections of ``text`` from top to bottom, without gaps. The first has no heading: ``role`` is its role."""
    pattern, roles = _headings()
    # An unknown heading resets the role, yet its words may be findings ("CHEST X-RAY"): its own mask is empty.
    marks = {match.start(): (match.start(), "other") for match in _UNKNOWN_HEADING.finditer(text)}
    marks |= {match.start(): (match.start(), "other") for match in _closing().finditer(text)}
    marks |= {start: (start, "other") for start in _titles(text)}
    marks |= {match.start(): (match.end(), "other") for match in _letterhead().finditer(text)}
    if role == "other" and (title := _title().match(text)):
        marks[title.start()] = (title.end(), "other")
        marks.setdefault(title.end(), (title.end(), "other"))  # a title's date is the paper's, not each result's
    for match in chain(pattern.finditer(text), _inline_headings().finditer(text)):
        named = roles[" ".join(match["name"].lower().split())]
        inline = text[match.end() :].partition("\n")[0].strip()
        if named == "other" and inline and match.group().lstrip()[0].isdigit():
            continue  # "1. GP: please repeat …" is an item of the plan
        marks[match.start()] = (match.end(), named)
        if named in _ENDS_WITH_PARAGRAPH:
            entry = inline and named in _ENDS_WITH_LINE
            end = _entry_end(text, match.end()) if entry else _paragraph_end(text, match.end(), told=bool(inline))
            if end is not None:
                marks.setdefault(end, (end, "other"))
    for match in _BARE_HEADING.finditer(text):
        marks.setdefault(match.start(), (match.end(), roles[match["name"].lower()]))
    for match in _COLUMNS.finditer(text):
        previous = max((start for start in marks if start < match.start()), default=None)
        open_role = marks[previous][1] if previous is not None else role
        marks[match.start()] = (match.end(), "medications" if _MEDICINES_COLUMNS.search(match.group()) else open_role)
    starts = sorted(marks)
    found = [Section(role, (0, 0), 0, starts[0] if starts else len(text))]
    for start, following in zip(starts, [*starts[1:], len(text)], strict=False):
        masked, named = marks[start]
        found.append(Section(named, (start, masked), start, following))
    return found


@lru_cache(maxsize=_PAGES_KEPT)
def layout(text: str, role: str = "other") -> Layout:
    """How a page is laid out; ``role`` is its first lines'."""
    parts = sections(text, role)
    return Layout(text, parts, _without_headings(text, parts), sentences(text))


def open_role(text: str, role: str = "other") -> str:
    """The role with which the next page begins, if this one began with ``role``."""
    last = sections(text, role)[-1].role
    return last if last in _CONTINUED else "other"


def columns(text: str, position: int) -> tuple[int, int] | None:
    """The line of column names above ``position``, if nothing but rows stands between."""
    above = [match.span() for match in _COLUMNS.finditer(text, 0, position)]
    if not above or re.search(r"\n[ \t]*[^\n\d]{25,}(?=\n)", text[above[-1][1] : position]):
        return None
    return above[-1]


def _titles(text: str) -> list[int]:
    """Where headings stand that no list knows: a short line between a blank one and prose."""
    found = []
    for match in _TITLE_LINE.finditer(text):
        following = next((line for line in text[match.end() :].split("\n")[:3] if line.strip()), "")
        if len(following.strip()) >= _PROSE_FROM and following.lstrip()[0].isupper():
            found.append(match.start())
    return found


def _paragraph_end(text: str, position: int, *, told: bool) -> int | None:
    """Where the paragraph below a heading ends. A blank line inside a list, as OCR leaves them, does not end it.

    Where something is ``told`` on the heading's own line, whatever is no item of a list ends it.
    """
    filled = re.compile(r"\s*").match(text, position)
    at = filled.end() if filled else position
    while (blank := re.compile(r"\n[ \t]*\n\s*").search(text, at)) is not None:
        at = blank.end()
        line = text[at:].partition("\n")[0].strip()
        if not re.match(r"[•*–-]|\d{1,2}[.)]", line) and (told or len(line) >= _PROSE_FROM or line.endswith(".")):
            return at
    return None


def _entry_end(text: str, position: int) -> int | None:
    """Where what stands behind a heading on its own line ends: with the line, unless that goes on in the next."""
    for end in re.compile(r"\s*\n\s*").finditer(text, position):
        goes_on = "\n\n" not in re.sub(r"[ \t]", "", end.group()) and (
            _wraps(text, end) or text.endswith((",", ";", " and"), 0, end.start())
        )
        if not goes_on:
            return end.end()
    return None


def at(parts: Sequence[Section], position: int) -> Section:
    """The section that holds a position."""
    return parts[max(bisect_right(parts, position, key=_start) - 1, 0)]


_start = attrgetter("start")


def _without_headings(text: str, parts: Sequence[Section]) -> str:
    kept, last = [], 0
    for start, end in (part.heading for part in parts if part.heading[0] < part.heading[1]):
        kept += [text[last:start], "\x00" * (end - start)]
        last = end
    return "".join([*kept, text[last:]])


@lru_cache(maxsize=_PAGES_KEPT)
def sentences(text: str) -> list[tuple[int, int]]:
    """Stretches inside which a cue may act: sentences of prose, lines of lists and tables."""
    edges = [0]
    for match in _SENTENCE_END.finditer(text):
        if "\n" in match.group() and "\n\n" not in re.sub(r"[ \t]", "", match.group()) and _wraps(text, match):
            continue
        edges.append(match.end())
    edges.append(len(text))
    return [(start, end) for start, end in pairwise(edges) if end > start]


_SENTENCE_END = re.compile(r"(?<=[.!?;])(?<!\.\.)[ \t\u2000-\u200a]*\n?[ \t]*(?=[A-Z(\d])(?<=\s)|\s*\n\s*")
_WRAPPED_FROM = 60
"""Characters of a line that may be prose broken by the page's width; list items and table rows are shorter."""


_DAY_AT_END = re.compile(r"\d[ \t]+(?:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)[a-z]*[ \t]*$(?<=\w)", re.I)
_LABEL = re.compile(r"[A-Z][A-Za-z]*(?: [A-Za-z]+){0,2}[ \t]*:[ \t]")
"""What begins a line of a form, whatever stands above it: "Patient: …"."""
_COLUMNS_OF_LINE = re.compile(r"\S {3,}\S.* {3,}\S")
_IN_COLUMNS = re.compile(r"[A-Z][\w'’/-]*(?: [\w'’/-]+){0,2}[ \t]{3,}\S")
"""So does what is parted from its answer by a column: "Avoid     metoclopramide"."""


def _wraps(text: str, match: re.Match[str]) -> bool:
    line = text[text.rfind("\n", 0, match.start()) + 1 : match.start()]
    if _COLUMNS_OF_LINE.search(line):
        return False
    if _DAY_AT_END.search(line):
        return True  # a date that goes on in the next line, with its year
    if _LABEL.match(text, match.end()) or _IN_COLUMNS.match(text, match.end()):
        return False
    following = text[match.end() : match.end() + 1]
    if line.rstrip().endswith((".", ":", ";", "!", "?")) or following in "-•*–":
        return False
    return following.islower() or following in "(" or (len(line) >= _WRAPPED_FROM and not following.isdigit())
