"""The ruled tables of an upright page: where their lines are, and the cells between."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median_high, median_low
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.contract.pages import Box

from .grey import Grey, reduced

_DPI = 150
"""Rules are looked for at this resolution: a hair line of 0.4 point is still a pixel wide."""
_MIN_CONTRAST = 18
_MAX_SLOPE = 0.06
_SHORTEST_ROW_RULE = 0.4
_SHORTEST_COLUMN_RULE = 0.2
"""Inches."""
_STRAY = 4.0
"""Pixels by which the ends of a rule may miss another, or a broken rule's parts each other's direction."""


class Rule(NamedTuple):
    """A line that runs along x (or y) in ``spans``; there it is at ``offset + slope * along``. Pixels."""

    offset: float
    slope: float
    spans: tuple[tuple[float, float], ...]
    thickness: float

    @property
    def start(self) -> float:
        return self.spans[0][0]

    @property
    def end(self) -> float:
        return self.spans[-1][1]

    def at(self, along: float) -> float:
        return self.offset + self.slope * along

    def covers(self, start: float, end: float) -> bool:
        """Whether it is drawn along most of the way."""
        drawn = sum(max(0.0, min(end, last) - max(start, first)) for first, last in self.spans)
        return drawn > 0.5 * (end - start)

    def within(self, start: float, end: float) -> "Rule | None":
        """What of it is drawn there."""
        spans = tuple((max(start, first), min(end, last)) for first, last in self.spans)
        spans = tuple((first, last) for first, last in spans if last > first)
        return self._replace(spans=spans) if spans else None

    def scaled(self, factor: float) -> "Rule":
        # A pixel's middle stays a pixel's middle.
        shift = (factor - 1) / 2
        spans = tuple((first * factor + shift, last * factor + shift) for first, last in self.spans)
        return Rule(self.offset * factor + shift - self.slope * shift, self.slope, spans, self.thickness * factor)


class GridCell(NamedTuple):
    """What is between rules; it begins in ``row`` and ``col``, counted from 0, and may span more of them."""

    row: int
    col: int
    box: Box


class Grid(NamedTuple):
    """A table's rules, those that are only thought included, and its cells by row and column."""

    box: Box
    across: tuple[Rule, ...]
    down: tuple[Rule, ...]
    cells: tuple[GridCell, ...]

    @property
    def has_columns(self) -> bool:
        """Whether rules part its columns; where none do, the white between them has to."""
        return len(self.down) > 2

    def rows(self, first: int, end: int) -> "Grid":
        """A table of its own, of the rows from ``first`` to before ``end``."""
        cells = tuple(cell._replace(row=cell.row - first) for cell in self.cells if first <= cell.row < end)
        left, _, right, _ = self.box
        top = min(self.across[first].at(x) for x in (left, right))
        bottom = max(self.across[end].at(x) for x in (left, right))
        return Grid((left, top, right, bottom), self.across[first : end + 1], self.down, cells)


def find_grids(grey: Grey, dpi: int) -> list[Grid]:
    """The ruled tables of an upright, evenly lit page, from top to bottom."""
    factor = max(1, round(dpi / _DPI))
    small = reduced(grey, factor)
    inch = dpi / factor
    across = _rules(small, inch, _SHORTEST_ROW_RULE, piece=0.25)
    if len(across) < 2:
        return []
    down = _rules(_as_grey(small.T.copy()), inch, _SHORTEST_COLUMN_RULE, piece=0.15)
    grids = [
        _grid(rows, columns, inch) for group in _groups(across, down, inch) for rows, columns in _parted(*group, inch)
    ]
    return sorted((_scaled(grid, factor) for grid in grids if grid is not None), key=lambda grid: grid.box[1])


