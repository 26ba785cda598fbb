"""Ends an attempt: completed, failed, snoozed or handed back, by one statement that its lease allows."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import structlog
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import SpanKind

from . import jobs
from .database import CONNECTION_ERRORS
from .errors import BusyError, ChartloomError, JobCancelledError, LeaseLostError, TransientError
from .handler import Attempt, FanOut
from .jobs import ClaimedJob, Result
from .logs import describe_error
from .telemetry import message_span, meter, traceparent_of

SETTLE_RETRY_SECONDS = 0.5
DATABASE_IS_AWAY = BusyError("database_away", "The database went away; the attempt is repeated.", timedelta(seconds=1))

_queue_times = {
    "fast": meter.create_histogram(
        "chartloom_fast_queue_seconds",
        unit="s",
        description="From complete_upload to the completion of the document's last fast job.",
    ),
    "ai": meter.create_histogram(
        "chartloom_ai_queue_seconds",
        unit="s",
        description="From the enqueue of the document's first AI job to persisted.",
    ),
}
"""What the service level objectives are about: a document, not a job."""


class Settler:
    """Writes how attempts ended. Each answer is the outcome: ``completed``, or the code of what came in between."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._follow_ups: dict[str, str] = {}
        self._queue_ends: dict[str, str] = {}
        self._log = structlog.get_logger()

    async def learn(self, job_types: Sequence[str]) -> None:
        """What follows which of these types, and which end a queue; asked once."""
        if self._follow_ups:
            return
        with suppress_instrumentation():
            ends = await self._pool.fetch("select * from chartloom.queue_ends($1)", list(job_types))
            rows = await self._pool.fetch("select * from chartloom.follow_ups($1)", list(job_types))
        self._queue_ends = {row["job_type"]: row["job_category"] for row in ends}
        self._follow_ups = dict.fromkeys(job_types, "")
        for row in rows:
            self._follow_ups[row["after_job_type"]] = row["next_job_type"]

    def is_followed(self, job_type: str) -> bool:
        """Whether a job of this type, completed, enqueues another."""
        return bool(self._follow_ups.get(job_type))

    async def complete(self, attempt: Attempt, stored: Result | FanOut) -> str:
        """Writes the result, and what follows."""
        return await self._until_written(attempt, lambda: self._complete(attempt.job, stored))

    async def fail(self, attempt: Attempt, failure: ChartloomError) -> str:
        """Spends the attempt."""
        return await self._until_written(attempt, lambda: self._fail(attempt.job, failure))

    async def snooze(self, attempt: Attempt, busy: BusyError) -> str:
        """Hands the job back until later; the attempt is not spent."""
        return await self._until_written(attempt, lambda: self._snooze(attempt.job, busy))

    async def release(self, attempt: Attempt) -> str:
        """Hands the job back at once; the attempt is not spent."""
        return await self._until_written(attempt, lambda: self._release(attempt.job))

    async def _until_written(self, attempt: Attempt, statement: Callable[[], Awaitable[str]]) -> str:
        """Runs the statement that ends the attempt, again while the database is away: finished work is worth waiting.

        If a commit's answer was lost, the second try finds the lease gone: the job was settled, by this very attempt.
        """
        attempt.is_settling, unsure = True, attempt.is_settling
        while True:
            try:
                return await statement()
            except CONNECTION_ERRORS as error:
                if self._pool.is_closing() or time.monotonic() > attempt.job.run_deadline:
                    # Nobody is left to write it, or nobody waits for it: the sweeper gives the job to the next.
                    self._log.warning("job_given_up", code="unsettled")
                    return "unsettled"
                unsure = True
                self._log.warning("settle_failed", **describe_error(error))
                await asyncio.sleep(SETTLE_RETRY_SECONDS)
            except (LeaseLostError, JobCancelledError) as error:
                code = "settled_or_lost" if unsure else error.code
                self._log.warning("job_given_up", code=code)
                return code

    async def _complete(self, job: ClaimedJob, stored: Result | FanOut) -> str:
        with message_span("settle", job.job_type, SpanKind.CLIENT, **ids_of(job)):
            if isinstance(stored, FanOut):
                with message_span("send", stored.child_type, SpanKind.PRODUCER, **ids_of(job)) as send:
                    sent = await jobs.fan_out_job(
                        self._pool,
                        job,
                        child_type=stored.child_type,
                        payloads=stored.payloads,
                        result=stored.write,
                        traceparent=traceparent_of(send),
                    )
                    send.set_attribute("messaging.batch.message_count", len(sent))
                return "completed"
            follow_up = self._follow_ups.get(job.job_type)
            if not follow_up:
                await self._complete_and_measure(job, stored, None)
                return "completed"
            with message_span("send", follow_up, SpanKind.PRODUCER, **ids_of(job)) as send:
                following = await self._complete_and_measure(job, stored, traceparent_of(send))
                send.set_attribute("messaging.message.id", ",".join(map(str, following)))
        return "completed"

    async def _complete_and_measure(self, job: ClaimedJob, result: Result, traceparent: str | None) -> list[int]:
        """The jobs that follow. Records how long the document was in the queue that the job ended, if it ended one."""
        queue = self._queue_ends.get(job.job_type)
        completed = await jobs.complete_job(
            self._pool, job, result=result, traceparent=traceparent, is_measured=queue is not None
        )
        if queue is not None and completed.queue_seconds is not None:
            _queue_times[queue].record(completed.queue_seconds)
        return completed.following

    async def _fail(self, job: ClaimedJob, failure: ChartloomError) -> str:
        with message_span("settle", job.job_type, SpanKind.CLIENT, **ids_of(job)):
            async with self._pool.acquire() as connection:
                return await jobs.fail_job(
                    connection,
                    job,
                    code=failure.code,
                    message=failure.message,
                    is_transient=isinstance(failure, TransientError),
                )

    async def _snooze(self, job: ClaimedJob, busy: BusyError) -> str:
        async with self._pool.acquire() as connection:
            await jobs.release_job(connection, job, delay=busy.retry_after, code=busy.code, message=busy.message)
        return "snoozed"

    async def _release(self, job: ClaimedJob) -> str:
        async with self._pool.acquire() as connection:
            await jobs.release_job(connection, job)
        return "released"


def ids_of(job: ClaimedJob) -> dict[str, Any]:
    """By which a span is found: ``{ span.document.id = "…" }``."""
    return {"job.id": str(job.job_id), "document.id": job.shell_file_id}


def as_failure(error: Exception) -> ChartloomError:
    """What the row says: a code and advice. The text of a foreign exception may quote a record, so it stays out."""
    if isinstance(error, ChartloomError):
        return error
    if isinstance(error, CONNECTION_ERRORS):
        return TransientError("connection_failed", "A connection failed; the attempt is repeated.")
    if isinstance(error, asyncpg.PostgresError):
        return TransientError(
            "database_refused", f"The database refused a statement (SQLSTATE {error.sqlstate}); see the worker's log."
        )
    return TransientError(
        "unexpected_error", f"{type(error).__name__}: a fault in Chartloom; see the worker's log by the job's id."
    )
