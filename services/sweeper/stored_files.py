"""Documents whose file is gone, and files of no document. Noted at once, acted upon after a grace."""

import re
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from shared.errors import TransientError
from shared.storage import Storage, StoredFile

from .uploads import FIRST_ID

BATCH = 1000
OURS = re.compile(r"[0-9a-f-]{36}/([0-9a-f]{64}|pages/[0-9a-f-]{36}/[0-9]+[.]jpg)")
"""What create_upload hands out, and the images of pages. Whatever else is in the folder is somebody else's."""
AWAY_FROM = 10
"""Of so many documents, half may have lost their file; of fewer, all but one."""


class MissingFiles:
    """Where most documents would have lost their file, it is the storage that is away: then nothing is noted."""

    name = "missing_files"

    def __init__(self, *, pool: asyncpg.Pool, storage: Storage, grace_seconds: float) -> None:
        self._pool = pool
        self._storage = storage
        self._grace_seconds = grace_seconds

    async def run(self) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        after = FIRST_ID
        while documents := await self._pool.fetch("select * from chartloom.stored_documents($1, $2)", after, BATCH):
            missing: list[UUID] = []
            present: list[UUID] = []
            for document in documents:
                stored = await self._storage.stat(document["storage_path"])
                (missing if stored is None else present).append(document["shell_file_id"])
            if not present or (len(documents) >= AWAY_FROM and len(missing) > len(present)):
                raise TransientError("storage_away", "Most documents have no file in storage: see to STORAGE_URL.")
            for row in await self._pool.fetch(
                "select * from chartloom.settle_stored_documents($1, $2, $3)", missing, present, self._grace_seconds
            ):
                outcomes[row["outcome"]] += 1
            outcomes["missing"] += len(missing)
            after = documents[-1]["shell_file_id"]
        return outcomes


class UnknownFiles:
    """A file comes after its row, so one without a row is a leftover, or the database is older than the storage."""

    name = "unknown_files"

    def __init__(self, *, pool: asyncpg.Pool, storage: Storage, grace_seconds: float, may_delete: bool) -> None:
        self._pool = pool
        self._storage = storage
        self._grace_seconds = grace_seconds
        self._may_delete = may_delete

    async def run(self) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        # First by its own time: a file that was put a moment ago may be ahead of its row.
        before = datetime.now(UTC) - timedelta(seconds=self._grace_seconds)
        async for batch in _batches(self._storage.list("")):
            old = [file for file in batch if OURS.fullmatch(file.path) and file.modified_at <= before]
            for row in await self._pool.fetch(
                "select * from chartloom.note_unknown_files($1, $2, $3)",
                [file.path for file in old],
                [file.size_bytes for file in old],
                self._grace_seconds,
            ):
                is_deleted = self._may_delete and row["is_expired"] and await self._delete(row["storage_path"])
                outcomes["deleted" if is_deleted else "unknown"] += 1
        return outcomes

    async def _delete(self, path: str) -> bool:
        async with self._pool.acquire() as connection, connection.transaction():
            if not await connection.fetchval(
                "select chartloom.release_unknown_file($1, $2)", path, self._grace_seconds
            ):
                return False
            await self._storage.delete(path)
        return True


async def _batches(files: AsyncIterator[StoredFile]) -> AsyncIterator[list[StoredFile]]:
    batch: list[StoredFile] = []
    async for file in files:
        batch.append(file)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