def _rules(page: Grey, inch: float, shortest: float, *, piece: float) -> list[Rule]:
    """Lines from left to right, put together from pieces of that length, in inches, or more."""
    # Averaged along itself a little, which keeps a line that a sensor's noise would break.
    smeared = cv2.blur(page, (5, 1))
    paper = cv2.morphologyEx(smeared, cv2.MORPH_CLOSE, np.ones((7, 1), np.uint8))
    thin = cv2.subtract(paper, smeared)
    _, marks = cv2.threshold(thin, _MIN_CONTRAST, 1, cv2.THRESH_BINARY)
    marks = _as_grey(cv2.morphologyEx(marks, cv2.MORPH_OPEN, np.ones((1, round(piece * inch)), np.uint8)))
    pieces = []
    for xs, ys in _connected(marks):
        left, end = int(xs.min()), int(xs.max()) + 1
        width = end - left
        if width <= 0.5 * piece * inch or xs.size >= 0.04 * inch * width:
            continue
        slope, offset = np.polyfit(xs, ys, 1)
        found = Rule(float(offset), float(slope), ((left, end),), xs.size / width)
        if _is_drawn(found, page):
            pieces.append(found)
    return [
        rule
        for rule in _joined(pieces, inch)
        # Pieces far apart in one line are letters below each other, and would part the rows of a table without columns.
        if rule.end - rule.start >= shortest * inch and rule.covers(rule.start, rule.end)
    ]


def _connected(marks: Grey) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """The x and y of each connected piece's pixels."""
    if not cv2.hasNonZero(marks):
        return
    xs, ys = np.asarray(cv2.findNonZero(marks), dtype=np.int32).reshape(-1, 2).T
    # Few pixels are marked: to count them here takes a fifth of OpenCV's time for statistics of all.
    _, labels = cv2.connectedComponents(marks)
    piece_of = labels[ys, xs]
    order = np.argsort(piece_of, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(piece_of[order])) + 1):
        yield xs[places], ys[places]


def _is_drawn(piece: Rule, page: Grey) -> bool:
    """Whether it is dark all along and light on both sides: a row of letters' tops is neither."""
    xs = np.arange(int(piece.start), int(piece.end))
    ys = np.rint(piece.offset + piece.slope * xs).astype(int)
    reach = round(piece.thickness / 2) + 2
    if abs(piece.slope) > _MAX_SLOPE or ys.min() < reach + 1 or ys.max() >= page.shape[0] - reach - 1:
        return False
    on = np.min([page[ys + shift, xs] for shift in (-1, 0, 1)], axis=0).astype(np.int16)
    above, below = (np.max([page[ys + side * far, xs] for far in (reach, reach + 1)], axis=0) for side in (-1, 1))
    contrast = np.minimum(above, below) - on
    typical = float(np.median(contrast))
    return typical > _MIN_CONTRAST and float(np.mean(contrast > 0.4 * typical)) > 0.8


def _joined(pieces: list[Rule], inch: float) -> list[Rule]:
    """Parts of one broken line as one: each next part lies where the one before points."""
    rules: list[Rule] = []
    for piece in sorted(pieces, key=lambda rule: rule.start):
        middle = (piece.start + piece.end) / 2
        for place, rule in enumerate(rules):
            gap = piece.start - rule.end
            points_at = abs(rule.at(piece.start) - piece.at(piece.start)) < _STRAY
            if -0.1 * inch < gap < 0.75 * inch and points_at and abs(rule.at(middle) - piece.at(middle)) < 2 * _STRAY:
                rules[place] = _union(rule, piece)
                break
        else:
            rules.append(piece)
    return rules


def _union(rule: Rule, piece: Rule) -> Rule:
    ends = np.array([point for part in (rule, piece) for span in part.spans for point in span])
    owners = [part for part in (rule, piece) for span in part.spans for _ in span]
    weights = np.repeat([last - first for part in (rule, piece) for first, last in part.spans], 2) ** 0.5
    across = np.array([part.at(along) for part, along in zip(owners, ends, strict=True)])
    slope, offset = np.polyfit(ends, across, 1, w=weights)
    spans = (*rule.spans, *piece.spans)
    return Rule(float(offset), float(slope), spans, max(rule.thickness, piece.thickness))


