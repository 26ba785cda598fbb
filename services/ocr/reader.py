"""Pages of a document, read in a child process that hostile bytes may break without harm."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NoReturn

import pydantic

from shared.contract.base import Row
from shared.contract.pages import Cell, Page, Word
from shared.errors import ConfigurationError, TerminalError

from .limits import MIB, ReaderLimits
from .page_protocol import (
    HEADER,
    MAX_FRAME_BYTES,
    Engine,
    Open,
    Opened,
    PageRead,
    Read,
    Refused,
    Renderer,
    reply_adapter,
    to_frame,
)
from .refusal import ADVICE, RefusalCode

__all__ = ["DocumentReader", "ReaderLimits"]

_ROOT = Path(__file__).parents[2]
"""Where ``services`` and ``shared`` are importable from."""

_EXPANSION = 1.5
"""A page turned by 10 degrees needs up to 1.36 times its pixels."""


class DocumentReader:
    """Reads documents, one child process each; keeps nothing between them and may be shared by tasks."""

    def __init__(
        self, *, renderer: Renderer, engine: Engine, limits: ReaderLimits, tesseract_command: str | None
    ) -> None:
        """Raises ``ConfigurationError`` where a program that the renderer or the engine runs isn't installed."""
        if renderer == "pdf2image":
            _require("pdftoppm", "Install poppler-utils, or render with pypdfium2, which needs no program.")
        if engine == "pytesseract":
            _require(tesseract_command or "tesseract", "Install tesseract-ocr, or recognise with tesserocr.")
        self._renderer: Renderer = renderer
        self._engine: Engine = engine
        self._limits = limits
        self._tesseract_command = tesseract_command

    async def read(self, path: Path, *, on_page: Callable[[int, int], None] | None = None) -> list[Page]:
        """All pages in order; ``on_page(done, total)`` after each.

        Raises ``TerminalError`` with a ``RefusalCode`` as its code and advice as its message. Cancelling kills the
        child and whatever it started.
        """
        size = path.stat().st_size
        if size == 0:
            _refuse("file_empty")
        if size > self._limits.max_bytes:
            _refuse("file_too_large")
        async with self._child() as child:
            opened = await self._ask(child, self._opening(path))
            if not isinstance(opened, Opened):
                _refuse("page_invalid")
            if opened.pages > self._limits.max_pages:
                _refuse("file_too_long")
            pages: list[Page] = []
            for number in range(1, opened.pages + 1):
                answer = await self._ask(child, Read(page=number))
                if not isinstance(answer, PageRead):
                    _refuse("page_invalid")
                self._check(answer.page, number)
                pages.append(answer.page)
                if on_page is not None:
                    on_page(number, opened.pages)
            return pages

    def _opening(self, path: Path) -> Open:
        return Open(
            path=str(path.absolute()),
            renderer=self._renderer,
            engine=self._engine,
            tesseract_command=self._tesseract_command,
            limits=self._limits,
        )

    @contextlib.asynccontextmanager
    async def _child(self) -> AsyncIterator[asyncio.subprocess.Process]:
        # Its scratch folder is the parent's to remove: a killed child can't.
        with tempfile.TemporaryDirectory(prefix="chartloom-page-") as scratch:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.ocr.page_process",
                str(os.getpid()),
                str(self._limits.memory_bytes),
                # The largest file that it writes is a page in PGM, a byte a pixel, for a tesseract program.
                str(int(self._limits.max_page_pixels * _EXPANSION) + MIB),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,  # a library's complaint may quote the document
                cwd=_ROOT,
                env=_environment(scratch),
                start_new_session=True,
            )
            try:
                yield process
            finally:
                # Always the group, and never a farewell: the child holds nothing that is worth waiting for.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    async def _ask(self, child: asyncio.subprocess.Process, question: Row) -> Opened | PageRead:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            async with asyncio.timeout(self._limits.page_seconds):
                child.stdin.write(to_frame(question))
                await child.stdin.drain()
                (length,) = HEADER.unpack(await child.stdout.readexactly(HEADER.size))
                if length > MAX_FRAME_BYTES:
                    _refuse("page_invalid")
                body = await child.stdout.readexactly(length)
        except TimeoutError:
            _refuse("page_timed_out")
        except (asyncio.IncompleteReadError, ConnectionError):
            _refuse("page_timed_out" if await child.wait() == -signal.SIGXCPU else "page_reader_died")
        try:
            reply = reply_adapter.validate_json(body)
        except pydantic.ValidationError:
            _refuse("page_invalid")
        if isinstance(reply, Refused):
            _refuse(reply.code)
        return reply

    def _check(self, page: Page, number: int) -> None:
        """What the shapes can't say of a page that a broken child might have made up."""
        cells = [cell for table in page.tables for cell in table.cells]
        parts: list[Word | Cell] = [*page.words, *cells]
        holds_together = (
            page.page == number
            and page.width * page.height <= self._limits.max_page_pixels * _EXPANSION
            and "\0" not in page.text  # Postgres has no text with it
            and all(
                page.text[part.start : part.end] == part.text
                and 0 <= part.box[0] <= part.box[2] <= page.width
                and 0 <= part.box[1] <= part.box[3] <= page.height
                for part in parts
            )
        )
        if not holds_together:
            _refuse("page_invalid")


def _require(program: str, advice: str) -> None:
    if shutil.which(program) is None:
        raise ConfigurationError("program_missing", f"There is no program {program}. {advice}")


def _environment(scratch: str) -> dict[str, str]:
    """Only what reading needs: the service's own holds the database's address and keys."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),  # poppler's and tesseract's programs
        "LANG": "C.UTF-8",
        "TMPDIR": scratch,
        # One page, one core: OpenMP's threads made one page take over 18 CPU seconds instead of 2.
        "OMP_THREAD_LIMIT": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _refuse(code: RefusalCode) -> NoReturn:
    # Without a cause: a validation error quotes what it read.
    raise TerminalError(code, ADVICE[code]) from None
