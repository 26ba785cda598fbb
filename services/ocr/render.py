"""Documents as grey page images."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import PIL
import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c
from PIL import Image, ImageFile, ImageOps

from .file_kind import PILLOW_FORMATS, ImageKind, register_formats
from .limits import ReaderLimits
from .memory import OF_AN_EMPTY_PAGE
from .page_protocol import Renderer
from .refusal import Refusal

_MAX_SIDE = 30_000
"""Tesseract and libjpeg stop at 32 767 pixels a side; a receipt scanned as one strip would reach it below 40 Mpx."""

_SCAN_BYTES = 500_000
"""Decoded: an image from which on the page is taken for a scan; a logo has less."""
_MOST_IN_COLOURS = 12_000_000
"""Pixels, of three bytes each: A4 at 300 dpi has nine million, and no page is to need much more memory than that."""

_PAPER_INCHES = 11.7
"""The long side of A4: what a photo without a stated resolution is taken to show."""


class PageImage(NamedTuple):
    """``grey`` is mode L; ``dpi`` its resolution, guessed for images that don't say."""

    grey: Image.Image
    dpi: int


class Pages(Protocol):
    """A document that can show its pages, counted from 1; ``engine`` is the library that opens it."""

    engine: str
    engine_version: str
    count: int

    def render(self, number: int) -> PageImage: ...


class PdfPages:
    """Pages of a PDF. Raises ``Refusal``: ``file_encrypted``, ``file_corrupt``."""

    engine = "pypdfium2"
    engine_version = str(pdfium.version.PYPDFIUM_INFO.version)

    def __init__(self, path: Path, renderer: Renderer, limits: ReaderLimits) -> None:
        self._path = path
        self._renderer = renderer
        self._limits = limits
        with _pdf_errors():
            self._pdf = pdfium.PdfDocument(path)
            # Without it the values of a filled form are neither drawn nor read.
            self._pdf.init_forms()
            self.count = len(self._pdf)
        if self.count == 0:
            raise Refusal("file_corrupt")

    def load(self, number: int) -> Any:
        """The page as a ``pypdfium2.PdfPage``, with filled form fields and notes made part of its content."""
        with _pdf_errors():
            page = self._pdf[number - 1]
            if pdfium_c.FPDFPage_GetAnnotCount(page) > 0:
                pdfium_c.FPDFPage_Flatten(page, pdfium_c.FLAT_NORMALDISPLAY)
                page = self._pdf[number - 1]
            return page

    def pixels(self, page: Any, dpi: int) -> tuple[int, int]:
        """Width and height of the page in pixels at ``dpi``, scaled down to the limits' pixels."""
        width, height = page.get_size()
        # A page without an area, or with one that isn't a number, has nothing to show.
        if not (0 < width < math.inf and 0 < height < math.inf):
            raise Refusal("file_corrupt")
        scale = min(
            dpi / 72,
            math.sqrt(self._limits.max_page_pixels / (width * height)),
            _MAX_SIDE / max(width, height),
        )
        return max(1, int(width * scale)), max(1, int(height * scale))

    def render(self, number: int) -> PageImage:
        page = self.load(number)
        width, height = self.pixels(page, self._limits.dpi)
        dpi = max(1, round(72 * width / page.get_size()[0]))
        with _pdf_errors():
            if self._renderer == "pdf2image":
                grey = self._by_poppler(number, width, height)
            else:
                grey = self._by_pdfium(page, width)
        # PDFium rounds up where the text layer's page rounds down.
        grey = grey.crop((0, 0, width, height)) if grey.size != (width, height) else grey
        return PageImage(grey, dpi)

    def show(self, number: int) -> Image.Image:
        """The page as its text layer was read: PDFium knows how it was turned upright, poppler doesn't."""
        page = self.load(number)
        width, height = self.pixels(page, self._limits.shown_dpi)
        with _pdf_errors():
            return self._by_pdfium(page, width).crop((0, 0, width, height))

    def _by_pdfium(self, page: Any, width: int) -> Image.Image:
        decoded = max(map(_decoded_bytes, _images(page)), default=0)
        # PDFium leaves out an image that it has no memory for: the page would be blank, and nobody would know.
        if decoded > self._limits.memory_bytes - OF_AN_EMPTY_PAGE:
            raise Refusal("page_out_of_memory")
        page_width, page_height = page.get_size()
        scale = width / page_width
        # A scan is drawn in colours in less than half the time, 55 ms instead of 130; print in grey alone is faster.
        is_scan = decoded > _SCAN_BYTES and scale**2 * page_width * page_height < _MOST_IN_COLOURS
        bitmap = page.render(scale=scale, grayscale=not is_scan)
        if is_scan:
            return Image.fromarray(cv2.cvtColor(bitmap.to_numpy(), cv2.COLOR_BGR2GRAY))
        image: Image.Image = bitmap.to_pil()
        return image.convert("L")

    def _by_poppler(self, number: int, width: int, height: int) -> Image.Image:
        import pdf2image  # noqa: PLC0415 - needs poppler's programs; only where configured
        from pdf2image import exceptions  # noqa: PLC0415

        try:
            # ppm, never png: on noisy scans the PNG encoder took 10.6 s a page.
            images = pdf2image.convert_from_path(
                self._path, first_page=number, last_page=number, size=(width, height), grayscale=True, fmt="ppm"
            )
        except (exceptions.PDFPageCountError, exceptions.PDFSyntaxError) as error:
            raise Refusal("file_corrupt") from error
        if len(images) != 1:
            raise Refusal("file_corrupt")
        image: Image.Image = images[0]
        return image.convert("L")


