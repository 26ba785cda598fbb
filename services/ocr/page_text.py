"""One page's text, built from its words, so that every word can be found again by its offsets."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from shared.contract.pages import Box, Word


class ReadWord(NamedTuple):
    """A word as read: no white space inside; ``box`` in page pixels, ``confidence`` from 0 to 1."""

    text: str
    box: Box
    confidence: float


Line = Sequence[ReadWord]
Block = Sequence[Line]


def build_page_text(blocks: Iterable[Block], width: int, height: int) -> tuple[str, tuple[Word, ...]]:
    """Text and words of a page of ``width`` x ``height`` pixels, from its blocks in reading order.

    Words are joined by a space, lines by a newline, blocks by an empty line; boxes are cut at the page's edge.
    ``text[word.start:word.end] == word.text`` for every word.
    """
    parts: list[str] = []
    words: list[Word] = []
    length = 0
    separator = ""
    for block in blocks:
        for line in block:
            for read in line:
                start = length + len(separator)
                end = start + len(read.text)
                box = _inside(read.box, width, height)
                words.append(Word(text=read.text, box=box, confidence=read.confidence, start=start, end=end))
                parts += (separator, read.text)
                length = end
                separator = " "
            if words:
                separator = "\n"
        if words:
            separator = "\n\n"
    return "".join(parts), tuple(words)


def _inside(box: Box, width: int, height: int) -> Box:
    x0, y0, x1, y1 = box
    left, right = sorted((min(max(x0, 0.0), width), min(max(x1, 0.0), width)))
    top, bottom = sorted((min(max(y0, 0.0), height), min(max(y1, 0.0), height)))
    return (float(left), float(top), float(right), float(bottom))
