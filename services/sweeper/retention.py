"""The archive's partitions, made ahead and dropped; what is past its time, deleted in batches."""

from collections import Counter
from datetime import UTC, date, datetime

import asyncpg

BATCH = 1000
MOST_BATCHES = 100
"""In one pass: what is left has time until the next."""
MONTHS_AHEAD = 2
MOST_STEPS = 5
"""Created, fenced, validated, attached: a partition takes three calls at most."""


class Archive:
    """A partition for this month and the next ones, and none that is past the retention."""

    name = "archive"

    def __init__(self, *, pool: asyncpg.Pool, retention_days: int) -> None:
        self._pool = pool
        self._retention_days = retention_days

    async def run(self) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        for month in _months(datetime.now(UTC).date(), MONTHS_AHEAD):
            for _ in range(MOST_STEPS):
                step = await self._pool.fetchval("select chartloom.make_archive_partition($1)", month)
                if step not in ("fenced", "validated"):
                    break
            if step != "there":
                outcomes[step] += 1
        while await self._pool.fetchval("select chartloom.drop_archive_partition($1)", self._retention_days):
            outcomes["dropped"] += 1
        return outcomes


class Retention:
    """Deletes until nothing is left that is past its time."""

    name = "retention"

    def __init__(self, *, pool: asyncpg.Pool, retention_days: int) -> None:
        self._pool = pool
        self._retention_days = retention_days

    async def run(self) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        for _ in range(MOST_BATCHES):
            deleted = {
                row["kind"]: row["deleted"]
                for row in await self._pool.fetch(
                    "select * from chartloom.delete_expired($1, $2)", self._retention_days, BATCH
                )
            }
            outcomes.update(deleted)
            if max(deleted.values()) < BATCH:
                break
        return outcomes


def _months(first: date, ahead: int) -> list[date]:
    return [date(first.year + (first.month - 1 + n) // 12, (first.month - 1 + n) % 12 + 1, 1) for n in range(ahead + 1)]
