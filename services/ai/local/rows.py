"""Rows of lab tables: ``Haemoglobin 10.2 g/dL 12.0 - 15.5 L``, columns parted by spaces, with or without a flag."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

from services.ai import dates
from services.ai.units import known_units

from . import tables
from .sections import columns, one_of, rules

Stretch = tuple[int, int]
_BOUND = r"(?:over|under|above|below|less than|more than|greater than|up to)"
NUMBER = rf"(?:[<>≤≥]\s?|{_BOUND}\s)?\d+(?:[.,]\d+)*"
RANGE = rf"(?:\d+(?:[.,]\d+)?\s*(?:-|–|to)\s*\d+(?:[.,]\d+)?|(?:[<>≤≥]\s?|(?i:{_BOUND})\s)\d+(?:[.,]\d+)?)"
_RESULTS = (
    "negative", "positive", "neg", "pos", "not detected", "detected", "reactive", "non-reactive", "normal", "abnormal",
    "trace", "nil", "not seen", "none seen", "indeterminate", "equivocal", "borderline", "immune", "not immune",
)  # fmt: skip
_LEADERS = "..."
"""Dots that lead from a name to its result: what they stand in is a row, whatever the result."""
_LINE = re.compile(r"[^\n\x00]+(?=\n|$)")
_SHORTEST, _LONGEST = 4, 160
"""Characters of a line that may be a row."""
_TEXTS_KEPT = 16
"""Pass 1 looks for rows, pass 2 for their cells."""
_ANY_RATIO = r"[A-Za-zµμ%]{1,8}/[A-Za-zµμ][A-Za-zµμ0-9.]{0,8}(?<!\.)"
"""A unit that we have no code for: it is printed, so it is kept as printed."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row's cells as offsets in the text. ``value`` is the last of several: their columns are dates."""

    name: Stretch
    value: Stretch
    unit: Stretch | None
    range: Stretch | None
    flag: Stretch | None
    day: Stretch | None = None
    """The date above the value, where each column is a day's."""


@cache
def unit_pattern() -> str:
    """A regular expression for any unit we have a UCUM code for, longest first."""
    alternatives = []
    for unit in sorted(known_units(), key=len, reverse=True):
        pattern = re.escape(unit).replace(r"\^", r"\s?[\^*e]?\s?").replace("u", "[uµμ]").replace("x", "[x×]\\s?")
        pattern = pattern.replace("/", r"\s?/\s?").replace("m2", "m[2²]").replace("9", "[9⁹]")
        pattern = pattern.replace("mmhg", r"mm\s?hg")
        pattern = re.sub(r"^per|(?<=\w)per(?=minute)", r"\\s?per\\s?", pattern)
        alternatives.append(pattern)
    return rf"(?:{'|'.join(alternatives)})(?![A-Za-z0-9])"


@cache
def _row() -> re.Pattern[str]:
    flags = one_of(rules("attributes")["flags"])
    words = one_of(_RESULTS)
    flag = rf"[(*]*(?P<{{}}>{flags})[)*]*"
    return re.compile(
        rf"^[ \t|*•-]*(?P<name>[A-Za-z0-9][A-Za-z0-9 ,()/%.'-]{{1,45}}?)(?P<leads>[ \t:|.]+)"
        rf"(?:[(\[](?P<first>{RANGE})[)\]][ \t|]+)?"
        rf"(?:(?P<before>{NUMBER})[ \t|]+){{0,4}}(?P<value>[1-4]\+|{NUMBER}(?![.,]?\d)|(?i:{words}))"
        rf"(?:[ \t|]*(?<=[\s|\d]){flag.format('early')}(?=[ \t|]))?"
        rf"(?:[ \t|]*(?P<unit>(?i:{unit_pattern()})|{_ANY_RATIO}))?"
        rf"(?:[ \t|]*[(\[]?(?:(?i:ref(?:erence)?|normal)[ .:]*(?:(?i:range)[ :]*)?)?(?P<range>{RANGE})[)\]]?)?"
        # A unit after the range only where none stood before it: "12.0 - 15.5 L" ends in a flag, not in litres.
        rf"(?(unit)|(?:[ \t|]*(?P<unit2>(?i:{unit_pattern()})|{_ANY_RATIO}))?)"
        rf"(?:[ \t|]+{flag.format('flag')})?[ \t|]*\.?$",
        re.M,
    )


