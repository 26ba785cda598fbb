"""Measure 1: 10,000 no-op jobs that wait, one worker process: jobs/s from its start to claim until all are settled.

The process has imported and connected before the clock starts. Settled: nothing is left to do or to be confirmed.
"""

import asyncio
import time

from bench.report import Measurement, measured, ratio

from .contenders import (
    Contender,
    bare_sql,
    chartloom,
    graphile_worker,
    pg_boss,
    pgqueuer,
    pooled_pgqueuer,
    procrastinate,
)
from .ground import Ground
from .program import running

LOOK_EVERY_SECONDS = 0.001


async def measure(ground: Ground) -> list[Measurement]:
    contenders = [
        chartloom(),
        pgqueuer(),
        pooled_pgqueuer(),
        procrastinate(),
        graphile_worker(),
        pg_boss(),
        bare_sql(),
    ]
    versions = {contender.name: await contender.install(ground) for contender in contenders}
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for _ in ground.rounds("drain"):
        for contender in contenders:
            rates[contender.name].append(await drain(ground, contender))
            ground.progress(f"  {contender.name}: {rates[contender.name][-1]:,.0f} jobs/s")

    best_pgqueuer = [max(pair) for pair in zip(rates["PgQueuer"], rates["PgQueuer pooled"], strict=True)]
    return [
        *(measured(_title(c, versions[c.name]), rates[c.name], "jobs/s") for c in contenders),
        ratio("drain: Chartloom / the faster PgQueuer", rates["Chartloom"], best_pgqueuer, at_least=1.25),
        ratio("drain: Chartloom / Procrastinate", rates["Chartloom"], rates["Procrastinate"], at_least=20),
        *(
            ratio(f"drain: Chartloom / {name}", rates["Chartloom"], rates[name])
            for name in ("graphile-worker", "pg-boss", "bare fenced SQL")
        ),
    ]


def _title(contender: Contender, version: str) -> str:
    return f"drain: {' '.join(filter(None, (contender.name, version)))} ({contender.setting})"


async def drain(ground: Ground, contender: Contender) -> float:
    await contender.fill(ground)
    async with running(*contender.worker(ground, contender.jobs)) as worker, ground.admin(contender.database) as look:
        await worker.hear("ready")
        began = time.perf_counter()
        await worker.go()
        await worker.hear("all")
        while await look.fetchval(contender.unsettled):
            await asyncio.sleep(LOOK_EVERY_SECONDS)
        return contender.jobs / (time.perf_counter() - began)
