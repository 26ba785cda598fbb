"""Pages of prose, which need not be looked at as finely as columns of numbers."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from .grey import Grey, level, reduced
from .letters import letters_of, runs_of

_DPI = 150
_LEAST_HEIGHT = 10.0
"""Pixels of a typical letter of the coarser page; with fewer Tesseract loses some. It brings each line to 36."""
_WIDTH, _NARROWEST = 8.0, 0.85
"""Pixels of a letter of the page made narrower, and how much narrower at the most. Tesseract's time goes by width."""
_GRAIN = 40
"""Levels below the paper's that are still paper."""
_FEWEST = 200
_LONG_RUN = 28
"""Typical heights, and so about as many characters, from which on a run of letters is a line of prose and no cell."""
_MOST_IN_COLUMNS = 0.06


class Coarse(NamedTuple):
    """A page made smaller, and by what its boxes are multiplied to be the page's own again."""

    grey: Grey
    across: float
    down: float


def as_coarse_as_prose(page: Grey, dpi: int) -> Coarse | None:
    """An upright page as coarse as prose may be; None where it is none, or too small already. Takes 15 ms.

    It is read in three fifths of the time with as few wrong characters; where numbers stand in columns, twice as many
    of them would be wrong.
    """
    factor = round(dpi / _DPI)
    if factor < 2:
        return None
    small = reduced(page, factor)
    height, width = small.shape
    letters = letters_of(small, dpi / factor)
    if len(letters) < _FEWEST:
        return None
    typical = float(np.median(letters[:, 3]))
    if typical < _LEAST_HEIGHT or _share_in_columns(letters, small.shape, round(typical)) > _MOST_IN_COLUMNS:
        return None
    narrow = round(width * min(max(_WIDTH / float(np.mean(letters[:, 2])), _NARROWEST), 1.0))
    seen = np.asarray(cv2.resize(small, (narrow, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
    # Tesseract packs each line as a PNG: of white paper it takes a thirtieth of a page's time less than of grain.
    seen[seen > level(seen, 0.9) - _GRAIN] = 255
    return Coarse(seen, width * factor / narrow, factor)


def _share_in_columns(letters: NDArray[np.int32], shape: tuple[int, ...], reach: int) -> float:
    """How many of the letters stand in a short run that has another run beside it."""
    runs = runs_of(letters, shape, reach)
    lefts, tops, rights, bottoms = runs.boxes.T
    middles = (tops + bottoms) / 2
    is_beside = (tops[None, :] < middles[:, None]) & (middles[:, None] < bottoms[None, :])
    has_neighbour = is_beside.sum(axis=1) > 1
    is_short = rights - lefts < _LONG_RUN * reach
    return float(runs.members[has_neighbour & is_short].sum() / len(letters))
