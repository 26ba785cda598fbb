"""How large the letters of a page are."""

import cv2
import numpy as np

from .rules import Grey

_DPI = 150


def letter_height(page: Grey, dpi: int) -> float | None:
    """The median height of the page's letters, most of which are small ones, in inches; None of a page with few.

    From the middle of the page, which is enough and costs 10 ms.
    """
    height, width = page.shape
    middle = page[height // 5 : height - height // 5]
    factor = max(1, round(dpi / _DPI))
    small = cv2.resize(middle, (width // factor, middle.shape[0] // factor), interpolation=cv2.INTER_AREA)
    paper = float(np.percentile(small[::4, ::4], 90))
    _, _, stats, _ = cv2.connectedComponentsWithStats((small < paper - 60).astype(np.uint8))
    inch = dpi / factor
    heights = stats[1:, cv2.CC_STAT_HEIGHT]
    heights = heights[(heights > 0.03 * inch) & (heights < 0.25 * inch)]
    return float(np.median(heights)) / inch if heights.size >= 50 else None
