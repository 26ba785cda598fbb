"""Measure 6: one patient with 500 jobs and 999 with one each, all enqueued in one transaction, the heavy one first.

How many of the starts before the last single-job patient's are the heavy patient's, and how much longer the others wait
for it. One worker with 4 jobs in hand, 2 ms each.
"""

import asyncio
import time
from statistics import quantiles

from bench.report import Measurement, measured, ratio

from .ground import EMPTY, Ground
from .program import chartloom_worker, running

HEAVY = 500
SINGLES = 999
CONCURRENCY = 4
WORK_SECONDS = 0.002

ENQUEUE = """
select count(chartloom.enqueue_job_v3('bench', 'fast', '{}', p_fairness_key => patient))
from (
    select 'heavy' as patient from generate_series(1, $1)
    union all
    select 'single ' || i from generate_series(1, $2) as i
) as jobs
"""
SHARE = """
select 100.0 * count(*) filter (where fairness_key = 'heavy') / count(*)
from chartloom.job_archive
where started_at <= (select max(started_at) from chartloom.job_archive where fairness_key <> 'heavy')
"""
WAITS = """
select extract(epoch from started_at)::float8 - $1::float8 from chartloom.job_archive where fairness_key <> 'heavy'
"""


async def measure(ground: Ground) -> list[Measurement]:
    shares: list[float] = []
    beside: list[float] = []
    alone: list[float] = []
    for number in ground.rounds("fairness"):
        for heavy in (HEAVY, 0) if number % 2 == 0 else (0, HEAVY):
            share, p95 = await all_at_once(ground, heavy)
            (beside if heavy else alone).append(p95)
            if heavy:
                shares.append(share)
    return [
        measured("fairness: heavy patient's share of the starts before the last other's", shares, "%", at_most=1.0),
        measured("fairness: p95 wait of 999 patients beside one with 500 jobs", beside, "ms"),
        measured("fairness: p95 wait of 999 patients alone", alone, "ms"),
        ratio("fairness: p95 wait beside the heavy patient / alone", beside, alone, at_most=1.10),
    ]


async def all_at_once(ground: Ground, heavy: int) -> tuple[float, float]:
    """The heavy patient's share in %, and the others' p95 wait from the commit to the claim in ms."""
    async with ground.owner() as connection:
        await connection.execute(EMPTY)
        await ground.settle_down("chartloom")
        worker = chartloom_worker(
            ground.worker_url, worker_id="bench", expected=heavy + SINGLES, sleep=WORK_SECONDS, concurrency=CONCURRENCY
        )
        async with running(*worker) as program:
            await program.hear("ready")
            await program.go()
            await asyncio.sleep(1.0)  # until it sleeps
            async with connection.transaction():
                await connection.execute(ENQUEUE, heavy, SINGLES)
                committed = time.time()
            await program.hear("all")
            while await connection.fetchval("select exists (select from chartloom.job_queue)"):
                await asyncio.sleep(0.01)
        waits = [row[0] * 1000 for row in await connection.fetch(WAITS, committed)]
        assert len(waits) == SINGLES
        return float(await connection.fetchval(SHARE)), quantiles(waits, n=100)[94]
