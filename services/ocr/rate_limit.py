"""A service's limits, shared by all instances through rows: reserved before a call, and parked for all by one 429."""

from datetime import timedelta

import asyncpg

from shared.errors import BusyError

from .page_text import ReadWord
from .remote import RemoteEngine


class RateLimited:
    """A remote engine within the limit of ``key`` in ``chartloom.rate_limits``; without a row there is none."""

    def __init__(self, engine: RemoteEngine, *, pool: asyncpg.Pool, key: str) -> None:
        self._engine = engine
        self._pool = pool
        self._key = key
        self.version = engine.version

    async def recognise(self, jpeg: bytes) -> list[list[list[ReadWord]]]:
        wait = await self._pool.fetchval("select wait_seconds from chartloom.reserve_rate($1)", self._key)
        if wait > 0:
            raise BusyError("engine_rate_limited", "The limit a minute is used up.", timedelta(seconds=wait))
        try:
            return await self._engine.recognise(jpeg)
        except BusyError as busy:
            await self._pool.execute("select chartloom.park_rate($1, $2)", self._key, busy.retry_after.total_seconds())
            raise
