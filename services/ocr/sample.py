"""Whether a page's text layer says what the page shows: a few of its words, rendered and recognised."""

import difflib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from shared.contract.pages import Box

from .grey import Grey
from .page_text import ReadWord
from .recognise import LineReader

_FIRST = 3
_SECOND = 16
"""Words in a sample, and in the next one where the first does not agree: 3 take 10 ms a page."""
_ALIKE = 0.7
"""Share of characters. Recognition finds 0.95 and more of what is there; of what isn't, a third by chance."""
_TEXT_PIXELS = 40
"""Height to which a word is rendered."""
_LARGEST_SCALE = 12.0
"""Pixels a point: text of 3 points would be 40 pixels high."""
_LONGEST = 24
"""Characters; a longer run without a space is an address or a line of dots."""


def shows_its_text(page: Any, size: tuple[int, int], words: Sequence[ReadWord], reader: LineReader) -> bool:
    """Whether words from all over the page are where the layer says; ``size`` is the page in the words' pixels."""
    fit = [word for word in words if _is_fit(word)]
    if not fit:
        return True
    for count in (_FIRST, _SECOND):
        chosen = _spread(fit, count)
        if _likeness(page, size, chosen, reader) >= _ALIKE:
            return True
    return False


def _is_fit(word: ReadWord) -> bool:
    x0, y0, x1, y1 = word.box
    is_level = x1 - x0 > 0.3 * (y1 - y0) > 1
    return is_level and len(word.text) <= _LONGEST and sum(map(str.isalnum, word.text)) >= 3


def _spread(words: Sequence[ReadWord], count: int) -> list[ReadWord]:
    """From all over the page, each the longest of its neighbours: short words tell little."""
    if len(words) <= count:
        return list(words)
    edges = np.linspace(0, len(words), count + 1).astype(int)
    return [max(words[a:b][:12], key=lambda word: len(word.text)) for a, b in pairwise(edges)]


def _likeness(page: Any, size: tuple[int, int], words: Sequence[ReadWord], reader: LineReader) -> float:
    cuts = [ImageOps.expand(Image.fromarray(_rendered(page, size, word.box)), 10, 255) for word in words]
    found = [word for cut in reader.read_lines(cuts) for word in cut]
    shown, said = (_folded(part) for part in (found, words))
    return difflib.SequenceMatcher(None, shown, said, autojunk=False).ratio()


def _folded(words: Sequence[ReadWord]) -> str:
    # What recognition and fonts confuse is no lie.
    text = "".join(word.text for word in words).lower()
    return "".join(c for c in text if c.isalnum()).translate(str.maketrans("0o1il", "ooiii"))


def _rendered(page: Any, size: tuple[int, int], box: Box) -> Grey:
    """The page around a word, dark on light, its text about 40 pixels high."""
    width, height = page.get_size()
    across, down = width / size[0], height / size[1]
    x0, y0, x1, y1 = box[0] * across, box[1] * down, box[2] * across, box[3] * down
    margin = 0.25 * (y1 - y0)
    scale = min(_TEXT_PIXELS / (y1 - y0), _LARGEST_SCALE)
    crop = (
        max(0.0, x0 - margin),
        max(0.0, height - y1 - margin),
        max(0.0, width - x1 - margin),
        max(0.0, y0 - margin),
    )
    bitmap = page.render(scale=scale, crop=crop, grayscale=True)
    grey = bitmap.to_numpy().squeeze()
    # Light text on a dark ground reads as well the other way round.
    return np.asarray(255 - grey if np.median(grey) < 128 else grey, dtype=np.uint8)
