"""Spaces in numbers, by the ink: "< 5.0" and "4.0 - 11.0" are read as "<5.0" and "4.0- 11.0"."""

import re
from collections.abc import Sequence
from itertools import pairwise

from .cells import CellLine, TableInk
from .page_text import ReadWord

_ONE_PIECE_EACH = re.compile(r"[\d.,<>+\-–—()/]+").fullmatch
_SIGNS = "<>+-–—()/"
_DASHES = "-–—"
_SPACE = 0.32
"""Of a capital's height: Times leaves 0.24 between a dash and a 1, and a space is 0.36. Looked for beside signs only:
digits and points of a typewriter stand as far apart."""


def spaced_as_printed(words: Sequence[ReadWord], line: CellLine, ink: TableInk) -> tuple[ReadWord, ...]:
    """The words parted as the ink is, each with its ink's box; as they are where pieces and characters differ."""
    text = "".join(word.text for word in words)
    marks = sorted(line.marks, key=lambda mark: mark.left)
    if len(text) != len(marks) or not _ONE_PIECE_EACH(text):
        return tuple(words)
    gaps = _even_beside_dashes(text, [after.left - before.right for before, after in pairwise(marks)])
    starts = [0]
    for place, gap in enumerate(gaps, start=1):
        before, after = text[place - 1], text[place]
        is_beside_sign = before in _SIGNS or after in _SIGNS
        is_inside_brackets = before == "(" or after == ")"
        if is_beside_sign and not is_inside_brackets and gap > _SPACE * ink.letter_height:
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


def _even_beside_dashes(text: str, gaps: Sequence[int]) -> list[float]:
    """The gaps, those before and behind a range's dash as their mean: it has spaces on both sides or on none."""
    even: list[float] = [*gaps]
    for place in range(1, len(text) - 1):
        if text[place] in _DASHES and text[place - 1].isdigit() and text[place + 1].isdigit():
            even[place - 1] = even[place] = (gaps[place - 1] + gaps[place]) / 2
    return even
