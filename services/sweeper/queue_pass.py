"""What the sweeper's loop does all the time, once: for a pass of its own."""

from collections import Counter

import asyncpg

from .handler import BATCH, sweep_leases


class QueuePass:
    """Expired leases, due retries, failed audit events, sleepers whom a wake-up missed."""

    name = "queue"

    def __init__(self, *, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def run(self) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        while swept := await sweep_leases(self._pool):
            outcomes.update(swept)
            if max(swept.values()) < BATCH:
                break
        outcomes["audited"] = await self._pool.fetchval("select chartloom.retry_audit_events($1)", BATCH)
        outcomes["woken_for"] = await self._pool.fetchval("select chartloom.wake_for_ready_jobs()")
        return outcomes
