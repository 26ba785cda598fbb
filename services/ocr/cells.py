"""The lines of text in a table's cells, cut out and cleaned of rules, shades and specks, ready to be recognised."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.contract.pages import Box

from .grey import Grey
from .rules import Grid, GridCell, Rule

PAPER = 245
"""Grey of the paper between the letters of a cut."""
_INK = 70
"""Levels below the paper from which a pixel is ink: a full stop out of focus has half the contrast of a letter."""


_MANY_ROWS, _GAP_OF_MANY, _GAP_OF_FEW = 8, 0.5, 0.85
"""Heights of a capital: a space between words is 0.4, and in many rows few of them lie below each other."""
_GAP_BESIDE_DASHES = 3.0
"""The same beside the dashes of ranges, which a typewriter sets far from the numbers."""
_DASH_SHAPE = 1.5
"""Width by height, from which a low piece of ink is a dash."""


class Mark(NamedTuple):
    """A connected piece of ink: a letter, a digit, a point."""

    left: int
    top: int
    right: int
    bottom: int
    area: int

    @property
    def height(self) -> int:
        return self.bottom - self.top


class CellLine(NamedTuple):
    """A line of text in a cell: ``cell`` is its place in the table's cells, ``baseline`` a row of the page's pixels."""

    cell: int
    marks: tuple[Mark, ...]
    box: tuple[int, int, int, int]
    baseline: int


class TableInk(NamedTuple):
    """A table without its rules. ``grey`` covers the page from ``origin``; boxes and baselines are the page's."""

    box: Box
    grey: Grey
    origin: tuple[int, int]
    cells: tuple[GridCell, ...]
    lines: tuple[CellLine, ...]
    letter_height: float
    """Of capitals and digits, in pixels."""


