"""Proves the job contract against a live database: a no-op job of every type is enqueued, claimed and completed.

All of it happens in one transaction that is rolled back: no worker sees these jobs, and nothing is left of them.
"""

import asyncio
from collections.abc import AsyncIterator

import asyncpg

from shared import jobs
from shared.database import translate
from shared.errors import LeaseLostError

HIGHEST_PRIORITY = 100
CLAIMS = 6
CLAIM_PAUSE_SECONDS = 0.25


async def check_contract(connection: asyncpg.Connection) -> AsyncIterator[tuple[str, str | None]]:
    """Yields each job type with None where it passed, else what went wrong."""
    types = await connection.fetch("select job_type, job_category from chartloom.job_types order by job_type")
    for row in types:
        transaction = connection.transaction()
        await transaction.start()
        try:
            problem = await _check_type(connection, row["job_type"], row["job_category"])
        except asyncpg.PostgresError as error:
            problem = f"{translate(error)} (SQLSTATE {error.sqlstate})"
        finally:
            await transaction.rollback()
        yield row["job_type"], problem


async def _check_type(connection: asyncpg.Connection, job_type: str, category: str) -> str | None:
    job_id = await connection.fetchval(
        "select chartloom.enqueue_job_v3($1, $2, $3, p_priority => $4)",
        job_type,
        category,
        jobs.NOOP_PAYLOAD,
        HIGHEST_PRIORITY,
    )
    job = await _claim(connection, job_type, job_id)
    if job is None:
        return "the claim did not return the job that was enqueued"
    states = await jobs.heartbeat_jobs(
        connection, worker_id="contract-check", service="contract-check", version="0", jobs=[job],
        lease_seconds=60, details={},
    )  # fmt: skip
    if states != {job.lease_token: "held"}:
        return "the heartbeat did not find the lease held"
    await jobs.complete_job(connection, job, result=None, traceparent=None)
    status = await connection.fetchval("select status from chartloom.job_history where id = $1", job_id)
    if status != "completed":
        return f"the completed job is {status}"
    savepoint = connection.transaction()
    await savepoint.start()
    try:
        await jobs.complete_job(connection, job, result=None, traceparent=None)
    except LeaseLostError:
        return None
    finally:
        await savepoint.rollback()
    return "a second completion by the same lease was accepted"


async def _claim(connection: asyncpg.Connection, job_type: str, job_id: int) -> jobs.ClaimedJob | None:
    """Where others wait in the queue, a priority that is new to it is met within a second of claims."""
    for _ in range(CLAIMS):
        claimed = await jobs.claim_jobs(
            connection, worker_id="contract-check", job_types=[job_type], limit=1, lease_seconds=60
        )
        for job in claimed:
            if job.job_id == job_id:
                return job
        if not claimed:
            return None
        await asyncio.sleep(CLAIM_PAUSE_SECONDS)
    return None
