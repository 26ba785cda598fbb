"""Documents that stay open between jobs: the next job is often the next page of the same document."""

import asyncio
import hashlib
import tempfile
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from shared.errors import TerminalError
from shared.storage import Storage

from .child import ChildKilledError
from .page_protocol import PageRead
from .reader import BegunDocument, DocumentReader, OpenDocument, ReaderKilledError
from .refusal import Refusal, as_error
from .scan.verdict import Inspected

KEPT_SECONDS = 10.0
"""Longer than a page takes elsewhere, short enough that no file outlives its erasure by much."""
PAGES_A_CHILD = 200
"""Then another child goes on: what a library leaks ends with it."""


class Upload(NamedTuple):
    """What ``read_ocr_input`` says of the file."""

    storage_path: str
    sha256: str


class KeptDocument:
    """A document and the child that looks through and reads it, replaced when it was killed or has read enough.

    ``path`` is the upload as it came, for whoever has to look at it before it is opened. ``is_wanted_again``: it is to
    stay open, since other jobs for it are on their way.
    """

    def __init__(self, reader: DocumentReader, path: Path) -> None:
        self._reader = reader
        self.path = path
        self.is_wanted_again = False
        self._child = AsyncExitStack()
        self._begun: BegunDocument | None = None
        self._document: OpenDocument | None = None
        self._is_fresh = True
        self._pages_read = 0

    async def inspect(self) -> Inspected:
        """What the file is and holds, before anything of it is rendered. Raises ``Refusal``."""
        self._reader.check_size(self.path)
        for _ in range(2):
            begun = await self._begin()
            self._is_fresh = False
            try:
                return await begun.inspect()
            except ChildKilledError:
                await self.close()
        raise Refusal("file_too_complex")

    async def open(self) -> int:
        """How many pages it has. Raises what ``DocumentReader.open`` does."""
        if self._document is None:
            self._document = await (await self._begin()).open()
        return self._document.pages

    async def _begin(self) -> BegunDocument:
        if self._begun is None:
            self._begun = await self._child.enter_async_context(self._reader.begin(self.path))
            self._is_fresh = True
            self._pages_read = 0
        return self._begun

    async def read(self, number: int) -> PageRead:
        """The page, counted from 1. A child that was killed costs its page a second try.

        Raises ``TerminalError`` where that was killed, too: the page may be what fills the machine.
        """
        if self._pages_read >= PAGES_A_CHILD:
            await self.close()
        try:
            return await self._read(number)
        except ReaderKilledError:
            await self.close()
        except TerminalError as error:
            # What the child did before may hold the room that the page needs.
            if error.code != "page_out_of_memory" or self._is_fresh:
                raise
            await self.close()
        try:
            return await self._read(number)
        except ReaderKilledError:
            raise as_error("page_reader_died") from None

    async def _read(self, number: int) -> PageRead:
        await self.open()
        assert self._document is not None
        read = await self._document.read(number)
        self._is_fresh = False
        self._pages_read += 1
        return read

    async def close(self) -> None:
        self._begun = self._document = None
        await self._child.aclose()


class _File:
    """A download that everybody who reads the document shares; it goes with the last of them."""

    def __init__(self, download: asyncio.Task[Path], folder: tempfile.TemporaryDirectory[str]) -> None:
        self.download = download
        self.folder = folder
        self.users = 0


class _Idle(NamedTuple):
    path: str
    document: KeptDocument
    expiry: asyncio.TimerHandle


