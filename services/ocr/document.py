"""One document, page by page: from the text layer where it is good, from the image otherwise."""

from pathlib import Path

from PIL import Image

from shared.contract.pages import Page

from .file_kind import recognise_kind
from .limits import ReaderLimits
from .page_protocol import Engine, Renderer
from .page_text import build_page_text
from .plain_text import read_plain_text
from .recognise import AskParent, Recogniser, make_recogniser
from .refusal import Refusal
from .render import ImagePages, Pages, PdfPages, to_jpeg
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
        if isinstance(self._pages, PdfPages) and (page := _from_text_layer(self._pages, number)):
            return page
        return self._from_image(self._pages, number)

    def image(self, number: int) -> bytes | None:
        """The upright page that the boxes of its words refer to, as a grey JPEG; None for plain text.

        Of the page that was read last it is at hand. 15 ms and 0.5 MB for A4 at 300 dpi; WebP takes ten times that.
        """
        if self._pages is None:
            return None
        if self._upright is None or self._upright[0] != number:
            assert isinstance(self._pages, PdfPages)
            self._upright = (number, self._pages.show(number))
        return to_jpeg(self._upright[1], IMAGE_QUALITY)

    def _from_image(self, pages: Pages, number: int) -> Page:
        grey, dpi = pages.render(number)
        self._upright = (number, grey)
        if not has_ink(grey, dpi):
            return Page(
                page=number,
                width=grey.width,
                height=grey.height,
                text="",
                words=(),
                text_source="blank",
                engine=pages.engine,
                engine_version=pages.engine_version,
            )
        if self._recogniser is None:  # a digital document never loads the models: 0.06 s and 40 MB
            self._recogniser = make_recogniser(self._engine, self._command, self._ask)
        upright = read_upright(grey, dpi, self._recogniser)
        self._upright = (number, upright.grey)
        text, words = build_page_text(upright.recognised.blocks, *upright.grey.size)
        return Page(
            page=number,
            width=upright.grey.width,
            height=upright.grey.height,
            text=text,
            words=words,
            text_source="ocr",
            engine=self._recogniser.name,
            engine_version=self._recogniser.version,
        )


def _from_text_layer(pages: PdfPages, number: int) -> Page | None:
    page = pages.load(number)
    turn_upright(page)
    width, height = pages.pixels(page)
    layer = read_text_layer(page, width, height)
    if not layer.is_good:
        return None
    text, words = build_page_text(layer.blocks, width, height)
    return Page(
        page=number,
        width=width,
        height=height,
        text=text,
        words=words,
        text_source="text_layer",
        engine=pages.engine,
        engine_version=pages.engine_version,
    )
