"""Words of a line that claim the same letters, as Tesseract's do where a coarse page lets letters touch."""

import numpy as np

from .grey import Grey
from .page_text import Line, ReadWord
from .recognise import Recognised

_DARK = 128
_LEAST_SPACE = 0.12
"""Heights of a word; between letters there is less."""


def without_overlaps(read: Recognised, page: Grey) -> Recognised:
    """The same words, none of whose boxes reaches into the next one's of its line."""
    return Recognised([[_parted(line, page) for line in block] for block in read.blocks])


def _parted(line: Line, page: Grey) -> Line:
    words = list(line)
    for place in range(1, len(words)):
        left, right = words[place - 1], words[place]
        if right.box[0] < left.box[2] and (space := _space(left, right, page)):
            words[place - 1] = left._replace(box=(*left.box[:2], space[0], left.box[3]))
            words[place] = right._replace(box=(space[1], *right.box[1:]))
    return words


def _space(left: ReadWord, right: ReadWord, page: Grey) -> tuple[float, float] | None:
    """Where the white between the two begins and ends, of all between their letters nearest to where it should be."""
    (first, top, _, bottom), last = left.box, right.box[2]
    dark = (page[int(top) : int(bottom) + 1, int(first) : int(last) + 1] < _DARK).any(axis=0)
    inked = np.flatnonzero(dark)
    gaps = np.flatnonzero(np.diff(inked) > _LEAST_SPACE * (bottom - top))
    if not gaps.size:
        return None
    starts, ends = int(first) + inked[gaps] + 1, int(first) + inked[gaps + 1]
    expected = first + (last - first) * (len(left.text) + 0.5) / (len(left.text) + len(right.text) + 1)
    nearest = int(np.argmin(np.abs((starts + ends) / 2 - expected)))
    return float(starts[nearest]), float(ends[nearest])