@lru_cache(maxsize=_TEXTS_KEPT)
def rows(text: str) -> tuple[Row, ...]:
    """Lines that are rows: a name and a value, and a unit or a range that shows it to be a result."""
    tabled = {row.name[0]: row for row in _tabled(text)}
    others = [row for row in _rows(text) if row.name[0] not in tabled]
    return tuple(sorted([*tabled.values(), *others], key=lambda row: row.name))


def _tabled(text: str) -> Iterator[Row]:
    """Rows under column names, whatever the order of the columns."""
    for cells in tables.cells(text):
        value = _value().fullmatch(text, *cells.value)
        name = text[slice(*cells.name)]
        if value is None or not _NAME.fullmatch(name):
            continue
        yield Row(
            cells.name,
            cells.value,
            cells.unit if cells.unit and _unit().fullmatch(text, *cells.unit) else None,
            _inside(text, cells.range, _RANGE),
            _inside(text, cells.flag, _flag()),
            cells.day,
        )


def _inside(text: str, cell: Stretch | None, wanted: re.Pattern[str]) -> Stretch | None:
    """What a cell holds, without brackets or stars around it."""
    match = wanted.fullmatch(text, *cell) if cell else None
    return match.span(1) if match else None


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ,()/%.'’*-]{0,45}")
_RANGE = re.compile(rf"[(\[]?({RANGE}|(?i:negative|normal|not detected|non-reactive|nil))[)\]]?")


@cache
def _value() -> re.Pattern[str]:
    return re.compile(rf"{NUMBER}|[1-4]?\+{{1,4}}|\d{{1,4}}\s?[:/]\s?\d{{1,4}}|(?i:{one_of(_RESULTS)})")


@cache
def _unit() -> re.Pattern[str]:
    return re.compile(rf"(?i:{unit_pattern()})|{_ANY_RATIO}|[A-Za-zµμ%][^\s|]{{0,15}}")


@cache
def _flag() -> re.Pattern[str]:
    return re.compile(rf"[(*]*({one_of(rules('attributes')['flags'])})[)*]*")


def _rows(text: str) -> Iterator[Row]:
    for line in _LINE.finditer(text):
        if not _SHORTEST <= len(line.group()) <= _LONGEST:
            continue
        match = _row().fullmatch(line.group())
        if match is None or not _tells_result(match) or _holds_result(match["name"]):
            continue
        shift = line.start()

        def cell(*names: str, match: re.Match[str] = match, shift: int = shift) -> Stretch | None:
            name = next((name for name in names if match[name]), None)
            return None if name is None else (match.start(name) + shift, match.end(name) + shift)

        name, value, bounds = cell("name"), cell("value"), cell("range", "first")
        if match["before"] and bounds is None and match["value"][0] in "<>≤≥" and not _dated(text, shift):
            value, bounds = cell("before"), value  # "AFP  5.2  < 10  kU/L"
        if name and value and not re.match(r"\s*(?:date|dob|age|page|tel|phone|mrn|nhs)\b", match["name"], re.I):
            yield Row(name, value, cell("unit", "unit2"), bounds, cell("flag", "early"))


def _tells_result(match: re.Match[str]) -> bool:
    """Whether a line is a result: by a unit, a range, or the dots that lead to it."""
    if match["name"].isdecimal():
        return False
    return any(match[name] for name in ("unit", "unit2", "range", "first")) or _LEADERS in match["leads"]


def _dated(text: str, position: int) -> bool:
    """Whether the columns above a row are days: each number is a result."""
    header = columns(text, position)
    return header is not None and len(dates.find(text[slice(*header)])) > 1


@cache
def _dosing() -> re.Pattern[str]:
    content = rules("attributes")
    words = one_of([*content["routes"], *content["frequencies"], "mdi"])
    return re.compile(rf"(?:(?:{words})[\s,.]*)+", re.I)


def is_dosing(words: str) -> bool:
    """Whether words say nothing but how and how often: "PO OD"."""
    return _dosing().fullmatch(words) is not None


def _holds_result(name: str) -> bool:
    """Whether what looks like a name is a result itself: "CRP 28 mg/L (0 - 5). ESR 41 mm/h" is prose, not ESR's row."""
    return re.search(rf"[.;]\s|\d\s*,\s|(?<![\w.]){NUMBER}\s*(?:{unit_pattern()}|{_ANY_RATIO})", name) is not None


def is_row(text: str, position: int) -> bool:
    """Whether the line that holds ``position`` is a row with a range: "Iron 12 umol/L 10 - 30", not "Iron 200 mg"."""
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    return any(row.range for row in _rows(text[start : end if end >= 0 else len(text)]))
