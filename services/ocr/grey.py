"""Grey pages: the type, and the smaller ones that are looked at instead."""

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]


def reduced(page: Grey, factor: int) -> Grey:
    """Squares of so many pixels a side averaged into one; what is left over at the right and below is left out.

    With it, as a side that is no multiple, OpenCV takes ten times as long, and for a quarter ten times as long as for
    half of half. By 1 it is the page itself.
    """
    while factor % 2 == 0:
        page, factor = _by(page, 2), factor // 2
    return _by(page, factor) if factor > 1 else page


def level(page: Grey, share: float) -> int:
    """The grey that so much of the page is no lighter than: of 0.5 the median. A tenth of NumPy's time for it."""
    counts = cv2.calcHist([page], [0], None, [256], [0, 256]).cumsum()
    return int(np.searchsorted(counts, share * page.size))


def _by(page: Grey, factor: int) -> Grey:
    height, width = (max(1, side // factor) for side in page.shape)
    whole = page[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
