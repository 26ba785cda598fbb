"""An image's own word about its size, read from its header: nothing is decoded."""

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
            frames = int(getattr(image, "n_frames", 1)) if kind == "tiff" else 1
            sizes = [_pixels(image, frame) for frame in range(min(frames, limits.max_frames))]
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        raise Refusal("page_too_large") from error
    except Exception as error:
        # Pillow raises whatever its parsers stumble over.
        raise Refusal("file_corrupt") from error
    if frames > limits.max_frames:
        raise Refusal("file_too_long")
    if max(sizes) > limits.max_image_pixels:
        raise Refusal("page_too_large")
    return frames


def _pixels(image: Image.Image, frame: int) -> int:
    image.seek(frame)
    return image.width * image.height
