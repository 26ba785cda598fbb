"""Where files are: one interface, a folder or Supabase Storage behind it. Paths are ids and hashes, never user text."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from .errors import ConfigurationError, TerminalError

CHUNK_BYTES = 1 << 20
BUCKET = "records"
"""Made by the migrations, with the policies of who may put and read there."""


@dataclass(frozen=True)
class StoredFile:
    path: str
    size_bytes: int
    modified_at: datetime


class Storage(Protocol):
    async def put(self, path: str, chunks: AsyncIterator[bytes]) -> StoredFile:
        """Stores a file whole or not at all; the same path again replaces it."""

    async def stat(self, path: str) -> StoredFile | None:
        """The file's size and time, or None where there is no such file."""

    def list(self, prefix: str) -> AsyncIterator[StoredFile]:
        """Every file under a prefix."""

    def stream(self, path: str) -> AsyncIterator[bytes]:
        """The file's bytes. Raises TerminalError ``stored_file_missing``."""

    async def delete(self, path: str) -> None:
        """Removes a file; none there is no error."""

    async def delete_all(self, prefix: str) -> None:
        """Removes every file under a prefix, those that were never wholly written among them."""

    async def upload_url(self, path: str) -> str | None:
        """Where a client may PUT this one file without a key, for two hours; None where there is no such way."""

    async def close(self) -> None:
        """Lets go of connections; nothing is asked of it after that."""


class LocalStorage:
    """A folder. Writes go to a temporary file that is renamed, so that a reader never sees half of one."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def _resolve(self, path: str) -> Path:
        target = (self._root / path).resolve()
        if not target.is_relative_to(self._root) or target == self._root:
            raise TerminalError("storage_path_invalid", "The storage path leaves the storage folder.")
        return target

    async def put(self, path: str, chunks: AsyncIterator[bytes]) -> StoredFile:
        target = self._resolve(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".partial-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                async for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes 0600; services of one deployment may run as different users of one group.
            Path(name).chmod(0o640)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return _describe(self._root, target)

    async def stat(self, path: str) -> StoredFile | None:
        target = self._resolve(path)
        return _describe(self._root, target) if target.is_file() else None

    async def list(self, prefix: str) -> AsyncIterator[StoredFile]:
        folders = [self._resolve(prefix) if prefix else self._root]
        while folders:
            # A folder at a time, and in a thread: whoever lists all that there is has other things to do meanwhile.
            inside, files = await asyncio.to_thread(_look_into, self._root, folders.pop())
            folders += inside
            for file in files:
                yield file

    async def stream(self, path: str) -> AsyncIterator[bytes]:
        target = self._resolve(path)
        if not target.is_file():
            raise missing_file()
        with target.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    async def delete(self, path: str) -> None:
        self._resolve(path).unlink(missing_ok=True)

    async def delete_all(self, prefix: str) -> None:
        folder = self._resolve(prefix)
        if folder.is_dir():
            await asyncio.to_thread(shutil.rmtree, folder)

    async def upload_url(self, path: str) -> str | None:
        return None

    async def close(self) -> None:
        """A folder holds none."""


def missing_file() -> TerminalError:
    return TerminalError("stored_file_missing", "The uploaded file is not in storage: upload it again.")


def _describe(root: Path, target: Path) -> StoredFile:
    stat = target.stat()
    return StoredFile(target.relative_to(root).as_posix(), stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))


def _look_into(root: Path, folder: Path) -> tuple[list[Path], list[StoredFile]]:
    """The folders in it, last first, and its files. What goes away meanwhile is not there."""
    folders = []
    files = []
    with contextlib.suppress(FileNotFoundError):
        for found in sorted(folder.iterdir(), reverse=True):
            if found.is_dir() and not found.is_symlink():
                folders.append(found)
            elif found.is_file() and not found.name.startswith(".partial-"):
                with contextlib.suppress(FileNotFoundError):
                    files.append(_describe(root, found))
    return folders, files[::-1]


async def once(content: bytes) -> AsyncIterator[bytes]:
    """What is in memory as the chunks that ``put`` takes."""
    yield content


def open_storage(url: str, *, key: str | None = None, bucket: str = BUCKET) -> Storage:
    """``file:///absolute/folder``, or the address of a Supabase project and its service key.

    Raises ConfigurationError.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path:
        return LocalStorage(Path(unquote(parts.path)))
    if parts.scheme in ("http", "https") and parts.netloc and parts.path in ("", "/"):
        if not key:
            raise ConfigurationError(
                "storage_key_missing", "SUPABASE_SERVICE_ROLE_KEY: Supabase Storage is reached with the service key."
            )
        from .supabase_storage import SupabaseStorage  # noqa: PLC0415 - not every service has the package

        return SupabaseStorage(url, key=key, bucket=bucket)
    raise ConfigurationError(
        "storage_url_unsupported", "STORAGE_URL must look like file:///absolute/folder or https://PROJECT.supabase.co."
    )