def _groups(across: Sequence[Rule], down: Sequence[Rule], inch: float) -> Iterator[tuple[list[Rule], list[Rule]]]:
    """Rules that touch each other; and where none goes down, those of one width below each other."""
    waiting = list(across)
    while waiting:
        rows, columns = [waiting.pop(0)], list[Rule]()
        grown = True
        while grown:
            new_columns = [c for c in down if c not in columns and any(_touch(r, c, inch) for r in rows)]
            columns += new_columns
            new_rows = [r for r in waiting if any(_touch(r, c, inch) for c in columns)]
            # Compared with the nearest: a photo's perspective makes each a little wider than the one before.
            if not new_rows:
                new_rows = [r for r in waiting if any(_alike(r, other, inch) for other in rows)]
            waiting = [r for r in waiting if r not in new_rows]
            rows += new_rows
            grown = bool(new_columns or new_rows)
        yield rows, columns


def _parted(rows: list[Rule], columns: list[Rule], inch: float) -> Iterator[tuple[list[Rule], list[Rule]]]:
    """Tables below each other: between them no rule goes down."""
    middle = (min(rule.start for rule in rows) + max(rule.end for rule in rows)) / 2
    rows = sorted(rows, key=lambda rule: rule.at(middle))
    first = 0
    for place in range(1, len(rows) + 1):
        if place < len(rows):
            top, bottom = rows[place - 1].at(middle), rows[place].at(middle)
            if not columns or bottom - top < 0.06 * inch or any(column.covers(top, bottom) for column in columns):
                continue
        part = rows[first:place]
        # A slanting row ends above or below its middle; so do columns that stick out a little.
        top, bottom = part[0].at(middle) - 0.08 * inch, part[-1].at(middle) + 0.08 * inch
        if len(part) == len(rows):
            top, bottom = float("-inf"), float("inf")
        yield part, [inner for column in columns if (inner := column.within(top, bottom))]
        first = place


def _touch(row: Rule, column: Rule, inch: float) -> bool:
    stray = max(_STRAY, 0.04 * inch)
    x = column.at(row.at(row.start))
    y = row.at(x)
    return row.start - stray <= x <= row.end + stray and column.start - stray <= y <= column.end + stray


def _alike(one: Rule, other: Rule, inch: float) -> bool:
    near = abs(one.at(one.start) - other.at(other.start)) < 0.6 * inch
    return near and abs(one.start - other.start) < 0.08 * inch and abs(one.end - other.end) < 0.08 * inch


def _grid(rows: list[Rule], columns: list[Rule], inch: float) -> Grid | None:
    if len(rows) < 3 and (len(rows) < 2 or len(columns) < 3):
        return None
    left, right = min(rule.start for rule in rows), max(rule.end for rule in rows)
    middle = (left + right) / 2
    rows = _apart(sorted(rows, key=lambda rule: rule.at(middle)), middle, inch)
    top, bottom = rows[0].at(middle), rows[-1].at(middle)
    half = (top + bottom) / 2
    columns = _apart(sorted(columns, key=lambda rule: rule.at(half)), half, inch)
    columns = [column for column in columns if _goes_through_a_row(column, rows, inch)]
    rows, columns = _closed(rows, columns, left, right, inch)
    if len(rows) < 3 and len(columns) < 4:
        return None
    corners = [
        (columns[place].at(rows[at].at(middle)), rows[at].at(x))
        for place, x in ((0, left), (-1, right))
        for at in (0, -1)
    ]
    box = (
        min(x for x, _ in corners),
        min(y for _, y in corners),
        max(x for x, _ in corners),
        max(y for _, y in corners),
    )
    return Grid(box, tuple(rows), tuple(columns), tuple(_cells(rows, columns)))


def _goes_through_a_row(column: Rule, rows: list[Rule], inch: float) -> bool:
    """What is shorter is a letter beside a rule, or brackets below each other."""
    stray = 0.02 * inch
    ys = [row.at(column.at(row.at(column.offset))) for row in rows]
    return any(
        first < above + stray and last > below - stray for above, below in pairwise(ys) for first, last in column.spans
    )


