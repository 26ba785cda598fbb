"""How far the lines of a page are from lying level."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .grey import Grey, level, reduced

_DPI = 75
_MAX_DEGREES = 10.0


class Slant(NamedTuple):
    """``degrees`` to turn the page counter-clockwise; ``sideways`` where its lines run from top to bottom."""

    degrees: float
    sideways: bool


def measure_slant(page: Grey, dpi: int) -> Slant:
    """How lines of text run: at the right angle their ink falls into few rows, with empty ones between."""
    factor = max(1, round(dpi / _DPI))
    small = reduced(page, factor)
    paper = level(small[::3, ::3], 0.9)
    edge = max(1, min(small.shape) // 40)  # the scanner's own border is straight, whatever the page
    ink = small[edge:-edge, edge:-edge] < paper - 60
    # A photograph or a black area would outweigh the text.
    ys, xs = np.nonzero(ink)
    if not 200 <= ys.size <= ink.size // 2:
        return Slant(0.0, sideways=False)
    # Ten thousand points tell the angle as well as all of them.
    thin = max(1, ys.size // 10_000)
    down, right = ys[::thin].astype(np.float32), xs[::thin].astype(np.float32)
    across, across_sharpness = _best_angle(down, right)
    along, along_sharpness = _best_angle(right, -down)
    sideways = along_sharpness > 1.5 * across_sharpness
    return Slant(along if sideways else across, sideways)


def _best_angle(down: NDArray[np.float32], right: NDArray[np.float32]) -> tuple[float, float]:
    def sharpness(degrees: float) -> float:
        radians = np.deg2rad(degrees)
        rows = (down * np.cos(radians) - right * np.sin(radians)).astype(np.int32)
        counts = np.bincount(rows - rows.min())
        return float(np.sum(np.diff(counts).astype(np.float64) ** 2))

    best = 0.0
    for step, reach in ((0.5, _MAX_DEGREES), (0.1, 0.5)):
        angles = np.arange(best - reach, best + reach + step / 2, step)
        best = float(max(angles, key=sharpness))
    return best, sharpness(best)
