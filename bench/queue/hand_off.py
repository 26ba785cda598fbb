"""Measure 2: complete one job with a 2 kB result and enqueue the next, a transaction each, on 10 connections.

Against the same rows written by bare SQL in the same tables: as one prepared statement with data-modifying CTEs, which
is the least that can be done, and as the three statements in a transaction that one would write by hand.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import asyncpg

from bench.report import Measurement, measured, ratio

from .ground import EMPTY, Ground, connected, fill

JOBS = 5_000
CONNECTIONS = 10
CLAIM_AT_MOST = 1_000
RESULT_BYTES = 2_000

CHARTLOOM = "select chartloom.complete_job($1, $2, $3)"
BARE = """
with done as (
    delete from chartloom.job_queue where id = $1 and lease_token = $2 returning *
),
kept as (
    insert into chartloom.job_archive (
        id, job_type, job_category, payload, status, priority, fairness_key, scheduled_at, created_at, started_at,
        completed_at, retry_count, max_retries, lease_losses, worker_id, result, idempotency_key, traceparent,
        shell_file_id, patient_id, group_id
    )
    select id, job_type, job_category, payload, 'completed', priority, fairness_key, scheduled_at, created_at,
        started_at, clock_timestamp(), retry_count, max_retries, lease_losses, worker_id, $3, idempotency_key,
        traceparent, shell_file_id, patient_id, group_id
    from done
)
insert into chartloom.job_queue (
    job_type, job_category, payload, is_ready, priority, fairness_key, fair_tag, scheduled_at, created_at,
    max_retries, backoff_base_seconds, backoff_cap_seconds, traceparent, shell_file_id, patient_id
)
select 'bench_b', job_category, payload, true, priority, fairness_key, fair_tag, clock_timestamp(), clock_timestamp(),
    max_retries, backoff_base_seconds, backoff_cap_seconds, traceparent, shell_file_id, patient_id
from done
returning id, job_type
"""

TAKE = "delete from chartloom.job_queue where id = $1 and lease_token = $2 returning *"
KEEP = """
insert into chartloom.job_archive (
    id, job_type, job_category, payload, status, priority, fairness_key, scheduled_at, created_at, started_at,
    completed_at, retry_count, max_retries, lease_losses, worker_id, result, traceparent
)
values ($1, $2, $3, $4, 'completed', $5, $6, $7, $8, $9, clock_timestamp(), $10, $11, $12, $13, $14, $15)
"""
FOLLOW = """
insert into chartloom.job_queue (
    job_type, job_category, payload, is_ready, priority, fairness_key, fair_tag, scheduled_at, created_at,
    max_retries, backoff_base_seconds, backoff_cap_seconds, traceparent
)
values ('bench_b', $1, $2, true, $3, $4, $5, clock_timestamp(), clock_timestamp(), $6, $7, $8, $9)
returning id
"""

Held = tuple[int, UUID]
Settle = Callable[[Held, str], Awaitable[None]]


async def measure(ground: Ground) -> list[Measurement]:
    variants = {
        "Chartloom": (ground.worker_url, by_one_statement(CHARTLOOM)),
        "bare SQL, one statement": (ground.owner_url, by_one_statement(BARE)),
        "bare SQL, three statements": (ground.owner_url, by_three_statements),
    }
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for number in ground.rounds("hand-off"):
        # In turn the first, so that none has always the warmer or the fresher tables.
        for name in sorted(variants, key=list(variants).index, reverse=number % 2 == 1):
            rates[name].append(await hand_off(ground, *variants[name]))
    return [
        *(measured(f"hand-off with a 2 kB result, 10 connections: {name}", rates[name], "jobs/s") for name in variants),
        ratio(
            "hand-off: Chartloom / bare SQL, one statement",
            rates["Chartloom"],
            rates["bare SQL, one statement"],
            at_least=0.85,
        ),
        ratio(
            "hand-off: Chartloom / bare SQL, three statements", rates["Chartloom"], rates["bare SQL, three statements"]
        ),
    ]


async def hand_off(ground: Ground, url: str, prepare: Callable[[asyncpg.Connection], Awaitable[Settle]]) -> float:
    held = await claimed(ground)
    result = json.dumps(boxes())
    connections = [await asyncpg.connect(url) for _ in range(CONNECTIONS)]
    try:
        prepared = [await prepare(connection) for connection in connections]
        for each in prepared:
            await each(held.pop(), result)  # plans are made, and catalogs read, before the clock starts
        jobs = len(held)
        began = time.perf_counter()
        await asyncio.gather(*(settle_all(held, each, result) for each in prepared))
        rate = jobs / (time.perf_counter() - began)
    finally:
        for connection in connections:
            await connection.close()
    async with ground.owner() as connection:
        enqueued = await connection.fetchval("select count(*) from chartloom.job_queue where job_type = 'bench_b'")
    assert enqueued == JOBS, f"{enqueued} of {JOBS} were handed over"
    return rate


def by_one_statement(text: str) -> Callable[[asyncpg.Connection], Awaitable[Settle]]:
    async def prepare(connection: asyncpg.Connection) -> Settle:
        statement = await connection.prepare(text)

        async def settle(job: Held, result: str) -> None:
            rows: Sequence[object] = await statement.fetch(*job, result)
            assert len(rows) == 1

        return settle

    return prepare


async def by_three_statements(connection: asyncpg.Connection) -> Settle:
    take, keep, follow = [await connection.prepare(text) for text in (TAKE, KEEP, FOLLOW)]

    async def settle(job: Held, result: str) -> None:
        async with connection.transaction():
            [row] = await take.fetch(*job)
            await keep.fetch(
                row["id"], row["job_type"], row["job_category"], row["payload"], row["priority"], row["fairness_key"],
                row["scheduled_at"], row["created_at"], row["started_at"], row["retry_count"], row["max_retries"],
                row["lease_losses"], row["worker_id"], result, row["traceparent"],
            )  # fmt: skip
            await follow.fetch(
                row["job_category"], row["payload"], row["priority"], row["fairness_key"], row["fair_tag"],
                row["max_retries"], row["backoff_base_seconds"], row["backoff_cap_seconds"], row["traceparent"],
            )  # fmt: skip

    return settle


async def claimed(ground: Ground) -> list[Held]:
    async with ground.owner() as connection:
        await connection.execute(EMPTY)
        await fill(connection, JOBS, job_type="bench_a")
    await ground.settle_down("chartloom")
    held: list[Held] = []
    async with connected(ground.worker_url) as connection:
        while len(held) < JOBS:
            rows = await connection.fetch(
                "select * from chartloom.claim_jobs('bench', '{bench_a}', $1, 3600)", CLAIM_AT_MOST
            )
            held += [(row["job_id"], row["lease_token"]) for row in rows]
    return held


async def settle_all(held: list[Held], settle: Settle, result: str) -> None:
    while held:
        await settle(held.pop(), result)


def boxes() -> list[dict[str, object]]:
    """What a step leaves on its job: words and where they are; it compresses as such things do."""
    source = random.Random(1)
    found: list[dict[str, object]] = []
    while len(json.dumps(found)) < RESULT_BYTES:
        found.append({"page": source.randrange(40), "box": [round(source.random(), 4) for _ in range(4)]})
    return found
