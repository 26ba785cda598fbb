"""A page image made even, straight and upright, each only where it is needed, and read."""

import time
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from shared.contract.pages import Box, Correction

from .crisp import crisp
from .gaps import with_gaps_filled
from .grey import Grey, level, reduced
from .laboratory import with_known_names
from .light import flatten
from .noise import smooth
from .numbers import is_doubtful
from .overlaps import without_overlaps
from .page_text import Block, Line, ReadTable
from .prose import as_coarse_as_prose
from .recognise import LineReader, Recognised, Recogniser
from .second_look import with_second_look
from .slant import measure_slant
from .tables import read_tables

cv2.setNumThreads(1)  # one page, one core

_MIN_SKEW_DEGREES = 0.2
"""Below it Tesseract follows the line itself, and turning only softens the letters."""
_SURE = 0.75
"""Mean confidence of upright text is 0.85 to 0.95, of upside-down text 0.2 to 0.5."""
_WHITE = 255
_FINE_DPI = 250
_MARGIN_INCHES = 0.15
"""White that is left around a page's print. Tesseract looks at every pixel, a fifth of its time."""


class Upright(NamedTuple):
    """The corrected page and what was read on it: boxes refer to ``grey``. Timings in seconds."""

    grey: Grey
    recognised: Recognised
    tables: list[ReadTable]
    corrections: tuple[Correction, ...]
    timings: dict[str, float]

    @property
    def blocks(self) -> list[Block | ReadTable]:
        """What was read in reading order, each table behind what stands above it."""
        blocks: list[Block | ReadTable] = list(self.recognised.blocks)
        for table in self.tables:
            middle = (table.box[1] + table.box[3]) / 2
            above = [place for place, block in enumerate(blocks) if _is_above(block, middle, table.box)]
            blocks.insert(above[-1] + 1 if above else 0, table)
        return blocks

    @property
    def confidence(self) -> float:
        """The mean over characters, 0 to 1; 0 where nothing was read."""
        return self._all.confidence

    @property
    def weight(self) -> float:
        return self._all.weight

    @property
    def _all(self) -> Recognised:
        return Recognised([*self.recognised.blocks, *(list[Line](table.lines) for table in self.tables)])


def _is_above(block: Block | ReadTable, y: float, box: Box) -> bool:
    """Whether the block ends above ``y`` and stands in the box's column."""
    boxes = [block.box] if isinstance(block, ReadTable) else [word.box for line in block for word in line]
    is_beside = all(x1 < box[0] or x0 > box[2] for x0, _, x1, _ in boxes)
    return bool(boxes) and not is_beside and max(b[3] for b in boxes) < y


def has_ink(page: Grey, dpi: int) -> bool:
    """Whether anything is on the page: a full stop of 12 point text is enough, the noise of an empty scan isn't."""
    factor = max(1, round(dpi / 75))
    small = reduced(page, factor)
    # Averaging 4 x 4 pixels leaves a sensor noise of 18 levels at 4.5: 40 is nine times that.
    paper = level(small, 0.5)
    return bool(np.count_nonzero((small > paper + 40) | (small < paper - 40)) >= 2)


def read_upright(page: Grey, dpi: int, recogniser: Recogniser) -> Upright:
    """The page corrected and read. Orientation is asked for (0.8 s) only where lines run sideways or little is sure."""
    began = time.perf_counter()
    corrections: list[Correction] = []
    steps: tuple[tuple[Correction, Callable[[Grey, int], Grey | None]], ...] = (("shading", flatten), ("noise", smooth))
    for name, correct in steps:
        better = correct(page, dpi)
        if better is not None:
            page = better
            corrections.append(name)
    timings = {"correct": time.perf_counter() - began}
    reading = _Reading(dpi, recogniser, timings)
    slant = measure_slant(page, dpi)
    was_sideways = slant.sideways
    first = None if was_sideways else reading.straight(page, slant.degrees, corrections)
    # A table's columns can look like lines; Tesseract reads sideways words too, but leaves them sideways.
    if first is None or first.recognised.runs_down:
        was_sideways = True
        turn = recogniser.clockwise_turn(Image.fromarray(page), dpi)
        page = _turned(page, turn if turn in (90, 270) else 90)
        corrections.append("rotation")
        first = reading.straight(page, measure_slant(page, dpi).degrees, corrections)
    if first.confidence >= _SURE:
        return first
    # Sideways is settled by the lines themselves: what is left to be wrong is up and down.
    turn = 180 if was_sideways else recogniser.clockwise_turn(Image.fromarray(first.grey), dpi)
    if not turn:
        return first
    second = reading.read(_turned(first.grey, turn), tuple(dict.fromkeys((*first.corrections, "rotation"))))
    return max(first, second, key=lambda upright: upright.weight)


