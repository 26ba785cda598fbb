"""Typed wrappers of the job functions in ``migrations/``. SQL owns the state machine: no transition is decided here."""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from .database import Connection, translate

NOOP_PAYLOAD = {"noop": True}


class ClaimedJob(NamedTuple):
    """One attempt at one job. The lease token is this attempt's right to write anything at all."""

    job_id: int
    job_type: str
    payload: dict[str, Any]
    lease_token: UUID
    attempt: int
    waited_seconds: float
    """From the moment it was due to its claim, by the database's clock."""
    traceparent: str
    shell_file_id: UUID | None
    run_deadline: float
    """Where the attempt has run too long, by ``time.monotonic()``: a worker's own date may be an hour off."""

    @property
    def is_noop(self) -> bool:
        return self.payload == NOOP_PAYLOAD


async def claim_jobs(
    connection: Connection, *, worker_id: str, job_types: Sequence[str], limit: int, lease_seconds: int
) -> list[ClaimedJob]:
    """Up to ``limit`` jobs, the types in the order given; fewer means that no more were ready."""
    began = time.monotonic()
    rows = await connection.fetch(
        "select job_id, job_type, payload, lease_token, attempt,"
        " extract(epoch from now() - scheduled_at)::float8, traceparent, shell_file_id,"
        " extract(epoch from run_deadline_at - now())::float8 from chartloom.claim_jobs($1, $2, $3, $4)",
        worker_id,
        list(job_types),
        limit,
        lease_seconds,
    )
    return [ClaimedJob._make((*row[:-1], began + row[-1])) for row in rows]


async def heartbeat_jobs(
    connection: Connection,
    *,
    worker_id: str,
    service: str,
    version: str,
    jobs: Sequence[ClaimedJob],
    lease_seconds: int,
    details: dict[str, Any],
    progress: Sequence[float | None] = (),
) -> dict[UUID, str]:
    """Renews every lease in one statement. Says of each lease token: held, lost, cancelled or overdue."""
    rows = await connection.fetch(
        "select * from chartloom.heartbeat_jobs($1, $2, $3, $4, $5, $6, $7, $8)",
        worker_id,
        service,
        version,
        [job.job_id for job in jobs],
        [job.lease_token for job in jobs],
        lease_seconds,
        details,
        list(progress),
    )
    return {row["lease_token"]: row["state"] for row in rows}


class Write(NamedTuple):
    """How a result is written, by the statement that completes the job: all of it or nothing, in one round trip.

    ``function`` takes the job's id, its lease token and ``arguments``, and returns what the job's own row keeps.
    """

    function: str
    arguments: tuple[Any, ...]


Result = dict[str, Any] | Write | None
"""What the job's row keeps (counts, timings), or the function that tells it."""


class Completed(NamedTuple):
    """``following`` are the jobs enqueued. ``queue_seconds``: how long the document was in the queue that ends here."""

    following: list[int]
    queue_seconds: float | None


async def complete_job(
    connection: Connection, job: ClaimedJob, *, result: Result, traceparent: str | None, is_measured: bool = False
) -> Completed:
    """Completes the job and enqueues what follows. Raises LeaseLostError, JobCancelledError."""
    expression, arguments = _expression(result, first=4)
    measure = "chartloom.queue_seconds($1)" if is_measured else "null::float8"
    try:
        row = await connection.fetchrow(
            f"select chartloom.complete_job($1, $2, {expression}, $3), {measure}",
            job.job_id,
            job.lease_token,
            traceparent,
            *arguments,
        )
    except asyncpg.PostgresError as error:
        raise translate(error) from error
    assert row is not None
    return Completed(*row)


async def fan_out_job(
    connection: Connection,
    job: ClaimedJob,
    *,
    child_type: str,
    payloads: Sequence[dict[str, Any]],
    result: Result,
    traceparent: str | None,
) -> list[int]:
    """Completes the job into children: their ids. What follows its type follows the last of them to complete.

    Raises LeaseLostError, JobCancelledError.
    """
    expression, arguments = _expression(result, first=6)
    try:
        rows = await connection.fetch(
            f"select chartloom.fan_out_job($1, $2, $3, $4, null, {expression}, $5) as id",
            job.job_id,
            job.lease_token,
            child_type,
            list(payloads),
            traceparent,
            *arguments,
        )
    except asyncpg.PostgresError as error:
        raise translate(error) from error
    return [row["id"] for row in rows]


def _expression(result: Result, *, first: int) -> tuple[str, tuple[Any, ...]]:
    """The result as an argument of a function whose own are ``$1``, the job, ``$2``, its lease, and up to ``first``."""
    if isinstance(result, Write):
        places = "".join(f", ${place}" for place in range(first, first + len(result.arguments)))
        return f"{result.function}($1, $2{places})", result.arguments
    return f"${first}", (result,)


async def complete_jobs(
    connection: Connection, completed: Sequence[tuple[ClaimedJob, dict[str, Any]]]
) -> dict[int, str]:
    """Completes many in one statement, each by its own lease. Returns those refused: ``lost`` or ``cancelled``."""
    rows = await connection.fetch(
        "select * from chartloom.complete_jobs($1, $2, $3)",
        [job.job_id for job, _ in completed],
        [job.lease_token for job, _ in completed],
        [result for _, result in completed],
    )
    return {row["job_id"]: row["state"] for row in rows}


async def fail_job(connection: Connection, job: ClaimedJob, *, code: str, message: str, is_transient: bool) -> str:
    """Ends the attempt in error. Returns ``failed`` (waits for its retry) or ``dead_letter``. Raises LeaseLostError."""
    try:
        status: str = await connection.fetchval(
            "select chartloom.fail_job($1, $2, $3, $4, $5)", job.job_id, job.lease_token, code, message, is_transient
        )
    except asyncpg.PostgresError as error:
        raise translate(error) from error
    return status


async def release_job(
    connection: Connection,
    job: ClaimedJob,
    *,
    delay: timedelta = timedelta(0),
    code: str = "released",
    message: str = "Handed back.",
) -> None:
    """Hands the job back, now or after a delay, without spending an attempt. Raises LeaseLostError."""
    try:
        await connection.execute(
            "select chartloom.release_job($1, $2, $3, $4, $5)",
            job.job_id,
            job.lease_token,
            delay.total_seconds(),
            code,
            message,
        )
    except asyncpg.PostgresError as error:
        raise translate(error) from error