class OpenDocuments:
    """At most ``limit`` documents are open, in hand or waiting for their next job."""

    def __init__(
        self, *, storage: Storage, reader: DocumentReader, max_bytes: int, limit: int, folder: Path | None = None
    ) -> None:
        """``folder``: where uploads are while they are open."""
        self._storage = storage
        self._folder = folder
        self._reader = reader
        self._max_bytes = max_bytes
        self._limit = limit
        self._files: dict[str, _File] = {}
        self._idle: deque[_Idle] = deque()
        self._in_hand = 0
        self._closing: set[asyncio.Task[None]] = set()
        self._lingering: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def borrow(self, upload: Upload) -> AsyncIterator[KeptDocument]:
        """The document, fetched and open, or on its way to be. Whatever is raised inside closes it.

        Raises TerminalError: ``file_too_large``, ``checksum_mismatch``, ``stored_file_missing``.
        """
        path = upload.storage_path
        self._in_hand += 1
        try:
            document = self._take(path)
            if document is None:
                while self._idle and self._in_hand + len(self._idle) > self._limit:
                    await self._close(self._retire(), is_file_wanted=True)
                document = KeptDocument(self._reader, await self._hold_file(upload))
            try:
                yield document
            except BaseException:
                await self._close((path, document))
                raise
            if not document.is_wanted_again or self._in_hand + len(self._idle) > self._limit:
                # Nobody asks for it soon, or somebody waits for the room that its child takes.
                await self._close((path, document), is_file_wanted=document.is_wanted_again)
                return
            expiry = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._expire, document)
            self._idle.append(_Idle(path, document, expiry))
        finally:
            self._in_hand -= 1

    async def close(self) -> None:
        """Those that wait; whoever has one in hand closes it."""
        while self._idle:
            await self._close(self._retire())
        await asyncio.gather(*self._closing)
        for task in self._lingering:
            task.cancel()
        await asyncio.gather(*self._lingering, return_exceptions=True)

    def _take(self, path: str) -> KeptDocument | None:
        for waiting in self._idle:
            if waiting.path == path:
                waiting.expiry.cancel()
                self._idle.remove(waiting)
                return waiting.document
        return None

    def _retire(self) -> tuple[str, KeptDocument]:
        oldest = self._idle.popleft()
        oldest.expiry.cancel()
        return oldest.path, oldest.document

    def _expire(self, document: KeptDocument) -> None:
        for waiting in self._idle:
            if waiting.document is document:
                self._idle.remove(waiting)
                task = asyncio.create_task(self._close((waiting.path, document)))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
                return

    async def _close(self, kept: tuple[str, KeptDocument], *, is_file_wanted: bool = False) -> None:
        """``is_file_wanted``: its file stays for a while, or the next child would have to fetch it again."""
        path, document = kept
        try:
            await document.close()
        finally:
            if is_file_wanted:
                task = asyncio.create_task(self._let_go_later(path))
                self._lingering.add(task)
                task.add_done_callback(self._lingering.discard)
            else:
                self._let_go(path)

    # -- the file ---------------------------------------------------------------------------------------------------

    async def _hold_file(self, upload: Upload) -> Path:
        path = upload.storage_path
        if path not in self._files:
            folder = tempfile.TemporaryDirectory(prefix="chartloom-ocr-", dir=self._folder, ignore_cleanup_errors=True)
            download = asyncio.create_task(self._download(upload, Path(folder.name) / "upload"))
            self._files[path] = _File(download, folder)
        file = self._files[path]
        file.users += 1
        try:
            # Shielded: one who gives up takes nothing from the others.
            return await asyncio.shield(file.download)
        except BaseException:
            self._let_go(path)
            raise

    async def _let_go_later(self, path: str) -> None:
        try:
            await asyncio.sleep(KEPT_SECONDS)
        finally:
            self._let_go(path)

    def _let_go(self, path: str) -> None:
        file = self._files[path]
        file.users -= 1
        if file.users == 0:
            del self._files[path]
            file.download.cancel()
            file.folder.cleanup()

    async def _download(self, upload: Upload, target: Path) -> Path:
        """Streams to disk, no further than the limit, and compares with what was announced."""
        digest = hashlib.sha256()
        size = 0

        def take(chunk: bytes) -> None:
            digest.update(chunk)
            file.write(chunk)

        with target.open("wb") as file:
            async for chunk in self._storage.stream(upload.storage_path):
                size += len(chunk)
                if size > self._max_bytes:
                    raise TerminalError(
                        "file_too_large",
                        f"The file is larger than {self._max_bytes // 2**20} MB: split it and upload the parts.",
                    )
                # A tenth of a second for a long scan, in which other documents' pages need not wait.
                await asyncio.to_thread(take, chunk)
        if digest.hexdigest() != upload.sha256:
            raise TerminalError("checksum_mismatch", "The stored file is not the one announced: upload it again.")
        return target
