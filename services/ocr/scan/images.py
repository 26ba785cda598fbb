"""An image's own word about its size, read from its header: nothing is decoded."""

from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from services.ocr.file_kind import PILLOW_FORMATS, ImageKind, register_formats
from services.ocr.limits import ReaderLimits
from services.ocr.refusal import Refusal


def count_frames(path: Path, kind: ImageKind, limits: ReaderLimits) -> int:
    """How many pages the image has. Raises ``Refusal``: ``page_too_large``, ``file_too_long``, ``file_corrupt``."""
    register_formats()
    try:
        with Image.open(path, formats=[PILLOW_FORMATS[kind]]) as image:
            # Of other kinds a second frame is a thumbnail, a depth map or a moment later.
            sizes = list(_sizes(image, limits.max_frames + 1 if kind == "tiff" else 1))
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise Refusal("page_too_large") from error
    except Exception as error:
        # Pillow raises whatever its parsers stumble over.
        raise Refusal("file_corrupt") from error
    if len(sizes) > limits.max_frames:
        raise Refusal("file_too_long")
    if max(sizes) > limits.max_image_pixels:
        raise Refusal("page_too_large")
    return len(sizes)


def _sizes(image: Image.Image, most: int) -> Iterator[int]:
    """Pixels of one frame after another: asked for their number, Pillow would walk to the last of ten thousand."""
    for frame in range(most):
        try:
            image.seek(frame)
        except EOFError:
            return
        yield image.width * image.height