def _apart(rules: list[Rule], along: float, inch: float) -> list[Rule]:
    """Double rules as one, and the parts of a line that others interrupt."""
    kept: list[Rule] = []
    for rule in rules:
        if kept and rule.at(along) - kept[-1].at(along) < 0.06 * inch:
            longer = max(kept[-1], rule, key=lambda r: sum(last - first for first, last in r.spans))
            spans = tuple(sorted((*kept[-1].spans, *rule.spans)))
            thickness = rule.at(along) - kept[-1].at(along) + max(rule.thickness, kept[-1].thickness)
            kept[-1] = Rule(longer.offset, longer.slope, spans, thickness)
        else:
            kept.append(rule)
    return kept


def _closed(
    rows: list[Rule], columns: list[Rule], left: float, right: float, inch: float
) -> tuple[list[Rule], list[Rule]]:
    """The outer rules that the table lacks: where the others end."""
    top, bottom = rows[0], rows[-1]
    middle = (left + right) / 2
    span = ((top.at(middle), bottom.at(middle)),)
    lean = columns[0].slope if columns else 0.0
    half = (span[0][0] + span[0][1]) / 2

    def upright(x: float) -> Rule:
        return Rule(x - lean * half, lean, span, 0.0)

    if not columns or columns[0].at(half) > left + 0.15 * inch:
        columns = [upright(left), *columns]
    if columns[-1].at(half) < right - 0.15 * inch:
        columns = [*columns, upright(right)]
    # Of most columns, not of one: a letter's stem above a rule looks like its beginning.
    drawn = [rule for rule in columns if rule.thickness] or columns
    first = median_high(rule.start for rule in drawn)
    last = median_low(rule.end for rule in drawn)
    if first < top.at(middle) - 0.12 * inch:
        rows = [Rule(first - top.slope * middle, top.slope, ((left, right),), 0.0), *rows]
    if last > bottom.at(middle) + 0.12 * inch:
        rows = [*rows, Rule(last - bottom.slope * middle, bottom.slope, ((left, right),), 0.0)]
    return rows, columns


def _cells(rows: list[Rule], columns: list[Rule]) -> Iterator[GridCell]:
    """Cells with those across which no rule goes joined to the first of them, row by row."""
    taken: set[tuple[int, int]] = set()
    for row in range(len(rows) - 1):
        for col in range(len(columns) - 1):
            if (row, col) in taken:
                continue
            last_col = col
            while last_col < len(columns) - 2 and not _parts(columns[last_col + 1], rows[row], rows[row + 1]):
                last_col += 1
            last_row = row
            while last_row < len(rows) - 2 and not _parts(rows[last_row + 1], columns[col], columns[last_col + 1]):
                last_row += 1
            taken |= {(r, c) for r in range(row, last_row + 1) for c in range(col, last_col + 1)}
            yield GridCell(row, col, _between(rows[row], rows[last_row + 1], columns[col], columns[last_col + 1]))


def _parts(rule: Rule, before: Rule, after: Rule) -> bool:
    """Whether ``rule`` is drawn between the two that cross it."""
    if rule.thickness == 0.0:
        return True
    start, end = (other.at(rule.at(other.offset)) for other in (before, after))
    return rule.covers(start, end)


def _between(above: Rule, below: Rule, before: Rule, after: Rule) -> Box:
    """The largest box that touches none of the four."""
    x0, x1 = before.at(above.at(before.offset)), after.at(above.at(after.offset))
    top = max(above.at(x0), above.at(x1)) + above.thickness / 2
    bottom = min(below.at(x0), below.at(x1)) - below.thickness / 2
    left = max(before.at(top), before.at(bottom)) + before.thickness / 2
    right = min(after.at(top), after.at(bottom)) - after.thickness / 2
    return (left, top, max(left, right), max(top, bottom))


def _scaled(grid: Grid, factor: int) -> Grid:
    def larger(box: Box) -> Box:
        x0, y0, x1, y1 = (float(edge * factor) for edge in box)
        return (x0, y0, x1, y1)

    return Grid(
        larger(grid.box),
        tuple(rule.scaled(factor) for rule in grid.across),
        tuple(rule.scaled(factor) for rule in grid.down),
        tuple(cell._replace(box=larger(cell.box)) for cell in grid.cells),
    )


def _as_grey(image: object) -> Grey:
    return np.asarray(image, dtype=np.uint8)
