"""What scanners and telephones do to a sheet, at least as hard as it was measured elsewhere: research's s, b and p."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]
_WHITE = 255
_DESK = 130


def clean(sheet: Grey, _: int) -> Grey:
    return sheet


def scan(sheet: Grey, seed: int) -> Grey:
    """An office scanner: crooked by 1.3 degrees, a little soft, grain of 8 levels, JPEG 70."""
    random = np.random.default_rng(seed)
    turned = _turned(sheet, float(random.choice([-1.3, 1.3])))
    page = cv2.GaussianBlur(turned, (0, 0), 0.5).astype(np.float32) * 0.92 + 16
    return _jpeg(page + random.normal(0, 8, page.shape).astype(np.float32), 70)


def noisy(sheet: Grey, seed: int) -> Grey:
    """A bad copier: crooked by 2.6 degrees, a shade from side to side, grain of 18, salt and pepper, JPEG 45."""
    random = np.random.default_rng(seed)
    page = _turned(sheet, float(random.choice([-2.6, 2.6]))).astype(np.float32)
    height, width = page.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = random.uniform(0, 2 * np.pi)
    across = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle)
    page *= 0.82 + 0.3 * across
    page += random.normal(0, 18, page.shape).astype(np.float32)
    specks = random.random(page.shape, dtype=np.float32)
    page[specks < 0.002] = 0
    page[specks > 0.998] = _WHITE
    return _jpeg(page, 45)


def photo(sheet: Grey, seed: int) -> Grey:
    """A telephone: held askew and aslant, a lamp from one corner, a hand's strong shadow, out of focus, JPEG 60."""
    random = np.random.default_rng(seed)
    page = _turned(sheet, float(random.uniform(-1.5, 1.5)))
    height, width = page.shape
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    inwards = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=np.float32)
    seen = corners + inwards * random.uniform(0, 0.025, (4, 2)).astype(np.float32) * width
    lens = cv2.getPerspectiveTransform(corners, seen)
    page = _grey(cv2.warpPerspective(page, lens, (width, height), flags=cv2.INTER_CUBIC, borderValue=(_DESK,)))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    lamp = 1.0 - 0.35 * np.hypot(x / width - random.uniform(0.1, 0.9), y / height - random.uniform(0.1, 0.4))
    edge = x / width + random.uniform(-0.8, 0.8) * y / height - random.uniform(0.4, 0.9)
    shadow = 1.0 - 0.45 / (1.0 + np.exp(-edge * 18))
    light = cv2.GaussianBlur(page, (0, 0), 0.0033 * height / 11.7).astype(np.float32) * lamp * shadow
    return _jpeg(light + random.normal(0, 3, page.shape).astype(np.float32), 60)


KINDS: dict[str, Callable[[Grey, int], Grey]] = {"clean": clean, "scan": scan, "photo": photo, "noisy": noisy}


def _turned(sheet: Grey, degrees: float) -> Grey:
    height, width = sheet.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    return _grey(cv2.warpAffine(sheet, turn, (width, height), flags=cv2.INTER_CUBIC, borderValue=(_WHITE,)))


def _jpeg(page: NDArray[Any], quality: int) -> Grey:
    _, encoded = cv2.imencode(".jpg", page.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return _grey(cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE))


def _grey(image: Any) -> Grey:
    return np.asarray(image, dtype=np.uint8)
