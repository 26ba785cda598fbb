"""Pages of a document, read in a child process that hostile bytes may break without harm."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

from shared.contract.pages import Cell, Page, Word
from shared.errors import ConfigurationError, TransientError

from .child import Child, ChildKilledError, confined_child
from .forked import ForkServer
from .limits import MIB, ReaderLimits
from .page_protocol import Engine, Open, Opened, PageRead, Read, Recognise, Renderer, Words
from .refusal import Refusal, as_error
from .remote import RemoteEngine
from .sandbox import Sandbox
from .scan.verdict import Inspect, Inspected

__all__ = ["BegunDocument", "DocumentReader", "OpenDocument", "ReaderKilledError", "ReaderLimits"]

_JPEG = b"\xff\xd8\xff"

_EXPANSION = 1.5
"""A page turned by 10 degrees needs up to 1.36 times its pixels."""


class ReaderKilledError(TransientError):
    """The child was killed from outside: by the system that ran out of memory, or by hand."""


class BegunDocument:
    """A document and its child, which has not touched it yet."""

    def __init__(self, child: Child, path: Path, limits: ReaderLimits, opened: Callable[[], Awaitable["OpenDocument"]]):
        self._child = child
        self._path = path
        self._limits = limits
        self._opened = opened

    async def inspect(self) -> Inspected:
        """What the file is and holds. Raises ``Refusal``, with which the document is over, and ``ChildKilledError``."""
        return await self._child.ask(
            Inspect(path=str(self._path.absolute()), limits=self._limits),
            Inspected,
            seconds=self._limits.scan_seconds,
            timed_out="file_too_complex",
            died="file_too_complex",
        )

    async def open(self) -> "OpenDocument":
        """The document, for its pages. Raises what ``DocumentReader.open`` does."""
        with _as_errors():
            return await self._opened()


class OpenDocument:
    """A document in its child. One page at a time; once anything was raised, it is over."""

    def __init__(self, pages: int, ask: Callable[[int], Awaitable[PageRead]]) -> None:
        self.pages = pages
        self._ask = ask

    async def read(self, number: int) -> PageRead:
        """The page, counted from 1. Raises what ``DocumentReader.open`` does."""
        with _as_errors():
            return await self._ask(number)


@contextmanager
def _as_errors() -> Iterator[None]:
    try:
        yield
    except Refusal as refusal:
        raise as_error(refusal.code) from None
    except ChildKilledError:
        raise ReaderKilledError(
            "page_reader_killed", "The page reader was killed, perhaps for want of memory; it is tried again."
        ) from None


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
        remote: RemoteEngine | None = None,
        with_images: bool = False,
        fork_server: ForkServer | None = None,
    ) -> None:
        """``fork_server`` starts the children of documents in its folder. ``remote`` reads for the engine ``google``,
        which the child can't reach.

        Raises ``ConfigurationError`` where a program that the renderer or the engine runs isn't installed.
        """
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
        self._remote = remote
        self._with_images = with_images
        self._fork_server = fork_server

    async def read(self, path: Path, *, on_page: Callable[[int, int], None] | None = None) -> list[Page]:
        """All pages in order; ``on_page(done, total)`` after each. Raises what ``open`` does."""
        pages: list[Page] = []
        async with self.open(path) as document:
            for number in range(1, document.pages + 1):
                pages.append((await document.read(number)).page)
                if on_page is not None:
                    on_page(number, document.pages)
        return pages

    @asynccontextmanager
    async def open(self, path: Path) -> AsyncIterator[OpenDocument]:
        """The document in a child of its own, until the block ends.

        Raises ``TerminalError`` with a ``RefusalCode`` as its code and advice as its message, ``ReaderKilledError``,
        and what the remote engine raises. Cancelling kills the child and whatever it started.
        """
        with _as_errors():
            self.check_size(path)
        async with self.begin(path) as begun:
            yield await begun.open()

    def check_size(self, path: Path) -> None:
        """Before a child is begun for it. Raises ``Refusal``."""
        size = path.stat().st_size
        if size == 0:
            raise Refusal("file_empty")
        if size > self._limits.max_bytes:
            raise Refusal("file_too_large")

    @asynccontextmanager
    async def begin(self, path: Path) -> AsyncIterator[BegunDocument]:
        """A child for the document, until the block ends. Cancelling kills it and whatever it started."""

        async def opened() -> OpenDocument:
            answer = await child.ask(self._opening(path), Opened, seconds=self._limits.page_seconds)
            if answer.pages > self._limits.max_pages:
                raise Refusal("file_too_long")
            return OpenDocument(answer.pages, lambda number: self._read(child, number))

        async with self._child(path) as child:
            yield BegunDocument(child, path, self._limits, opened)

    async def _read(self, child: Child, number: int) -> PageRead:
        seconds = self._limits.page_seconds
        question = Read(page=number, with_image=self._with_images)
        answer: PageRead | Recognise = await child.ask(question, PageRead, Recognise, seconds=seconds)
        while isinstance(answer, Recognise):
            if self._remote is None:
                raise Refusal("page_invalid")
            blocks = await self._remote.recognise(answer.image)
            words = Words(blocks=blocks, engine_version=self._remote.version)
            answer = await child.ask(words, PageRead, Recognise, seconds=seconds)
        self._check(answer.page, number)
        if answer.image and not answer.image.startswith(_JPEG):
            raise Refusal("page_invalid")
        return answer

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
            fork_server=self._fork_server,
        )

    def _check(self, page: Page, number: int) -> None:
        """What the shapes can't say of a page that a broken child might have made up."""
        cells = [cell for table in page.tables for cell in table.cells]
        parts: list[Word | Cell] = [*page.words, *cells]
        holds_together = (
            page.page == number
            and page.width * page.height <= self._limits.max_page_pixels * _EXPANSION
            and len(page.words) <= self._limits.max_page_words
            and len(page.text) <= self._limits.max_page_characters
            and "\0" not in page.text  # Postgres has no text with it
            and all(
                page.text[part.start : part.end] == part.text
                and 0 <= part.box[0] <= part.box[2] <= page.width
                and 0 <= part.box[1] <= part.box[3] <= page.height
                for part in parts
            )
        )
        if not holds_together:
            raise Refusal("page_invalid")

    def _require(self, program: str, advice: str) -> None:
        if shutil.which(program) is None:
            raise ConfigurationError("program_missing", f"There is no program {program}. {advice}")
        self._programs.append(program)
