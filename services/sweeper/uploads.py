"""Uploads that were announced and never completed: ended by what is in storage."""

import hashlib
from collections import Counter
from uuid import UUID

import asyncpg

from shared.errors import TerminalError
from shared.storage import Storage

BATCH = 100
FIRST_ID = UUID(int=0)


class StaleUploads:
    """A client that died after its last byte is helped to its end; one that never sent it is told so."""

    name = "stale_uploads"

    def __init__(self, *, pool: asyncpg.Pool, storage: Storage, grace_seconds: float) -> None:
        self._pool = pool
        self._storage = storage
        self._grace_seconds = grace_seconds

    async def run(self) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        after = FIRST_ID
        while uploads := await self._pool.fetch(
            "select * from chartloom.stale_uploads($1, $2, $3)", self._grace_seconds, after, BATCH
        ):
            for upload in uploads:
                found = await self._look(upload["storage_path"], upload["size_bytes"], upload["sha256"])
                status = await self._pool.fetchval(
                    "select chartloom.settle_upload($1, $2, $3)", upload["shell_file_id"], found, self._grace_seconds
                )
                if status is not None:
                    outcomes["completed" if found == "whole" else f"failed_{found}"] += 1
            after = uploads[-1]["shell_file_id"]
        return outcomes

    async def _look(self, path: str, size_bytes: int, sha256: str) -> str:
        """``nothing``, ``different``, or ``whole``: only then are they the bytes that the client announced."""
        stored = await self._storage.stat(path)
        if stored is None:
            return "nothing"
        if stored.size_bytes != size_bytes:
            return "different"
        digest = hashlib.sha256()
        try:
            async for chunk in self._storage.stream(path):
                digest.update(chunk)
        except TerminalError:
            return "nothing"
        return "whole" if digest.hexdigest() == sha256 else "different"
