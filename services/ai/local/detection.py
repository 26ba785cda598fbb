"""Pass 1 by rules: terms and patterns outside headings, each labelled by what the section makes of it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

from . import rows, terminology
from .assertion import relative_speaks
from .sections import Section, at, rules, sections, sentences
from .words import words

_DOSE_FOLLOWS = re.compile(
    r"[\s:,(]{0,3}\d+(?:[.,]\d+)?\s?(?:mg|mcg|micrograms?|g|ml|units?|iu|puffs?|tablets?)\b(?!\s?/)", re.I
)
_LISTED_MEDICINE = re.compile(
    r"^[ \t•*–-]*(?:\d{1,2}[.)][ \t]*)?(?P<name>[A-Z][A-Za-z-]{3,30}(?: [A-Za-z-]{3,20})?)[ \t]+"
    r"\d+(?:[.,]\d+)?\s?(?:mg|mcg|micrograms?|g|ml|units?|iu|puffs?|%)",
    re.M,
)
_VACCINE_FOLLOWS = re.compile(r"\s+(?:vaccin|immuni[sz]ation|booster)", re.I)
_ALLERGY_BEFORE = re.compile(r"\b(?:allerg(?:y|ic|ies)(?:\s+to)?|intoleran(?:t|ce)\s+(?:to|of))\b[^.;\n]{0,40}$", re.I)
_FAMILY = frozenset({"disease", "symptom"})
_ALSO_IN_HEADINGS = frozenset({"age", "sex"})


@dataclass(frozen=True, slots=True)
class Span:
    """A finding in a text."""

    start: int
    end: int
    label: str


class Detector(Protocol):
    """Finds spans in a text. A trained tagger is another one: their spans are joined by ``union``."""

    def find(self, text: str, parts: Sequence[Section]) -> list[Span]:
        """Spans in any order; they may overlap those of other detectors."""


class TermDetector:
    """Finds what the terminology knows."""

    def find(self, text: str, parts: Sequence[Section]) -> list[Span]:
        """Terms outside headings."""
        body = words(_without_headings(text, parts))
        return [
            Span(body[hit.first].start, body[hit.last - 1].end, hit.concept.label)
            for hit in terminology.load().hits(body)
        ]


class PatternDetector:
    """Finds what its form gives away: ages, endings, rows of lab tables, items of medication lists."""

    def find(self, text: str, parts: Sequence[Section]) -> list[Span]:
        """Matches outside headings; ages and sexes also in a form's header."""
        body = _without_headings(text, parts)
        found: list[Span] = []
        for label, pattern, exceptions in _patterns():
            for match in pattern.finditer(text if label in _ALSO_IN_HEADINGS else body):
                name = "head" if "head" in pattern.groupindex else 0
                if match.group(name).lower() not in exceptions:
                    found.append(Span(*match.span(name), label))
        found += [Span(row.name[0], row.name[1], "test") for row in rows.rows(body)]
        for part in parts:
            if part.role == "medications":
                matches = _LISTED_MEDICINE.finditer(body, part.start, part.end)
                found += [Span(*match.span("name"), "medication") for match in matches]
        return found


_DETECTORS: tuple[Detector, ...] = (TermDetector(), PatternDetector())
"""In order of trust: where two spans of the same length overlap, the earlier detector's stays."""


def detect(text: str) -> list[Span]:
    """The findings of a page's text, from top to bottom, without overlaps."""
    parts = sections(text)
    spans = union(detector.find(text, parts) for detector in _DETECTORS)
    edges = sentences(text)
    return [_in_context(span, text, parts, edges) for span in spans]


def union(found: Iterable[Sequence[Span]]) -> list[Span]:
    """All spans without overlaps: known terms before mere forms, longer before shorter inside each."""
    taken: list[Span] = []
    covered: set[int] = set()
    for spans in found:
        for span in sorted(spans, key=lambda span: (span.start - span.end, span.start)):
            stretch = range(span.start, span.end)
            if not covered.isdisjoint(stretch):
                continue
            covered.update(stretch)
            taken.append(span)
    return sorted(taken, key=lambda span: span.start)


def _in_context(span: Span, text: str, parts: Sequence[Section], edges: Sequence[tuple[int, int]]) -> Span:
    role = at(parts, span.start).role
    label = span.label
    if (
        label == "test"
        and _DOSE_FOLLOWS.match(text, span.end)
        and (role == "medications" or not rows.is_row(text, span.end))
    ):
        label = "medication"
    if label == "disease" and _VACCINE_FOLLOWS.match(text, span.end):
        label = "procedure"
    if role == "allergies" and label in ("medication", "symptom", "disease"):
        label = "allergy"
    if label == "medication" and _ALLERGY_BEFORE.search(text, max(0, span.start - 60), span.start):
        label = "allergy"
    if label in _FAMILY and (role == "family" or relative_speaks(text, span.start, span.end, edges)):
        label = "family_history"
    return replace(span, label=label)


def _without_headings(text: str, parts: Sequence[Section]) -> str:
    """The text with headings blanked, offsets kept."""
    characters = list(text)
    for part in parts:
        start, end = part.heading
        characters[start:end] = "\x00" * (end - start)
    return "".join(characters)


@cache
def _patterns() -> list[tuple[str, re.Pattern[str], frozenset[str]]]:
    return [
        (rule["label"], re.compile(rule["match"], re.I), frozenset(rule.get("except", ())))
        for rule in rules("patterns")["pattern"]
    ]
