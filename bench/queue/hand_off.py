"""Measure 2: complete one job with a 2 kB result and enqueue the next, a transaction each, on 10 connections.

Against the same rows written by bare SQL: one prepared statement with data-modifying CTEs, in the same tables.
"""

import asyncio
import json
import random
import time
from collections.abc import Sequence
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

Held = tuple[int, UUID]


async def measure(ground: Ground) -> list[Measurement]:
    chartloom: list[float] = []
    bare: list[float] = []
    for number in ground.rounds("hand-off"):
        variants = [(ground.worker_url, CHARTLOOM, chartloom), (ground.owner_url, BARE, bare)]
        # In turn the first, so that neither has always the warmer or the fresher tables.
        for url, statement, rates in variants if number % 2 == 0 else reversed(variants):
            rates.append(await hand_off(ground, url, statement))
    return [
        measured("hand-off with a 2 kB result, 10 connections: Chartloom", chartloom, "jobs/s"),
        measured("hand-off, the same rows by bare SQL", bare, "jobs/s"),
        ratio("hand-off: Chartloom / bare SQL", chartloom, bare, at_least=0.85),
    ]


async def hand_off(ground: Ground, url: str, statement: str) -> float:
    held = await claimed(ground)
    result = json.dumps(boxes())
    connections = [await asyncpg.connect(url) for _ in range(CONNECTIONS)]
    try:
        prepared = [await connection.prepare(statement) for connection in connections]
        for each in prepared:
            await settle([held.pop()], each, result)  # plans are made, and catalogs read, before the clock starts
        jobs = len(held)
        began = time.perf_counter()
        await asyncio.gather(*(settle(held, each, result) for each in prepared))
        rate = jobs / (time.perf_counter() - began)
    finally:
        for connection in connections:
            await connection.close()
    async with ground.owner() as connection:
        enqueued = await connection.fetchval("select count(*) from chartloom.job_queue where job_type = 'bench_b'")
    assert enqueued == JOBS, f"{enqueued} of {JOBS} were handed over"
    return rate


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


async def settle(held: list[Held], statement: "asyncpg.prepared_stmt.PreparedStatement", result: str) -> None:
    while held:
        job_id, token = held.pop()
        rows: Sequence[object] = await statement.fetch(job_id, token, result)
        assert len(rows) == 1


def boxes() -> list[dict[str, object]]:
    """What a step leaves on its job: words and where they are; it compresses as such things do."""
    source = random.Random(1)
    found: list[dict[str, object]] = []
    while len(json.dumps(found)) < RESULT_BYTES:
        found.append({"page": source.randrange(40), "box": [round(source.random(), 4) for _ in range(4)]})
    return found
