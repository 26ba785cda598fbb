"""Pages of a document, read in a child process that hostile bytes may break without harm."""

import shutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from shared.contract.pages import Page
from shared.errors import ConfigurationError

from .child import Child, ChildKilledError, confined_child
from .limits import MIB, ReaderLimits
from .page_protocol import Engine, Open, Opened, PageRead, Read, Renderer
from .refusal import Refusal, as_error
from .sandbox import Sandbox

__all__ = ["DocumentReader", "ReaderLimits"]

_EXPANSION = 1.5
"""A page turned by 10 degrees needs up to 1.36 times its pixels."""


class DocumentReader:
    """Reads documents, one child process each; keeps nothing between them and may be shared by tasks."""

    def __init__(
        self,
        *,
        renderer: Renderer,
        engine: Engine,
        limits: ReaderLimits,
        tesseract_command: str | None,
        sandbox: Sandbox | None = None,
    ) -> None:
        """Raises ``ConfigurationError`` where a program that the renderer or the engine runs isn't installed."""
        self._programs: list[str] = []
        if renderer == "pdf2image":
            self._require("pdftoppm", "Install poppler-utils, or render with pypdfium2, which needs no program.")
        if engine == "pytesseract":
            self._require(tesseract_command or "tesseract", "Install tesseract-ocr, or recognise with tesserocr.")
        self._sandbox = sandbox or Sandbox("auto")
        self._renderer: Renderer = renderer
        self._engine: Engine = engine
        self._limits = limits
        self._tesseract_command = tesseract_command

    async def read(self, path: Path, *, on_page: Callable[[int, int], None] | None = None) -> list[Page]:
        """All pages in order; ``on_page(done, total)`` after each.

        Raises ``TerminalError`` with a ``RefusalCode`` as its code and advice as its message. Cancelling kills the
        child and whatever it started.
        """
        try:
            return await self._read(path, on_page)
        except Refusal as refusal:
            raise as_error(refusal.code) from None

    async def _read(self, path: Path, on_page: Callable[[int, int], None] | None) -> list[Page]:
        size = path.stat().st_size
        if size == 0:
            raise Refusal("file_empty")
        if size > self._limits.max_bytes:
            raise Refusal("file_too_large")
        pages: list[Page] = []
        killed_at = None
        while True:
            try:
                async with self._child(path) as child:
                    opened = await child.ask(self._opening(path), Opened, seconds=self._limits.page_seconds)
                    if opened.pages > self._limits.max_pages:
                        raise Refusal("file_too_long")
                    for number in range(len(pages) + 1, opened.pages + 1):
                        answer = await child.ask(Read(page=number), PageRead, seconds=self._limits.page_seconds)
                        self._check(answer.page, number)
                        pages.append(answer.page)
                        if on_page is not None:
                            on_page(number, opened.pages)
                    return pages
            except ChildKilledError:
                # Another goes on where it stood. Twice on the same page: the page may be what fills the machine.
                if killed_at == len(pages):
                    raise Refusal("page_reader_died") from None
                killed_at = len(pages)

    def _opening(self, path: Path) -> Open:
        return Open(
            path=str(path.absolute()),
            renderer=self._renderer,
            engine=self._engine,
            tesseract_command=self._tesseract_command,
            limits=self._limits,
        )

    def _child(self, path: Path) -> AbstractAsyncContextManager[Child]:
        return confined_child(
            self._sandbox,
            "services.ocr.page_process",
            path,
            memory_bytes=self._limits.memory_bytes,
            # The largest file that it writes is a page in PGM, a byte a pixel, for a program.
            largest_file=int(self._limits.max_page_pixels * _EXPANSION) + MIB if self._programs else 0,
            programs=self._programs,
            timed_out="page_timed_out",
            died="page_reader_died",
        )

    def _check(self, page: Page, number: int) -> None:
        """What the shapes can't say of a page that a broken child might have made up."""
        holds_together = (
            page.page == number
            and page.width * page.height <= self._limits.max_page_pixels * _EXPANSION
            and len(page.words) <= self._limits.max_page_words
            and len(page.text) <= self._limits.max_page_characters
            and "\0" not in page.text  # Postgres has no text with it
            and all(
                page.text[word.start : word.end] == word.text
                and 0 <= word.box[0] <= word.box[2] <= page.width
                and 0 <= word.box[1] <= word.box[3] <= page.height
                for word in page.words
            )
        )
        if not holds_together:
            raise Refusal("page_invalid")

    def _require(self, program: str, advice: str) -> None:
        if shutil.which(program) is None:
            raise ConfigurationError("program_missing", f"There is no program {program}. {advice}")
        self._programs.append(program)
