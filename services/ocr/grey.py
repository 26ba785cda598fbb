"""Grey pages: the type, and the smaller ones that are looked at instead."""

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]


def reduced(page: Grey, factor: int) -> Grey:
    """Squares of so many pixels a side averaged into one; what is left over at the right and below is left out.

    With it, as a side that is no multiple, OpenCV takes ten times as long.
    """
    height, width = (max(1, side // factor) for side in page.shape)
    whole = page[: height * factor, : width * factor]
    return np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
