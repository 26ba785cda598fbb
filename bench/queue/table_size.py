"""Measure 5: does a big table slow the queue down?

Drain of 30,000 jobs with 1,000,000 others in the table (pending behind them, finished, due later), each in a copy of
the database of its own, against an empty one.
"""

import asyncio
import time
from contextlib import AsyncExitStack

import asyncpg

from bench.report import Measurement, measured, ratio

from .drain import LOOK_EVERY_SECONDS
from .ground import EMPTY, Ground, fill
from .program import chartloom_worker, running

JOBS = 30_000
CONCURRENCY = 1_000
ROWS = 1_000_000

COLUMNS = "job_type, job_category, payload, priority, fairness_key, scheduled_at, created_at, max_retries, traceparent"
VALUES = (
    "'bench', 'fast', '{}'::jsonb, 0, (i % 1000)::text, now(), now(), 5, "
    "format('00-%s-%s-01', md5(i::text), left(md5(i::text), 16))"
)
LATER = "now() + interval '1 day' + i * interval '1 s'"
# Up to a million of them; $1 is how many are there.
TOP_UP = f"from generate_series(1, {ROWS} - $1::bigint) as i"
EXTRA = {
    "empty": None,
    # Behind the measured jobs, which have tags from 0 on.
    "pending": f"insert into chartloom.job_queue ({COLUMNS}, is_ready, fair_tag, backoff_base_seconds, "
    f"backoff_cap_seconds) select {VALUES}, true, {ROWS} + i / 1000, 2, 300 {TOP_UP}",
    "finished": "insert into chartloom.job_archive "
    f"({COLUMNS}, id, status, completed_at, retry_count, lease_losses, worker_id, result) "
    f"select {VALUES}, -i, 'completed', now() - i * interval '2 s', 0, 0, 'bench', '{{}}' {TOP_UP}",
    "due later": f"insert into chartloom.job_queue ({COLUMNS}, is_ready, backoff_base_seconds, backoff_cap_seconds) "
    f"select {VALUES.replace('now()', LATER, 1)}, false, 2, 300 {TOP_UP}",
}
EXTRA_ROWS = """
select (select count(*) from chartloom.job_queue) + (select count(*) from chartloom.job_archive where id < 0)
"""
MEASURED_IDS = "select min(id), max(id) from chartloom.job_queue where fairness_key like 'measured %'"
MEASURED_DONE = "select count(*) from chartloom.job_archive where id between $1 and $2"
FORGET = "delete from chartloom.job_archive where id > 0; truncate chartloom.queue_heads"


async def measure(ground: Ground) -> list[Measurement]:
    rates: dict[str, list[float]] = {kind: [] for kind in EXTRA}
    async with ground.owner() as connection:
        await connection.execute(EMPTY)
    async with AsyncExitStack() as copies:
        databases = {kind: await copies.enter_async_context(ground.clone(f"with_{kind[:3]}")) for kind in EXTRA}
        for _ in ground.rounds("table size"):
            for kind, database in databases.items():
                async with ground.owner(database) as connection:
                    await top_up(connection, EXTRA[kind])
                rates[kind].append(await drain(ground, database))
                ground.progress(f"  {kind}: {rates[kind][-1]:,.0f} jobs/s")
    others = [kind for kind in EXTRA if kind != "empty"]
    return [
        *(measured(f"drain beside 1,000,000 {kind}", rates[kind], "jobs/s") for kind in others),
        measured("drain beside nothing", rates["empty"], "jobs/s"),
        *(
            ratio(f"drain beside 1,000,000 {kind} / beside nothing", rates[kind], rates["empty"], at_least=0.95)
            for kind in others
        ),
    ]


async def top_up(connection: asyncpg.Connection, extra: str | None) -> None:
    """A worker goes on with what is behind: what it took from the last round is put back."""
    await connection.execute(FORGET)
    if extra is not None:
        await connection.execute(extra, await connection.fetchval(EXTRA_ROWS))


async def drain(ground: Ground, database: str, *, settled_down: bool = True) -> float:
    """Jobs/s of one worker process, from its start to claim until the archive has all that were put in for it."""
    async with ground.owner(database) as connection:
        await fill(connection, JOBS, patients="measured ")
        ids = await connection.fetchrow(MEASURED_IDS)
        assert ids is not None
        if settled_down:
            await ground.settle_down(database)
        worker = chartloom_worker(
            ground.worker_url_of(database), worker_id="bench", expected=JOBS, concurrency=CONCURRENCY
        )
        async with running(*worker) as program:
            await program.hear("ready")
            began = time.perf_counter()
            await program.go()
            await program.hear("all")
            while await connection.fetchval(MEASURED_DONE, *ids) < JOBS:
                await asyncio.sleep(LOOK_EVERY_SECONDS)
            return JOBS / (time.perf_counter() - began)