class ImagePages:
    """An image of one page, or a TIFF, each of whose frames is one. May raise ``file_corrupt``, ``page_too_large``."""

    engine = "pillow"
    engine_version = PIL.__version__

    def __init__(self, path: Path, kind: ImageKind, limits: ReaderLimits) -> None:
        self._limits = limits
        register_formats()
        with _image_errors():
            self._image: ImageFile.ImageFile = Image.open(path, formats=[PILLOW_FORMATS[kind]])
            # Of other kinds a second frame is a thumbnail, a depth map or a moment later.
            self.count = int(getattr(self._image, "n_frames", 1)) if kind == "tiff" else 1

    def render(self, number: int) -> PageImage:
        with _image_errors():
            if self.count > 1:
                self._image.seek(number - 1)
            width, height = self._image.size
            if width * height > self._limits.max_image_pixels:
                raise Refusal("page_too_large")
            dpi = self._stated_dpi()
            if width * height > self._limits.max_page_pixels:
                # A JPEG can be decoded at half its size or less, and grey alone; others take no notice.
                shrink = math.sqrt(self._limits.max_page_pixels / (width * height))
                self._image.draft("L", (int(width * shrink), int(height * shrink)))
            self._image.load()
            # Colours first: a palette can't be scaled, and the EXIF rotation is read from the image as opened.
            upright = _grey_on_white(ImageOps.exif_transpose(self._image))
        shrink = min(
            1.0,
            math.sqrt(self._limits.max_page_pixels / (upright.width * upright.height)),
            _MAX_SIDE / max(upright.size),
        )
        if shrink < 1.0:
            size = (max(1, int(upright.width * shrink)), max(1, int(upright.height * shrink)))
            upright = upright.resize(size, Image.Resampling.BOX, reducing_gap=2.0)
        guess = max(upright.size) / _PAPER_INCHES
        kept = math.sqrt(upright.width * upright.height / (width * height))
        return PageImage(upright, round(dpi * kept if dpi else min(max(guess, 70), 600)))

    def _stated_dpi(self) -> float | None:
        """The image's own resolution. Cameras write 72 for "unknown", so anything below 100 isn't believed."""
        dpi = self._image.info.get("dpi")
        return float(dpi[0]) if dpi and 100 <= float(dpi[0]) <= 2400 else None


def _images(page: Any) -> Iterator[Any]:
    return page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_IMAGE], max_depth=2)  # type: ignore[no-any-return]


def _decoded_bytes(image: Any) -> int:
    """What the image takes while it is drawn; a pixel is a byte at the least."""
    width, height = image.get_px_size()
    return int(width * height * max(1, image.get_metadata().bits_per_pixel // 8))


def to_jpeg(grey: Image.Image, quality: int) -> bytes:
    encoded = io.BytesIO()
    grey.save(encoded, "JPEG", quality=quality)
    return encoded.getvalue()


def _grey_on_white(image: Image.Image) -> Image.Image:
    """Mode L, transparent parts white, 16-bit greys scaled (Pillow's own conversion clips them to white)."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("L")
    return image.convert("L")


@contextmanager
def _pdf_errors() -> Iterator[None]:
    try:
        yield
    except pdfium.PdfiumError as error:
        encrypted = getattr(error, "err_code", None) in (pdfium_c.FPDF_ERR_PASSWORD, pdfium_c.FPDF_ERR_SECURITY)
        raise Refusal("file_encrypted" if encrypted else "file_corrupt") from error


@contextmanager
def _image_errors() -> Iterator[None]:
    # Pillow raises whatever its parsers stumble over: OSError, SyntaxError, ValueError, struct.error, EOFError ...
    try:
        yield
    except (Refusal, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise Refusal("page_too_large") from error
    except Exception as error:
        raise Refusal("file_corrupt") from error
