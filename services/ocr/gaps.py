"""What page segmentation passed over, a narrow column of numbers for instance, read alone and put in its place."""

from collections.abc import Sequence
from statistics import median

from PIL import Image, ImageOps

from shared.contract.pages import Box

from .grey import Grey
from .letters import unread_spots
from .page_text import Line, ReadWord
from .recognise import LineReader, Recognised

_MOST = 150
"""Spots: half a second. A page with more is a drawing."""
_SURE = 0.7
_BORDER = 12


def with_gaps_filled(read: Recognised, page: Grey, dpi: int, reader: LineReader) -> Recognised:
    """The page's words and those that stand where none was read."""
    spots = unread_spots(page, dpi, (word.box for word in read.words()))
    if not spots or len(spots) > _MOST:
        return read
    blocks: list[list[Line]] = [list(block) for block in read.blocks]
    for spot, words in zip(spots, reader.read_lines([_cut(page, spot) for spot in spots]), strict=True):
        margin = _margin(spot)
        left, top = spot[0] - margin - _BORDER, spot[1] - margin - _BORDER
        moved = [
            word._replace(box=(word.box[0] + left, word.box[1] + top, word.box[2] + left, word.box[3] + top))
            for word in words
            if word.confidence >= _SURE or any(c.isdigit() for c in word.text)
        ]
        if moved:
            _put(moved, spot, blocks)
    return Recognised(blocks)


def _margin(spot: Box) -> int:
    return max(2, round((spot[3] - spot[1]) / 6))


def _cut(page: Grey, spot: Box) -> Image.Image:
    margin = _margin(spot)
    x0, y0, x1, y1 = (round(edge) for edge in spot)
    inside = page[max(0, y0 - margin) : y1 + margin, max(0, x0 - margin) : x1 + margin]
    # At the page's edge the cut is short on that side, but its pixels must stay where they are counted from.
    short = (max(0, margin - x0), max(0, margin - y0), 0, 0)
    return ImageOps.expand(ImageOps.expand(Image.fromarray(inside), short, 255), _BORDER, 255)


def _put(words: Sequence[ReadWord], spot: Box, blocks: list[list[Line]]) -> None:
    """Into the line that they stand on, or as a block of their own where there is none."""
    middle = (spot[1] + spot[3]) / 2
    beside = [
        (_distance(line, spot), number, place)
        for number, block in enumerate(blocks)
        for place, line in enumerate(block)
        if line and median(word.box[1] for word in line) <= middle <= median(word.box[3] for word in line)
    ]
    if beside:
        _, number, place = min(beside)
        blocks[number][place] = sorted([*blocks[number][place], *words], key=lambda word: word.box[0])
        return
    below = [
        place
        for place, block in enumerate(blocks)
        if block and min(word.box[1] for line in block for word in line) > middle
    ]
    blocks.insert(below[0] if below else len(blocks), [list(words)])


def _distance(line: Line, spot: Box) -> float:
    """To the nearest word: of two columns side by side, the line of the one that the spot is in."""
    return min(max(word.box[0] - spot[2], spot[0] - word.box[2], 0.0) for word in line)