class _Reading:
    """How a page is read once it lies as it should; keeps the time."""

    def __init__(self, dpi: int, recogniser: Recogniser, timings: dict[str, float]) -> None:
        self._dpi = dpi
        self._recogniser = recogniser
        self._timings = timings

    def straight(self, page: Grey, degrees: float, corrections: list[Correction]) -> Upright:
        if abs(degrees) < _MIN_SKEW_DEGREES:
            return self.read(page, tuple(corrections))
        # Straight lines between pixels will do where letters have many of them: 30 ms instead of 80.
        is_fine = self._dpi >= _FINE_DPI and not corrections
        straight = _straightened(page, degrees, cv2.INTER_LINEAR if is_fine else cv2.INTER_CUBIC)
        return self.read(straight, (*corrections, "skew"))

    def read(self, page: Grey, corrections: tuple[Correction, ...]) -> Upright:
        began = time.perf_counter()
        tables: list[ReadTable] = []
        rest = page
        if isinstance(self._recogniser, LineReader):
            tables = read_tables(page, self._dpi, self._recogniser)
            if tables:
                rest = _without(page, tables)
        read_tables_at = time.perf_counter()
        recognised = _with_doubts(self._whole(rest, is_plain=not {"shading", "noise"} & set(corrections)))
        self._timings["tables"] = self._timings.get("tables", 0.0) + read_tables_at - began
        self._timings["recognise"] = self._timings.get("recognise", 0.0) + time.perf_counter() - read_tables_at
        return Upright(page, recognised, tables, corrections, self._timings)

    def _whole(self, page: Grey, *, is_plain: bool) -> Recognised:
        """The page's words, and those that page segmentation passed over."""
        left, top, right, bottom = _printed(page, self._dpi)
        printed = page[top:bottom, left:right]
        if not isinstance(self._recogniser, LineReader):
            return self._recogniser.read(Image.fromarray(printed), self._dpi).moved(left, top)
        coarse = as_coarse_as_prose(printed, self._dpi)
        if coarse is not None:
            read = self._recogniser.read(Image.fromarray(coarse.grey), round(self._dpi / coarse.down))
            read = read.enlarged(coarse.across, coarse.down)
        else:
            # Of what had to be evened first, the greys are worth keeping.
            sharp = crisp(printed, self._dpi) if is_plain else printed
            read = self._recogniser.read(Image.fromarray(sharp), self._dpi)
        read = read.moved(left, top)
        if read.runs_down:
            return read
        if coarse is not None:
            read = without_overlaps(read, page)
        read = with_second_look(read, page, self._recogniser)
        return with_gaps_filled(read, page, self._dpi, self._recogniser)


def _printed(page: Grey, dpi: int) -> tuple[int, int, int, int]:
    """The part of the page that has anything on it, and a margin."""
    factor = max(1, round(dpi / 75))
    height, width = page.shape
    small = reduced(page, factor)
    ink = small < level(small, 0.9) - 25
    ys, xs = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not ys.size:
        return 0, 0, width, height
    margin = round(_MARGIN_INCHES * dpi)
    left, top = max(0, int(xs[0]) * factor - margin), max(0, int(ys[0]) * factor - margin)
    return left, top, min(width, (int(xs[-1]) + 1) * factor + margin), min(height, (int(ys[-1]) + 1) * factor + margin)


def _with_doubts(recognised: Recognised) -> Recognised:
    def line(words: Line) -> Line:
        return [word._replace(uncertain=is_doubtful(word)) for word in with_known_names(words)]

    return Recognised([[line(words) for words in block] for block in recognised.blocks])


def _without(page: Grey, tables: list[ReadTable]) -> Grey:
    """The page without its tables, which Tesseract would read once more, and badly."""
    rest = page.copy()
    paper = level(page[::8, ::8], 0.8)
    for table in tables:
        x0, y0, x1, y1 = (round(edge) for edge in table.box)
        rest[max(0, y0 - 4) : y1 + 5, max(0, x0 - 4) : x1 + 5] = paper
    return rest


def _straightened(page: Grey, degrees: float, interpolation: int) -> Grey:
    """Turned counter-clockwise, and larger, or the corners' words would fall off the page."""
    height, width = page.shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    cosine, sine = abs(turn[0, 0]), abs(turn[0, 1])
    wide, high = int(np.ceil(width * cosine + height * sine)), int(np.ceil(height * cosine + width * sine))
    turn[:, 2] += ((wide - width) / 2, (high - height) / 2)
    straight = cv2.warpAffine(page, turn, (wide, high), flags=interpolation, borderValue=(_WHITE,))
    return np.asarray(straight, dtype=np.uint8)


def _turned(page: Grey, clockwise: int) -> Grey:
    """Undoes a clockwise turn by a multiple of 90 degrees."""
    return np.ascontiguousarray(np.rot90(page, clockwise // 90))
