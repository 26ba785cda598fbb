"""The light on a page, and how to even it out."""

import cv2
import numpy as np

from .grey import Grey


def flatten(page: Grey, dpi: int) -> Grey | None:
    """Divides by the background where its light varies; None where it doesn't.

    A photo's shadow cost 35 % of characters, then 0.2 %.
    """
    # First roughly: most pages are scans, which need none of it.
    dark, light = np.percentile(_background(page, dpi, 25, 5, 7), (2, 98))
    # Scanners hold their lamp within a tenth.
    if light == 0 or dark / light > 0.85:
        return None
    # At 25 dpi the rest of the shadow cost a photographed table its column of results; at 50 dpi nothing.
    levels = _background(page, dpi, 50, 7, 11)
    # No shadow is darker than a third of the light; darker still is print (a black header), which must stay dark.
    background = cv2.GaussianBlur(np.maximum(levels, light / 3).astype(np.uint8), (0, 0), 3)
    height, width = page.shape
    full = cv2.resize(background, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.divide(page, full, scale=250), dtype=np.uint8)


def _background(page: Grey, dpi: int, coarse_dpi: int, dilation: int, median: int) -> Grey:
    """The paper's grey without its print, at ``coarse_dpi``; the other two are filter sizes in its pixels, odd."""
    factor = max(1, round(dpi / coarse_dpi))
    height, width = (max(1, side // factor) for side in page.shape)
    # Every third pixel is as good a sample of the paper.
    sample = page[::3, ::3] if factor > 6 else page
    small = cv2.resize(sample, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(
        cv2.medianBlur(cv2.dilate(small, np.ones((dilation, dilation), np.uint8)), median), dtype=np.uint8
    )
