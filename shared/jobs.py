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


async def complete_job(
    connection: Connection, job: ClaimedJob, *, result: dict[str, Any] | None, traceparent: str | None
) -> list[int]:
    """Completes the job and enqueues what follows: the id of each. Raises LeaseLostError, JobCancelledError."""
    try:
        following: list[int] = await connection.fetchval(
            "select chartloom.complete_job($1, $2, $3, $4)", job.job_id, job.lease_token, result, traceparent
        )
    except asyncpg.PostgresError as error:
        raise translate(error) from error
    return following


async def fan_out_job(
    connection: Connection,
    job: ClaimedJob,
    *,
    child_type: str,
    payloads: Sequence[dict[str, Any]],
    result: dict[str, Any] | None,
    traceparent: str | None,
) -> list[int]:
    """Completes the job into children: their ids. What follows its type follows the last of them to complete.

    Raises LeaseLostError, JobCancelledError.
    """
    try:
        rows = await connection.fetch(
            "select chartloom.fan_out_job($1, $2, $3, $4, null, $5, $6) as id",
            job.job_id,
            job.lease_token,
            child_type,
            list(payloads),
            result,
            traceparent,
        )
    except asyncpg.PostgresError as error:
        raise translate(error) from error
    return [row["id"] for row in rows]


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
