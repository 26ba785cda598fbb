"""Supabase Storage behind the interface of ``storage``: a private bucket, reached with the service key.

``storage3`` is the ``supabase`` package's storage client: 2 MB of memory, where the package's own client brings auth,
realtime and REST along, 14 MB that nothing here calls.
"""

import json
import logging
import tempfile
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import httpx
from storage3 import AsyncStorageClient
from storage3.exceptions import StorageApiError
from storage3.types import CreateSignedUploadUrlOptions

from .errors import BusyError, TerminalError, TransientError
from .storage import CHUNK_BYTES, StoredFile, missing_file

TIMEOUT = httpx.Timeout(60.0, connect=10.0)
PAGE = 1000
"""Entries of a listing, files of a deletion: Storage takes no more at once."""
PATIENCE = timedelta(seconds=30)
FORBIDDEN_PATIENCE = timedelta(minutes=5)
_TYPES = {".jpg": "image/jpeg"}

# It logs every URL, and one that is signed is a key.
logging.getLogger("httpx").setLevel(logging.WARNING)


class SupabaseStorage:
    """A bucket. Errors become Chartloom's: 429 is patience, a 5xx or a broken line may pass, a refusal won't."""

    def __init__(self, url: str, *, key: str, bucket: str) -> None:
        """``url`` is the project's, without a path."""
        self._api = f"{url.rstrip('/')}/storage/v1/"
        self._headers = {"apikey": key, "Authorization": f"Bearer {key}"}
        self._http = httpx.AsyncClient(timeout=TIMEOUT, limits=httpx.Limits(max_connections=16))
        self._bucket_name = bucket
        self._bucket = AsyncStorageClient(self._api, self._headers, http_client=self._http).from_(bucket)

    async def put(self, path: str, chunks: AsyncIterator[bytes]) -> StoredFile:
        # Through a file: the client takes no stream, and an upload may be 50 MB.
        with tempfile.NamedTemporaryFile(prefix="chartloom-put-") as file:
            size = 0
            async for chunk in chunks:
                file.write(chunk)
                size += len(chunk)
            file.flush()
            options: Any = {
                "content-type": _TYPES.get(Path(path).suffix, "application/octet-stream"),
                "upsert": "true",
                "cache-control": "no-store",
            }
            try:
                await self._bucket.upload(path, Path(file.name), options)
            except (StorageApiError, httpx.TransportError) as error:
                # 409: somebody puts the same path at this moment. The same path is the same bytes.
                if _status(error) != 409:
                    _fail(error)
        stored = await self.stat(path)
        if stored is None or stored.size_bytes != size:
            raise TransientError("storage_failed", "Storage did not keep what it was given; it is tried again.")
        return stored

    async def stat(self, path: str) -> StoredFile | None:
        try:
            found = await self._bucket.info(path)
        except (StorageApiError, httpx.TransportError) as error:
            if _status(error) == 404:
                return None
            _fail(error)
        return _stored(path, found["size"], found["last_modified"])

    async def list(self, prefix: str) -> AsyncIterator[StoredFile]:
        folders = [prefix]
        while folders:
            folder = folders.pop()
            offset = 0
            while True:
                options: Any = {"limit": PAGE, "offset": offset, "sortBy": {"column": "name", "order": "asc"}}
                try:
                    entries = await self._bucket.list(folder, options)
                except (StorageApiError, httpx.TransportError) as error:
                    _fail(error)
                for entry in entries:
                    path = f"{folder}/{entry['name']}" if folder else entry["name"]
                    if entry["id"] is None:  # a folder is only what names have in common
                        folders.append(path)
                    else:
                        yield _stored(path, entry["metadata"]["size"], entry["updated_at"])
                if len(entries) < PAGE:
                    break
                offset += PAGE

    async def stream(self, path: str) -> AsyncIterator[bytes]:
        # By the client's own connections, not by its download(), which holds the whole file in memory.
        url = f"{self._api}object/{quote(self._bucket_name)}/{quote(path)}"
        try:
            async with self._http.stream("GET", url, headers=self._headers) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise _api_error(response)
                async for chunk in response.aiter_bytes(CHUNK_BYTES):
                    yield chunk
        except (StorageApiError, httpx.TransportError) as error:
            if _status(error) == 404:
                raise missing_file() from None
            _fail(error)

    async def delete(self, path: str) -> None:
        await self._remove([path])

    async def delete_all(self, prefix: str) -> None:
        if not prefix.strip("/"):
            raise TerminalError("storage_path_invalid", "The storage path leaves the storage folder.")
        paths = [file.path async for file in self.list(prefix)]
        for start in range(0, len(paths), PAGE):
            await self._remove(paths[start : start + PAGE])

    async def upload_url(self, path: str) -> str | None:
        options = CreateSignedUploadUrlOptions(upsert="true")
        try:
            return (await self._bucket.create_signed_upload_url(path, options))["signed_url"]
        except (StorageApiError, httpx.TransportError) as error:
            _fail(error)

    async def close(self) -> None:
        await self._http.aclose()

    async def _remove(self, paths: Sequence[str]) -> None:
        try:
            await self._bucket.remove(list(paths))
        except (StorageApiError, httpx.TransportError) as error:
            if _status(error) != 404:
                _fail(error)


def _stored(path: str, size: int, modified_at: str) -> StoredFile:
    return StoredFile(path, size, datetime.fromisoformat(modified_at))


def _api_error(response: httpx.Response) -> StorageApiError:
    """As the client reads one: the status of the body counts, which Storage sends with a plain 400 at times."""
    try:
        body = response.json()
        return StorageApiError(body["message"], body["error"], body["statusCode"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return StorageApiError("", "InternalError", response.status_code)


def _status(error: StorageApiError | httpx.TransportError) -> int | None:
    return int(error.status) if isinstance(error, StorageApiError) else None


def _fail(error: StorageApiError | httpx.TransportError) -> NoReturn:
    """Without a cause: Storage's messages quote paths."""
    match _status(error):
        case None:
            raise TransientError("storage_unreachable", "Storage can't be reached; it is tried again.") from None
        case 429:
            raise BusyError("storage_busy", "Storage asks for patience.", PATIENCE) from None
        case 401 | 403:
            # It refuses the service, not this file: every other would be refused, too.
            raise BusyError(
                "storage_forbidden", "Storage refuses the key: see SUPABASE_SERVICE_ROLE_KEY.", FORBIDDEN_PATIENCE
            ) from None
        case 413:
            raise TerminalError("file_too_large", "Storage takes no file of this size: split it.") from None
        case 415:
            raise TerminalError("file_type_refused", "Storage does not take files of this type.") from None
        case status if status < 500:
            raise TerminalError("storage_refused", f"Storage refuses the request (status {status}).") from None
        case status:
            raise TransientError("storage_failed", f"Storage failed (status {status}); it is tried again.") from None
