"""Ruled tables read cell by cell. Read as a page, a fifth to four fifths of a table's numbers are lost."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from PIL import Image

from shared.contract.pages import Box

from .cells import PAPER, CellLine, TableInk, cut_tables
from .grey import Grey
from .laboratory import with_exponents, with_known_names
from .numbers import Verdict, has_digit, is_settled, oddly_spaced, settle
from .page_text import ReadCell, ReadTable, ReadWord
from .recognise import LineReader
from .rules import find_grids
from .spacing import spaced_as_printed

_FIRST_HEIGHT = 36.0
"""Pixels to which capitals are scaled. At 26 Tesseract reads noisy cells with twice the errors."""
_OTHER_HEIGHTS = (48.0, 26.0)
"""What is misread at one size is seldom misread alike at another."""
_ABOVE, _BELOW, _BESIDE = 1.35, 0.5, 0.15
"""How far a cut reaches from the baseline and from the ink, in heights of a capital."""
_MARGIN = 0.5


def read_tables(page: Grey, dpi: int, reader: LineReader) -> list[ReadTable]:
    """The ruled tables of an upright, evenly lit page, from top to bottom."""
    return [_read(ink, reader) for grid in find_grids(page, dpi) for ink in cut_tables(page, dpi, grid)]


def _read(ink: TableInk, reader: LineReader) -> ReadTable:
    first = _recognised(ink, ink.lines, _FIRST_HEIGHT, reader)
    numeric = _numeric_columns(ink, first)
    readings = [[words] for words in first]
    open_questions = [
        place
        for place, line in enumerate(ink.lines)
        if not is_settled(first[place], line.marks, is_numeric=ink.cells[line.cell].col in numeric)
    ]
    for height in _OTHER_HEIGHTS:
        found = _recognised(ink, [ink.lines[place] for place in open_questions], height, reader)
        for place, words in zip(open_questions, found, strict=True):
            readings[place].append(words)
    settled: list[Verdict] = []
    for line, raw in zip(ink.lines, readings, strict=True):
        said = [with_exponents(with_known_names(words), ink, line.marks) for words in raw]
        verdict = settle(said, line.marks, is_numeric=ink.cells[line.cell].col in numeric)
        settled.append(verdict._replace(words=spaced_as_printed(verdict.words, line, ink)))
    odd = _oddly_spaced(ink, settled)
    verdicts: dict[int, list[Verdict]] = {}
    for place, (line, verdict) in enumerate(zip(ink.lines, settled, strict=True)):
        is_uncertain = verdict.is_uncertain or place in odd
        verdicts.setdefault(line.cell, []).append(verdict._replace(is_uncertain=is_uncertain))
    return ReadTable(ink.box, tuple(_cell(ink, place, verdicts.get(place, [])) for place in range(len(ink.cells))))


def _oddly_spaced(ink: TableInk, verdicts: Sequence[Verdict]) -> set[int]:
    """Of all lines, those with a range that is not spaced as its column's."""
    columns: dict[int, list[int]] = {}
    for place, line in enumerate(ink.lines):
        columns.setdefault(ink.cells[line.cell].col, []).append(place)
    texts = [" ".join(word.text for word in verdict.words) for verdict in verdicts]
    return {places[odd] for places in columns.values() for odd in oddly_spaced([texts[place] for place in places])}


def _cell(ink: TableInk, place: int, verdicts: Sequence[Verdict]) -> ReadCell:
    cell = ink.cells[place]
    words = tuple(
        word._replace(uncertain=verdict.is_uncertain and has_digit(word.text))
        for verdict in verdicts
        for word in verdict.words
    )
    # Ink without words is something that could not be read.
    confidence = min((word.confidence for word in words), default=0.0 if verdicts else 1.0)
    return ReadCell(cell.row, cell.col, cell.box, words, confidence, any(v.is_uncertain for v in verdicts))


def _numeric_columns(ink: TableInk, readings: Iterable[Sequence[ReadWord]]) -> set[int]:
    """Columns in which most of the cells have digits."""
    numbers: dict[int, list[bool]] = {}
    for line, words in zip(ink.lines, readings, strict=True):
        numbers.setdefault(ink.cells[line.cell].col, []).append(any(has_digit(word.text) for word in words))
    return {col for col, found in numbers.items() if sum(found) > len(found) / 2}


def _recognised(ink: TableInk, lines: Sequence[CellLine], height: float, reader: LineReader) -> list[list[ReadWord]]:
    """The words of each line, read with its capitals ``height`` pixels high; boxes in pixels of the page."""
    scale = height / ink.letter_height
    margin = round(_MARGIN * ink.letter_height)
    read = []
    for line, words in zip(lines, reader.read_lines([_cut(ink, line, scale, margin) for line in lines]), strict=True):
        left, top = line.box[0] - _beside(ink) - margin, line.baseline - _above(ink) - margin
        read.append([word._replace(box=_on_page(word.box, scale, left, top)) for word in words])
    return read


def _cut(ink: TableInk, line: CellLine, scale: float, margin: int) -> Image.Image:
    """The line on white, its baseline where every cut has it."""
    above, below, beside = _above(ink), round(_BELOW * ink.letter_height), _beside(ink)
    left, right = line.box[0] - beside, line.box[2] + beside
    cut = np.full((above + below + 2 * margin, right - left + 2 * margin), PAPER, np.uint8)
    _, cell_top, _, cell_bottom = ink.cells[line.cell].box
    x0, x1 = max(left - ink.origin[0], 0), min(right - ink.origin[0], ink.grey.shape[1])
    y0 = max(line.baseline - above, round(cell_top), ink.origin[1]) - ink.origin[1]
    y1 = min(line.baseline + below, round(cell_bottom), ink.origin[1] + ink.grey.shape[0]) - ink.origin[1]
    at_x = margin + x0 + ink.origin[0] - left
    at_y = margin + y0 + ink.origin[1] - (line.baseline - above)
    cut[at_y : at_y + max(0, y1 - y0), at_x : at_x + x1 - x0] = ink.grey[y0 : max(y0, y1), x0:x1]
    return Image.fromarray(cv2.resize(cut, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC))


def _above(ink: TableInk) -> int:
    return round(_ABOVE * ink.letter_height)


def _beside(ink: TableInk) -> int:
    return round(_BESIDE * ink.letter_height)


def _on_page(box: Box, scale: float, left: int, top: int) -> Box:
    x0, y0, x1, y1 = box
    return (x0 / scale + left, y0 / scale + top, x1 / scale + left, y1 / scale + top)
