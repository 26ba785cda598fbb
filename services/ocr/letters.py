"""The letters of a page as pieces of ink, and which of them nobody has read."""

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.contract.pages import Box

from .grey import Grey, reduced

_DPI = 150
_UNREAD = 2
"""Pieces of ink from which on a spot is worth reading: one alone is, too, where it is no smaller than a digit."""


def letters_of(page: Grey, inch: float) -> NDArray[np.int32]:
    """Left, top, width and height of each piece of ink that may be a letter; ``inch`` in pixels."""
    paper = float(np.percentile(page[::4, ::4], 90))
    _, _, stats, _ = cv2.connectedComponentsWithStats((page < paper - 60).astype(np.uint8))
    heights, widths = stats[:, cv2.CC_STAT_HEIGHT], stats[:, cv2.CC_STAT_WIDTH]
    # The rests of letters at the edge of a box are narrower than high, or flat.
    is_letter = (heights > 0.045 * inch) & (heights < 0.25 * inch) & (widths > 0.015 * inch) & (widths < 0.5 * inch)
    return np.asarray(stats[is_letter][:, :4], dtype=np.int32)


def unread_spots(page: Grey, dpi: int, boxes: Iterable[Box]) -> list[Box]:
    """Where letters stand side by side that none of the words' boxes covers, on an evenly lit page. Takes 20 ms."""
    factor = max(1, round(dpi / _DPI))
    inch = dpi / factor
    small = reduced(page, factor)
    for x0, y0, x1, y1 in boxes:
        # A box may end before its word's last letter does.
        reach = 0.6 * (y1 - y0)
        x0, x1 = x0 - reach, x1 + reach  # noqa: PLW2901
        left, top, right, bottom = (max(0, int(edge / factor)) for edge in (x0, y0, x1, y1))
        small[top : bottom + 1, left : right + 1] = 255
    pieces = letters_of(small, inch).tolist()
    if not pieces:
        return []
    typical = int(np.median([h for _, _, _, h in pieces]))
    # Letters of one line meet when each is stretched by its space to the next.
    joined = np.zeros(small.shape, np.uint8)
    for x, y, w, h in pieces:
        joined[y : y + h, max(0, x - typical) : x + w + typical] = 1
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
    members = np.bincount([labels[y + h // 2, x + w // 2] for x, y, w, h in pieces], minlength=count)
    spots = []
    for label in range(1, count):
        x, y, w, h = (int(value) for value in stats[label][:4])
        is_worth_it = members[label] >= _UNREAD or h > 0.08 * inch
        if is_worth_it and h < 0.4 * inch:
            x0, x1 = max(0, x + typical if x else 0), x + w - typical
            spots.append((float(x0 * factor), float(y * factor), float(x1 * factor), float((y + h) * factor)))
    return spots