def is_hollow(ink: TableInk, mark: Mark) -> bool:
    """Whether it is light in its middle and lower: a caret is, an asterisk isn't."""
    piece = ink.grey[mark.top : mark.bottom, mark.left : mark.right].astype(np.int16)
    height, width = piece.shape
    heart = piece[height // 2 :, round(0.4 * width) : max(round(0.6 * width), round(0.4 * width) + 1)]
    return bool(heart.size) and float(np.mean(heart)) > (int(piece.min()) + PAPER) / 2


def cut_tables(page: Grey, dpi: int, grid: Grid) -> list[TableInk]:
    """What stands in the cells of the tables between the grid's rules, from top to bottom.

    Columns that no rule parts are told by the white between them, and so are tables of one width below each other.
    """
    ink = _cut_cells(page, dpi, grid)
    if any(rule.thickness > 0.0 for rule in grid.down):
        return [ink]
    runs = _runs({ink.cells[line.cell].row for line in ink.lines})
    # A single row between blank ones is no table: then they are the table's own.
    if len(runs) == 1 or any(end - first < 2 for first, end in runs):
        return [ink]
    return [_cut_cells(page, dpi, grid.rows(first, end)) for first, end in runs]


def _runs(rows: Iterable[int]) -> list[tuple[int, int]]:
    """Rows that follow each other, as first and end."""
    runs: list[tuple[int, int]] = []
    for row in sorted(rows):
        if runs and runs[-1][1] == row:
            runs[-1] = (runs[-1][0], row + 1)
        else:
            runs.append((row, row + 1))
    return runs


def _cut_cells(page: Grey, dpi: int, grid: Grid) -> TableInk:
    left, top = (max(0, int(edge) - 4) for edge in grid.box[:2])
    right, bottom = int(grid.box[2]) + 5, int(grid.box[3]) + 5
    region = page[top:bottom, left:right].copy()
    _erase((*grid.across,), region, dpi, (left, top), is_across=True)
    _erase((*grid.down,), region, dpi, (left, top), is_across=False)
    owner = np.full(region.shape, -1, dtype=np.int16)
    for place, cell in enumerate(grid.cells):
        x0, y0, x1, y1 = _inside(cell.box, (left, top), region.shape)
        inner = region[y0:y1, x0:x1]
        if inner.size:
            paper = float(np.percentile(inner, 80))
            region[y0:y1, x0:x1] = cv2.convertScaleAbs(inner, alpha=PAPER / max(paper, 1))
            owner[y0:y1, x0:x1] = place
    ink = (region < PAPER - _INK).astype(np.uint8)
    ink[owner < 0] = 0
    found = _marks(ink, owner, dpi)
    heights = [mark.height for marks in found.values() for mark in marks if mark.height > 0.04 * dpi]
    letter_height = float(np.percentile(heights, 70)) if heights else 0.1 * dpi
    # All that is no ink is paper: specks and the grain would be read as points.
    near = cv2.dilate(ink, np.ones((7, 7), np.uint8))
    region[near == 0] = PAPER
    shift = (left, top)
    cells, per_cell = _with_columns(grid, found, letter_height, shift)
    lines = _lines(cells, per_cell, grid, letter_height, shift)
    return TableInk(grid.box, region, shift, cells, tuple(lines), letter_height)


def _erase(rules: Iterable[Rule], region: Grey, dpi: int, origin: tuple[int, int], *, is_across: bool) -> None:
    mask = np.zeros_like(region)
    thickest = 0
    for rule in rules:
        if rule.thickness == 0.0:
            continue
        width = round(rule.thickness) + max(3, round(0.015 * dpi))
        thickest = max(thickest, width)
        for first, last in rule.spans:
            ends = [(along, rule.at(along)) for along in (first, last)]
            points = [
                (round(x) - origin[0], round(y) - origin[1])
                for x, y in (ends if is_across else [e[::-1] for e in ends])
            ]
            cv2.line(mask, points[0], points[1], (255,), width)
    if thickest:
        size = thickest + 6
        paper = cv2.dilate(region, np.ones((size, 1) if is_across else (1, size), np.uint8))
        np.copyto(region, paper, where=mask > 0)


def _inside(box: Box, origin: tuple[int, int], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    x0, x1 = (int(min(max(round(x) - origin[0], 0), shape[1])) for x in (box[0], box[2]))
    y0, y1 = (int(min(max(round(y) - origin[1], 0), shape[0])) for y in (box[1], box[3]))
    return x0, y0, x1, y1


def _marks(ink: Grey, owner: NDArray[np.int16], dpi: int) -> dict[int, list[Mark]]:
    """Pieces of ink by cell. Too small ones are grain; long thin ones what is left of a rule."""
    count, _, stats, centres = cv2.connectedComponentsWithStats(ink)
    found: dict[int, list[Mark]] = {}
    smallest = max(3, 6 * (dpi / 300) ** 2)
    for label in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[label])
        is_rest_of_rule = (width > 0.3 * dpi and height < 0.03 * dpi) or (height > 0.2 * dpi and width < 0.02 * dpi)
        if area < smallest or is_rest_of_rule:
            continue
        cell = int(owner[int(centres[label][1]), int(centres[label][0])])
        if cell >= 0:
            found.setdefault(cell, []).append(Mark(left, top, left + width, top + height, area))
    return found


def _with_columns(
    grid: Grid, found: dict[int, list[Mark]], letter_height: float, origin: tuple[int, int]
) -> tuple[tuple[GridCell, ...], dict[int, list[Mark]]]:
    """The grid's cells; where no rule parts its columns, parted where white runs through all rows."""
    if grid.has_columns or not found:
        return grid.cells, found
    # Measured along each row's own rule: a photo's perspective leans the columns, and would close the gaps.
    level = _Levelled(grid, origin)
    rows = [
        [(level.along(mark.left, mark.top), level.along(mark.right, mark.top), mark.height) for mark in marks]
        for marks in found.values()
    ]
    edges = _column_edges(rows, letter_height)
    cells: list[GridCell] = []
    parted: dict[int, list[Mark]] = {}
    for place, cell in enumerate(grid.cells):
        _, top, _, bottom = cell.box
        bounds = [cell.box[0], *(level.across(edge, (top + bottom) / 2) for edge in edges), cell.box[2]]
        for col, (left, right) in enumerate(pairwise(bounds)):
            inside = [m for m in found.get(place, []) if left <= (m.left + m.right) / 2 + origin[0] < right]
            if inside:
                parted[len(cells)] = inside
            cells.append(GridCell(cell.row, col, (left, top, right, bottom)))
    return tuple(cells), parted


class _Levelled:
    """Places along the rows of a table that perspective has bent into a trapezium."""

    def __init__(self, grid: Grid, origin: tuple[int, int]) -> None:
        ys = [(rule.at(rule.start) + rule.at(rule.end)) / 2 for rule in grid.across]
        self._start = np.polyfit(ys, [rule.start for rule in grid.across], 1)
        self._end = np.polyfit(ys, [rule.end for rule in grid.across], 1)
        self._width = float(np.median([rule.end - rule.start for rule in grid.across]))
        self._origin = origin

    def along(self, x: float, y: float) -> float:
        """Of a mark's pixel, how far it is from the row's beginning, in rows of one width."""
        page_y = y + self._origin[1]
        start, end = np.polyval(self._start, page_y), np.polyval(self._end, page_y)
        return float((x + self._origin[0] - start) / (end - start) * self._width)

    def across(self, along: float, page_y: float) -> float:
        """And back: x on the page."""
        start, end = np.polyval(self._start, page_y), np.polyval(self._end, page_y)
        return float(start + along / self._width * (end - start))


def _column_edges(rows: list[list[tuple[float, float, int]]], letter_height: float) -> list[float]:
    """The middles of the gaps that run through all rows of marks (left, right, height)."""
    right = max(mark[1] for row in rows for mark in row)
    inked = np.zeros((len(rows), int(right) + 2), dtype=bool)
    for number, row in enumerate(rows):
        for left, end, _ in row:
            inked[number, max(0, int(left)) : max(0, int(end)) + 1] = True
    # A heading over several columns, or two among very many rows, doesn't close a gap.
    used = inked.sum(axis=0) > 0.05 * len(rows)
    changes = np.flatnonzero(np.diff(used.astype(np.int8), prepend=0, append=0))
    stretches = list(zip(changes[::2].tolist(), changes[1::2].tolist(), strict=True))
    # The dashes of aligned ranges are no column of their own.
    dashes = [
        _are_dashes([mark for row in rows for mark in row if first <= (mark[0] + mark[1]) / 2 < last], letter_height)
        for first, last in stretches
    ]
    narrowest = (_GAP_OF_MANY if len(rows) >= _MANY_ROWS else _GAP_OF_FEW) * letter_height
    return [
        (end + start) / 2
        for ((_, end), before), ((start, _), after) in pairwise(zip(stretches, dashes, strict=True))
        if start - end > (_GAP_BESIDE_DASHES * letter_height if before or after else narrowest)
    ]


def _are_dashes(marks: list[tuple[float, float, int]], letter_height: float) -> bool:
    """Whether all are low and wide; commas, and the dots of an i, are as low."""
    return bool(marks) and all(
        height < 0.3 * letter_height and right - left > _DASH_SHAPE * height for left, right, height in marks
    )


def _lines(
    cells: Sequence[GridCell],
    found: dict[int, list[Mark]],
    grid: Grid,
    letter_height: float,
    origin: tuple[int, int],
) -> list[CellLine]:
    lines: list[tuple[int, int, list[Mark], float | None]] = []
    for place in range(len(cells)):
        for number, marks in enumerate(_split(found.get(place, []), letter_height)):
            tall = [mark.bottom for mark in marks if mark.height > 0.55 * letter_height]
            lines.append((place, number, marks, float(np.median(tall)) if tall else None))
    # How far below its rule a row's text stands, for lines of nothing but a dash.
    depths: dict[int, list[float]] = {}
    for place, number, marks, base in lines:
        if base is not None and number == 0:
            depths.setdefault(cells[place].row, []).append(base - _above(grid, cells[place], marks, origin))
    result = []
    for place, _, marks, base in lines:
        row = depths.get(cells[place].row)
        baseline = base
        if baseline is None:
            below = _above(grid, cells[place], marks, origin) + float(np.median(row)) if row else 0.0
            baseline = max(below, *(mark.bottom for mark in marks))
        box = (
            min(mark.left for mark in marks) + origin[0],
            min(mark.top for mark in marks) + origin[1],
            max(mark.right for mark in marks) + origin[0],
            max(mark.bottom for mark in marks) + origin[1],
        )
        result.append(CellLine(place, tuple(marks), box, round(baseline) + origin[1]))
    return result


def _above(grid: Grid, cell: GridCell, marks: Sequence[Mark], origin: tuple[int, int]) -> float:
    return grid.across[cell.row].at((marks[0].left + marks[-1].right) / 2 + origin[0]) - origin[1]


def _split(marks: list[Mark], letter_height: float) -> list[list[Mark]]:
    """Marks by lines of text, from top to bottom; a point or an accent belongs to the line next to it."""
    groups: list[list[Mark]] = []
    bottom = 0
    for mark in sorted(marks, key=lambda mark: mark.top):
        if groups and mark.top < bottom:
            groups[-1].append(mark)
            bottom = max(bottom, mark.bottom)
        else:
            groups.append([mark])
            bottom = mark.bottom
    lines: list[list[Mark]] = []
    for group in groups:
        height = max(mark.bottom for mark in group) - min(mark.top for mark in group)
        if lines and (height < 0.45 * letter_height or _height(lines[-1]) < 0.45 * letter_height):
            gap = min(mark.top for mark in group) - max(mark.bottom for mark in lines[-1])
            if gap < 0.6 * letter_height:
                lines[-1] += group
                continue
        lines.append(group)
    return [sorted(line, key=lambda mark: mark.left) for line in lines]


def _height(marks: Sequence[Mark]) -> int:
    return max(mark.bottom for mark in marks) - min(mark.top for mark in marks)
