"""Completing many jobs in one statement: what ends while one batch is on its way makes up the next."""

import asyncio
from typing import Any

import asyncpg
from opentelemetry.instrumentation.utils import suppress_instrumentation

from .database import CONNECTION_ERRORS, Connection
from .errors import JobCancelledError, LeaseLostError
from .jobs import ClaimedJob, complete_jobs

BATCH = 500


class Completer:
    """For jobs whose whole result is a small JSON object. Each is still fenced by its own lease."""

    def __init__(self, pool: Connection) -> None:
        self._pool = pool
        self._waiting: list[tuple[ClaimedJob, dict[str, Any], asyncio.Future[None]]] = []
        self._something = asyncio.Event()

    async def complete(self, job: ClaimedJob, result: dict[str, Any]) -> None:
        """Returns once it is committed. Raises LeaseLostError, JobCancelledError, or what the database says."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, result, done))
        self._something.set()
        await done

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._something.wait()
            self._something.clear()
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                await self._complete(batch)

    async def _complete(self, batch: list[tuple[ClaimedJob, dict[str, Any], asyncio.Future[None]]]) -> None:
        try:
            # Many documents' jobs in one statement: it is in none of their traces.
            with suppress_instrumentation():
                refused = await complete_jobs(self._pool, [(job, result) for job, result, _ in batch])
        except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
            for _, _, done in batch:
                if not done.done():
                    done.set_exception(error)
            return
        for job, _, done in batch:
            if done.done():
                continue
            if (state := refused.get(job.job_id)) is None:
                done.set_result(None)
            elif state == "cancelled":
                done.set_exception(JobCancelledError("job_cancelled", "The job was cancelled."))
            else:
                done.set_exception(LeaseLostError("lease_lost", "Another attempt has the job, or it is over."))
