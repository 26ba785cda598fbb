"""One document, page by page: from the text layer where it is good, from the image otherwise."""

import time
from pathlib import Path

import numpy as np
from PIL import Image

from shared.contract.pages import Correction, Page

from .file_kind import recognise_kind
from .limits import ReaderLimits
from .page_protocol import Engine, Renderer
from .page_text import build_page_text
from .plain_text import read_plain_text
from .recognise import AskParent, LineReader, Recogniser, make_recogniser
from .refusal import Refusal
from .render import ImagePages, Pages, PdfPages, to_jpeg
from .sample import shows_its_text
from .text_layer import read_text_layer, turn_upright
from .upright import has_ink, read_upright

IMAGE_QUALITY = 60
"""Enough to read it by eye; an engine gets better."""


class Document:
    """An opened document. Raises ``Refusal`` on opening and on reading a page."""

    def __init__(
        self,
        path: Path,
        *,
        renderer: Renderer,
        engine: Engine,
        tesseract_command: str | None,
        limits: ReaderLimits,
        ask: AskParent | None = None,
    ) -> None:
        """``ask`` is for engines that only the parent can reach."""
        self._path = path
        self._ask = ask
        self._upright: tuple[int, Image.Image] | None = None
        self._limits = limits
        self._engine = engine
        self._command = tesseract_command
        self._recogniser: Recogniser | None = None
        kind = recognise_kind(path)
        self._pages: Pages | None = None
        if kind == "pdf":
            self._pages = PdfPages(path, renderer, limits)
        elif kind != "text":
            self._pages = ImagePages(path, kind, limits)
        self.count = 1 if self._pages is None else self._pages.count
        if self.count > limits.max_pages:
            raise Refusal("file_too_long")

    def read(self, number: int) -> Page:
        """The page, counted from 1."""
        if self._pages is None:
            return read_plain_text(self._path, self._limits)
        has_layer = False
        if isinstance(self._pages, PdfPages):
            found = self._from_text_layer(self._pages, number)
            if isinstance(found, Page):
                return found
            has_layer = found
        return self._from_image(self._pages, number, is_rejected=has_layer)

    def image(self, number: int) -> bytes | None:
        """The upright page that the boxes of its words refer to, as a grey JPEG; None for plain text.

        Of a page that was recognised it is at hand. 15 ms and 0.5 MB for A4 at 300 dpi; WebP takes ten times that.
        """
        if self._pages is None:
            return None
        if self._upright is None or self._upright[0] != number:
            assert isinstance(self._pages, PdfPages)
            self._upright = (number, self._pages.show(number))
        return to_jpeg(self._upright[1], IMAGE_QUALITY)

    def _from_image(self, pages: Pages, number: int, *, is_rejected: bool) -> Page:
        began = time.perf_counter()
        grey, dpi = pages.render(number)
        self._upright = (number, grey)
        image = np.asarray(grey)
        rendered = {"render": time.perf_counter() - began}
        corrections: tuple[Correction, ...] = ("text_layer_rejected",) if is_rejected else ()
        if not has_ink(image, dpi):
            return Page(
                page=number,
                width=grey.width,
                height=grey.height,
                text="",
                words=(),
                text_source="blank",
                engine=pages.engine,
                engine_version=pages.engine_version,
                corrections=corrections,
                timings=_rounded(rendered),
            )
        recogniser = self._loaded()
        upright = read_upright(image, dpi, recogniser)
        self._upright = (number, Image.fromarray(upright.grey))
        height, width = upright.grey.shape
        text, words, tables = build_page_text(upright.blocks, width, height)
        return Page(
            page=number,
            width=width,
            height=height,
            text=text,
            words=words,
            text_source="ocr",
            engine=recogniser.name,
            engine_version=recogniser.version,
            tables=tables,
            corrections=(*corrections, *upright.corrections),
            timings=_rounded(rendered | upright.timings),
        )

    def _from_text_layer(self, pages: PdfPages, number: int) -> Page | bool:
        """The page by its text layer; where that can't be used, whether there is one."""
        began = time.perf_counter()
        page = pages.load(number)
        text_page = page.get_textpage()
        if text_page.count_chars() > self._limits.max_page_characters:
            raise Refusal("page_too_dense")
        turn_upright(page, text_page)
        width, height = pages.pixels(page, self._limits.shown_dpi)
        layer = read_text_layer(page, text_page, width, height)
        if not layer.is_good:
            return bool(layer.text)
        text, words, _ = build_page_text(layer.blocks, width, height)
        extracted = time.perf_counter()
        reader = self._loaded()
        if isinstance(reader, LineReader) and not shows_its_text(page, (width, height), layer.words, reader):
            return True
        return Page(
            page=number,
            width=width,
            height=height,
            text=text,
            words=words,
            text_source="text_layer",
            engine=pages.engine,
            engine_version=pages.engine_version,
            timings=_rounded({"extract": extracted - began, "sample": time.perf_counter() - extracted}),
        )

    def _loaded(self) -> Recogniser:
        if self._recogniser is None:  # 0.06 s and 40 MB, for the first page that wants it
            self._recogniser = make_recogniser(self._engine, self._command, self._ask)
        return self._recogniser


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {step: round(taken, 4) for step, taken in seconds.items()}
