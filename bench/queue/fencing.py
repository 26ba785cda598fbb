"""Measure 7: 1,000 forced lease losses. A claims and falls silent, B gets the job, A reports success after all.

Both write an effect in the transaction that completes the job, A and B at the same moment. Counted: successes of A that
were accepted, jobs that never completed, jobs with two effects. The same for PgQueuer and Procrastinate, whose rows are
made stale by hand.
"""

import asyncio
from uuid import UUID

import asyncpg

from bench.report import Measurement, measured
from shared.database import LEASE_LOST

from .contenders import Contender, pgqueuer, procrastinate
from .ground import EMPTY, Ground, connected, fill

JOBS = 1_000
CONNECTIONS = 5
LEASE_SECONDS = 1

EFFECTS = """
create table if not exists public.effects (job_id bigint, holder text);
grant insert on public.effects to chartloom_ocr;
truncate public.effects;
"""
LOST = "select $1 - count(distinct id) from chartloom.job_archive where status = 'completed'"
DOUBLED = "select count(*) - count(distinct job_id) from public.effects"

Held = dict[int, UUID]
Counts = tuple[float, float, float]


async def measure(ground: Ground) -> list[Measurement]:
    counts: dict[str, list[Counts]] = {"Chartloom": []}
    contenders = [pgqueuer(), procrastinate()]
    for contender in contenders:
        await contender.install(ground)
        counts[contender.name] = []
    for number in ground.rounds("fencing"):
        counts["Chartloom"].append(await lose_leases(ground))
        for contender in contenders if number == 0 else ():  # nothing in it is left to chance
            counts[contender.name].append(await lose_peers_leases(ground, contender))
    return [
        measured(
            f"1,000 lost leases: {what}, {name}",
            [run[place] for run in runs],
            "jobs",
            at_most=0 if name == "Chartloom" else None,
        )
        for name, runs in counts.items()
        for place, what in enumerate(("stale successes accepted", "jobs lost", "effects doubled"))
    ]


async def lose_leases(ground: Ground) -> Counts:
    async with ground.owner() as owner:
        await owner.execute(EMPTY)
        await owner.execute(EFFECTS)
        await fill(owner, JOBS)
        first = await claim(ground, "a", LEASE_SECONDS)
        await asyncio.sleep(LEASE_SECONDS + 0.1)
        swept = await owner.fetch("select * from chartloom.sweep_expired_leases($1)", JOBS)
        assert len(swept) == JOBS
        second = await claim(ground, "b", 60)
        accepted, _ = await asyncio.gather(complete(ground, "a", first), complete(ground, "b", second))
        return accepted, await owner.fetchval(LOST, JOBS), await owner.fetchval(DOUBLED)


async def claim(ground: Ground, worker_id: str, lease_seconds: int) -> Held:
    async with connected(ground.worker_url) as connection:
        rows = await connection.fetch(
            "select * from chartloom.claim_jobs($1, '{bench}', $2, $3)", worker_id, JOBS, lease_seconds
        )
    assert len(rows) == JOBS
    return {row["job_id"]: row["lease_token"] for row in rows}


async def complete(ground: Ground, holder: str, held: Held) -> int:
    """Completes all, each with an effect, on a few connections. Returns how many were accepted."""
    waiting = sorted(held.items(), reverse=True)
    return sum(await asyncio.gather(*(_complete(ground, holder, waiting) for _ in range(CONNECTIONS))))


async def _complete(ground: Ground, holder: str, waiting: list[tuple[int, UUID]]) -> int:
    accepted = 0
    async with connected(ground.worker_url) as connection:
        while waiting:
            job_id, token = waiting.pop()
            try:
                async with connection.transaction():
                    await connection.execute("insert into public.effects values ($1, $2)", job_id, holder)
                    await connection.execute("select chartloom.complete_job($1, $2)", job_id, token)
            except asyncpg.PostgresError as error:
                if error.sqlstate != LEASE_LOST:
                    raise
            else:
                accepted += 1
    return accepted


async def lose_peers_leases(ground: Ground, contender: Contender) -> Counts:
    accepted, lost, doubled = (await contender.run(ground, "fencing", JOBS)).split()[-3:]
    return float(accepted), float(lost), float(doubled)
