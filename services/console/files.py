"""Where users' files are: put and read with the rights of the user who asks, wherever Storage knows them."""

import os
from collections.abc import AsyncIterator
from typing import IO, Protocol
from urllib.parse import quote, urlsplit

import aiohttp

from shared.errors import ChartloomError, TerminalError, TransientError
from shared.storage import CHUNK_BYTES, Storage, missing_file, open_storage

from .settings import ConsoleSettings

CONNECT_SECONDS, SILENT_SECONDS = 10.0, 60.0


class Files(Protocol):
    async def put(self, token: str, path: str, file: IO[bytes], media_type: str) -> None:
        """Stores a file whole or not at all. Raises ChartloomError."""

    def stream(self, token: str, path: str) -> AsyncIterator[bytes]:
        """The file's bytes. Raises ChartloomError."""

    async def forget(self, path: str) -> None:
        """Removes what was put where no record is any more."""

    async def close(self) -> None:
        """Lets go of connections."""


class FolderFiles:
    """A folder knows no users: the row that names a path was read with the user's rights before."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def put(self, token: str, path: str, file: IO[bytes], media_type: str) -> None:
        await self._storage.put(path, _chunks(file))

    def stream(self, token: str, path: str) -> AsyncIterator[bytes]:
        return self._storage.stream(path)

    async def forget(self, path: str) -> None:
        await self._storage.delete(path)

    async def close(self) -> None:
        await self._storage.close()


class SupabaseFiles:
    """Supabase Storage with the user's own token: its policies decide, and no service key is in the console."""

    def __init__(self, url: str, *, anon_key: str, bucket: str) -> None:
        self._objects = f"{url.rstrip('/')}/storage/v1/object/{quote(bucket)}/"
        self._anon_key = anon_key
        self._session: aiohttp.ClientSession | None = None

    async def put(self, token: str, path: str, file: IO[bytes], media_type: str) -> None:
        form = aiohttp.FormData()
        # A second handle: the client closes what it has sent, and a failed upload is sent again.
        form.add_field("file", os.fdopen(os.dup(file.fileno()), "rb"), filename="file", content_type=media_type)
        try:
            async with self._client().post(
                self._objects + quote(path), data=form, headers={**self._rights(token), "cache-control": "no-store"}
            ) as response:
                # Of somebody who was faster: the same path is the same bytes.
                if response.status >= 400 and await _status_of(response) != 409:
                    raise _refusal(await _status_of(response))
        except (aiohttp.ClientError, TimeoutError):
            raise _refusal(None) from None

    async def stream(self, token: str, path: str) -> AsyncIterator[bytes]:
        try:
            async with self._client().get(self._objects + quote(path), headers=self._rights(token)) as response:
                if response.status >= 400:
                    raise _refusal(await _status_of(response))
                async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                    yield chunk
        except (aiohttp.ClientError, TimeoutError):
            raise _refusal(None) from None

    async def forget(self, path: str) -> None:
        """Nothing: users delete no files, and the sweeper finds those that are nobody's."""

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _client(self) -> aiohttp.ClientSession:
        """Made by the loop that uses it."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout)
        return self._session

    def _rights(self, token: str) -> dict[str, str]:
        return {"apikey": self._anon_key, "Authorization": f"Bearer {token}"}


async def _status_of(response: aiohttp.ClientResponse) -> int:
    """Storage wraps a 404 or a 409 in a plain 400 at times: the status of the body counts."""
    try:
        return int((await response.json())["statusCode"])
    except (aiohttp.ContentTypeError, ValueError, KeyError, TypeError):
        return response.status


def _refusal(status: int | None) -> ChartloomError:
    """Without a cause: Storage's messages quote paths."""
    match status:
        case 404:
            return missing_file()
        case 413:
            return TerminalError("file_too_large", "Storage takes no file of this size: split it.")
        case 415:
            return TerminalError("file_type_refused", "Storage does not take files of this type.")
        case status if status is not None and status < 500 and status != 429:
            return TerminalError("storage_refused", "Storage refused the file: load the page again, then try again.")
        case _:
            return TransientError("storage_away", "Storage does not answer just now: try again in a moment.")


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def open_files(settings: ConsoleSettings) -> Files:
    """Raises ConfigurationError."""
    url = settings.files_url
    if urlsplit(url).scheme in ("http", "https") and settings.supabase_anon_key is not None:
        return SupabaseFiles(
            url,
            anon_key=settings.supabase_anon_key.get_secret_value(),
            bucket=settings.storage_bucket,
        )
    return FolderFiles(open_storage(url))
