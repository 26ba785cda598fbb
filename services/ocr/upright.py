"""A page image made even, straight and upright, each only where it is needed."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .recognise import Recognised, Recogniser

_SKEW_DPI = 100
_MAX_SKEW_DEGREES = 10.0
_MIN_SKEW_DEGREES = 0.2
"""Below it Tesseract follows the line itself, and rotating only softens the letters."""
_SURE = 0.75
"""Mean confidence of upright text is 0.85 to 0.95, of upside-down text 0.2 to 0.5."""


class Upright(NamedTuple):
    """The corrected page and what was read on it: boxes refer to ``grey``."""

    grey: Image.Image
    recognised: Recognised


class Slant(NamedTuple):
    """``degrees`` to turn the page counter-clockwise; ``sideways`` where its lines run from top to bottom."""

    degrees: float
    sideways: bool


def has_ink(grey: Image.Image, dpi: int) -> bool:
    """Whether anything is on the page: a full stop of 12 point text is enough, the noise of an empty scan isn't."""
    small = _float(grey.reduce(max(1, round(dpi / 75))))
    paper = float(np.median(small))
    # Averaging 4 x 4 pixels leaves a sensor noise of 18 levels at 4.5: 40 is nine times that.
    return bool(np.count_nonzero(np.abs(small - paper) > 40) >= 2)


def read_upright(grey: Image.Image, dpi: int, recogniser: Recogniser) -> Upright:
    """The page corrected and read. Orientation is asked for (0.8 s) only where lines run sideways or little is sure."""
    even = smooth(flatten(grey, dpi), dpi)
    slant = measure_slant(even, dpi)
    was_sideways = slant.sideways
    first = None if was_sideways else _read_straight(even, slant.degrees, dpi, recogniser)
    # A table's columns can look like lines; Tesseract reads sideways words too, but leaves them sideways.
    if first is None or first.recognised.runs_down:
        was_sideways = True
        turn = recogniser.clockwise_turn(even, dpi)
        even = _turned(even, turn if turn in (90, 270) else 90)
        first = _read_straight(even, measure_slant(even, dpi).degrees, dpi, recogniser)
    if first.recognised.confidence >= _SURE:
        return first
    # Sideways is settled by the lines themselves: what is left to be wrong is up and down.
    turn = 180 if was_sideways else recogniser.clockwise_turn(first.grey, dpi)
    if not turn:
        return first
    turned = _turned(first.grey, turn)
    second = Upright(turned, recogniser.read(turned, dpi))
    return max(first, second, key=lambda upright: upright.recognised.weight)


def _read_straight(even: Image.Image, degrees: float, dpi: int, recogniser: Recogniser) -> Upright:
    straight = _straightened(even, degrees)
    return Upright(straight, recogniser.read(straight, dpi))


def flatten(grey: Image.Image, dpi: int) -> Image.Image:
    """Divides by the background where its light varies: a photo's shadow cost 35 % of characters, then 0.2 %."""
    # First roughly: most pages are scans, which need none of it, and the finer background takes 0.2 s.
    dark, light = np.percentile(_background(grey, dpi, 25, 5, 7), (2, 98))
    # Scanners hold their lamp within a tenth.
    if light == 0 or dark / light > 0.85:
        return grey
    # At 25 dpi the rest of the shadow cost a photographed table its column of results; at 50 dpi nothing.
    levels = _background(grey, dpi, 50, 7, 11)
    # No shadow is darker than a third of the light; darker still is print (a black header), which must stay dark.
    background = Image.fromarray(np.maximum(levels, light / 3).astype(np.uint8)).filter(ImageFilter.GaussianBlur(3))
    full = np.asarray(background.resize(grey.size, Image.Resampling.BILINEAR))
    page = np.asarray(grey)
    even = np.empty_like(page)
    for top in range(0, page.shape[0], 256):  # in strips: 40 Mpx in 32-bit floats would be 320 MB
        rows = slice(top, top + 256)
        even[rows] = np.minimum(page[rows].astype(np.float32) * 250 / np.maximum(full[rows], 1), 255)
    return Image.fromarray(even)


def _background(grey: Image.Image, dpi: int, coarse_dpi: int, dilation: int, median: int) -> NDArray[np.uint8]:
    """The paper's grey without its print, at ``coarse_dpi``; the other two are filter sizes in its pixels, odd."""
    small = grey.reduce(max(1, round(dpi / coarse_dpi)))
    return np.asarray(small.filter(ImageFilter.MaxFilter(dilation)).filter(ImageFilter.MedianFilter(median)))


def smooth(grey: Image.Image, dpi: int) -> Image.Image:
    """A light blur where the sensor's noise shows: 59 % wrong characters became 0.04 % at 300 dpi, none at 150."""
    if dpi < 180:
        return grey
    page = np.asarray(grey)[::7].astype(np.int16)
    noise = 1.4826 * float(np.median(np.abs(np.diff(page, axis=1)))) / 2**0.5
    return grey.filter(ImageFilter.GaussianBlur(0.8 * dpi / 200)) if noise > 5 else grey


def measure_slant(grey: Image.Image, dpi: int) -> Slant:
    """How lines of text run: at the right angle their ink falls into few rows, with empty ones between."""
    small = _float(grey.reduce(max(1, round(dpi / _SKEW_DPI))))
    paper = float(np.percentile(small, 90))
    edge = max(1, min(small.shape) // 40)  # the scanner's own border is straight, whatever the page
    ink = small[edge:-edge, edge:-edge] < paper - 60
    # A photograph or a black area would outweigh the text.
    ys, xs = np.nonzero(ink)
    if not 200 <= ys.size <= ink.size // 2:
        return Slant(0.0, sideways=False)
    down, right = ys.astype(np.float32), xs.astype(np.float32)
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
    for step, reach in ((0.5, _MAX_SKEW_DEGREES), (0.1, 0.5)):
        angles = np.arange(best - reach, best + reach + step / 2, step)
        best = float(max(angles, key=sharpness))
    return best, sharpness(best)


def _straightened(grey: Image.Image, degrees: float) -> Image.Image:
    if abs(degrees) < _MIN_SKEW_DEGREES:
        return grey
    # Expanded, or the corners' words would fall off the page.
    return grey.rotate(degrees, Image.Resampling.BICUBIC, expand=True, fillcolor=255)


def _turned(grey: Image.Image, clockwise: int) -> Image.Image:
    """Undoes a clockwise turn by a multiple of 90 degrees."""
    undo = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
    return grey.transpose(undo[clockwise])


def _float(image: Image.Image) -> NDArray[np.float32]:
    return np.asarray(image, dtype=np.float32)
