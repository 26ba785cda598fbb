"""Measure 5, too: does a snapshot that is held open, as by an analyst's query, slow the queue down?

Drain of 30,000 jobs while a transaction has held its snapshot for 10 minutes and 500 jobs/s went through, so that no
dead row could be vacuumed, against just before. BENCH_PIN_SECONDS makes it shorter.
"""

import asyncio
import os
import time

from bench.report import Measurement, measured, ratio

from .ground import EMPTY, Ground, fill
from .program import chartloom_worker, running
from .table_size import CONCURRENCY, drain

PIN_SECONDS = 600
JOBS_PER_SECOND = 500
TICK_SECONDS = 0.1


async def measure(ground: Ground) -> list[Measurement]:
    seconds = float(os.environ.get("BENCH_PIN_SECONDS") or PIN_SECONDS)
    async with ground.owner() as connection:
        await connection.execute(EMPTY)
    async with ground.clone("pinned") as database:
        before = [await drain(ground, database, settled_down=False) for _ in ground.rounds("before the snapshot")]
        async with ground.owner(database) as analyst, analyst.transaction(isolation="repeatable_read"):
            await analyst.fetchval("select count(*) from chartloom.job_history")
            ground.progress(f"a snapshot is held for {seconds:.0f} s under {JOBS_PER_SECOND} jobs/s")
            waiting = await flow(ground, database, seconds)
            after = [await drain(ground, database, settled_down=False) for _ in ground.rounds("under the snapshot")]
    minutes = f"{seconds / 60:g} min"
    return [
        measured("drain before a snapshot is held", before, "jobs/s"),
        measured(f"drain under a snapshot held for {minutes} and {JOBS_PER_SECOND} jobs/s", after, "jobs/s"),
        measured(f"jobs that waited at the end of these {minutes}", [waiting], "jobs"),
        ratio(f"drain under a snapshot held for {minutes} / before", after, before, at_least=0.8),
    ]


async def flow(ground: Ground, database: str, seconds: float) -> float:
    """So many jobs a second, and a worker for them. Returns how many wait at the end."""
    worker = chartloom_worker(ground.worker_url_of(database), worker_id="bench", expected=1, concurrency=CONCURRENCY)
    async with running(*worker) as program, ground.owner(database) as connection:
        await program.hear("ready")
        await program.go()
        began = time.monotonic()
        sent = 0
        while (passed := time.monotonic() - began) < seconds:
            due = int(passed * JOBS_PER_SECOND) - sent
            await fill(connection, due)
            sent += due
            await asyncio.sleep(TICK_SECONDS)
        waiting: int = await connection.fetchval("select count(*) from chartloom.job_queue where is_ready")
        return float(waiting)
