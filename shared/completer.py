"""Completing many jobs in one statement: what ends while one batch is on its way makes up the next."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import structlog
from opentelemetry.instrumentation.utils import suppress_instrumentation

from .database import CONNECTION_ERRORS
from .jobs import ClaimedJob, complete_jobs
from .logs import describe_error

BATCH = 500
RETRY_SECONDS = 0.5


class Completer:
    """For jobs whose whole result is a small JSON object. Each is still fenced by its own lease.

    ``ended`` is told of each job how its completion went: ``completed``, a code of the contract's (the lease is lost),
    or the error of a result that the database refuses.
    """

    def __init__(self, pool: asyncpg.Pool, ended: Callable[[ClaimedJob, str | asyncpg.PostgresError], None]) -> None:
        self._pool = pool
        self._ended = ended
        self._waiting: list[tuple[ClaimedJob, dict[str, Any]]] = []
        self._something = asyncio.Event()
        self._log = structlog.get_logger()

    def add(self, job: ClaimedJob, result: dict[str, Any]) -> None:
        self._waiting.append((job, result))
        self._something.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._something.wait()
            self._something.clear()
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
                await self._complete(batch)

    async def _complete(self, batch: list[tuple[ClaimedJob, dict[str, Any]]]) -> None:
        """Again while the database is away: finished work is worth waiting for.

        If a commit's answer was lost, the second try finds the leases gone: the jobs were completed, by this very call.
        """
        lost = {"lost": "lease_lost", "cancelled": "job_cancelled"}
        while batch:
            try:
                # Many documents' jobs in one statement: it is in none of their traces.
                with suppress_instrumentation():
                    refused = await complete_jobs(self._pool, batch)
            except CONNECTION_ERRORS as error:
                now = time.monotonic()
                given_up = [job for job, _ in batch if self._pool.is_closing() or now > job.run_deadline]
                for job in given_up:
                    # Nobody is left to write it, or nobody waits for it: the sweeper gives the job to the next.
                    self._ended(job, "unsettled")
                batch = [(job, result) for job, result in batch if job not in given_up]
                lost = dict.fromkeys(lost, "settled_or_lost")
                self._log.warning("settle_failed", **describe_error(error))
                await asyncio.sleep(RETRY_SECONDS)
            except asyncpg.PostgresError as error:
                if len(batch) == 1:
                    self._ended(batch[0][0], error)
                    return
                # One of them has a result that can't be stored, say: the others must not suffer.
                for one in batch:
                    await self._complete([one])
                return
            else:
                for job, _ in batch:
                    state = refused.get(job.job_id)
                    self._ended(job, lost[state] if state else "completed")
                return
