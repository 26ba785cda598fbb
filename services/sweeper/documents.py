"""Documents that no job is working on."""

from collections import Counter

import asyncpg

BATCH = 100


class LostDocuments:
    """Enqueues the step that is missing, or ends the document with a reason: SQL knows which."""

    name = "lost_documents"

    def __init__(self, *, pool: asyncpg.Pool, grace_seconds: float) -> None:
        self._pool = pool
        self._grace_seconds = grace_seconds

    async def run(self) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        while rows := await self._pool.fetch(
            "select * from chartloom.resume_documents($1, $2)", self._grace_seconds, BATCH
        ):
            outcomes.update(row["outcome"] for row in rows)
        return outcomes
