"""Lab tables under a line of column names: each cell by the column that it stands in, in whatever order they are."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Literal

from services.ai import dates

Stretch = tuple[int, int]
Kind = Literal["name", "value", "unit", "range", "flag", "day"]

_NAMES: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    (
        "range",
        re.compile(r"(?:ref\b\.?|reference|normal|expected|target|biological).*|.*\b(?:range|interval|limits)", re.I),
    ),
    ("unit", re.compile(r"units?|uom", re.I)),
    ("flag", re.compile(r"flags?|status|abn(?:ormal)?\.?|h/l", re.I)),
    ("value", re.compile(r"(?:your |patient |current |latest )?(?:results?|values?)", re.I)),
    ("name", re.compile(r"(?:test|analyte|investigation|parameter|component|determination)s?(?: name)?|name", re.I)),
)
_CELL = re.compile(r"[^\s|]+(?:[ ][^\s|]+)*")
_TEXTS_KEPT = 16
_LEAST, _MOST = 3, 12
"""Columns of a table: with fewer, a line's own form tells as much."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column's name and where in its line it stands."""

    kind: Kind
    start: int
    end: int
    day: str | None = None
    """ISO, of a column that holds the results of one day."""


@dataclass(frozen=True, slots=True)
class Cells:
    """The cells of one line, as offsets in the text."""

    name: Stretch
    value: Stretch
    unit: Stretch | None
    range: Stretch | None
    flag: Stretch | None
    day: Stretch | None
    """The date that heads the value's column."""


def cells(text: str) -> Iterator[Cells]:
    """The lines below lines of column names. What a cell holds is for others to judge."""
    columns: list[Column] = []
    header, start = 0, 0
    for line in text.split("\n"):
        if named := _columns(line, text):
            columns, header = named, start
        elif columns:
            if not line.strip():
                columns = []
            elif row := _row(line, start, columns, header):
                yield row
        start += len(line) + 1


@lru_cache(maxsize=_TEXTS_KEPT)
def _calendar(text: str) -> dates.Calendar:
    return dates.calendar([text])


def _columns(line: str, text: str) -> list[Column]:
    """The columns that a line names, or none where it is no such line."""
    if len(named := list(islice(_CELL.finditer(line), _MOST + 1))) not in range(_LEAST, _MOST + 1):
        return []
    found = []
    for cell in named:
        kind = next((kind for kind, name in _NAMES if name.fullmatch(cell.group())), None)
        day = None
        if kind is None and cell.group()[0].isdigit() and dates.find(cell.group()) == [(0, len(cell.group()))]:
            kind, day = "day", dates.resolve(cell.group(), _calendar(text))
        if kind is not None:
            found.append(Column(kind, *cell.span(), day))
    kinds = [column.kind for column in found]
    told = ("value" in kinds or "day" in kinds) and ("unit" in kinds or "range" in kinds)
    return found if told and len(found) >= _LEAST and kinds.count("value") < 2 else []


def _row(line: str, start: int, columns: Sequence[Column], header: int) -> Cells | None:
    held: dict[int, Stretch] = {}
    found = [cell.span() for cell in _CELL.finditer(line)]
    if len(found) < 2:
        return None
    named = any(column.kind == "name" for column in columns)
    for cell in found if named else found[1:]:
        held.setdefault(_nearest(cell, columns), (start + cell[0], start + cell[1]))
    of = {column.kind: held.get(place) for place, column in enumerate(columns) if column.kind != "day"}
    value, day = of.get("value"), None
    for place, column in sorted(enumerate(columns), key=lambda one: one[1].day or "", reverse=True):
        if value is None and column.kind == "day" and place in held:
            value, day = held[place], (header + column.start, header + column.end)
    name = of.get("name") if named else (start + found[0][0], start + found[0][1])
    if value is None or name is None:
        return None
    return Cells(name, value, of.get("unit"), of.get("range"), of.get("flag"), day)


def _nearest(cell: Stretch, columns: Sequence[Column]) -> int:
    """The column that a cell stands in: aligned left, right or in the middle."""

    def apart(place: int) -> float:
        column = columns[place]
        start, end = abs(cell[0] - column.start), abs(cell[1] - column.end)
        return min(start, end, abs(cell[0] + cell[1] - column.start - column.end) / 2)

    return min(range(len(columns)), key=apart)
