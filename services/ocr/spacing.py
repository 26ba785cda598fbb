"""Spaces in numbers, by the ink: "< 5.0" and "4.0 - 11.0" are read as "<5.0" and "4.0- 11.0"."""

import re
from collections.abc import Sequence
from itertools import pairwise

from .cells import CellLine, TableInk
from .page_text import ReadWord

_ONE_PIECE_EACH = re.compile(r"[\d.,<>+\-–—()/]+").fullmatch
_SIGNS = "<>+-–—()/"
_SPACE = 0.37
"""Of a capital's height. Looked for beside signs only: digits and points of a typewriter stand as far apart."""


def spaced_as_printed(words: Sequence[ReadWord], line: CellLine, ink: TableInk) -> tuple[ReadWord, ...]:
    """The words parted as the ink is, each with its ink's box; as they are where pieces and characters differ."""
    text = "".join(word.text for word in words)
    marks = sorted(line.marks, key=lambda mark: mark.left)
    if len(text) != len(marks) or not _ONE_PIECE_EACH(text):
        return tuple(words)
    gaps = [after.left - before.right for before, after in pairwise(marks)]
    starts = [0]
    for place, gap in enumerate(gaps, start=1):
        is_beside_sign = text[place - 1] in _SIGNS or text[place] in _SIGNS
        if is_beside_sign and gap > _SPACE * ink.letter_height:
            starts.append(place)
    left, top = ink.origin
    confidence = min(word.confidence for word in words)
    parted = []
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        own = marks[start:end]
        box = (
            float(min(mark.left for mark in own) + left),
            float(min(mark.top for mark in own) + top),
            float(max(mark.right for mark in own) + left),
            float(max(mark.bottom for mark in own) + top),
        )
        parted.append(ReadWord(text[start:end], box, confidence))
    return tuple(parted)
