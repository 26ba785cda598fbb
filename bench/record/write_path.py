"""Clinical rows/s of the persister's transaction (``persist_findings``, ``complete_job``) on one core of Postgres.

Several connections keep Postgres busy; what counts is the CPU time of all its processes, so that the client's own work
(JSON out of Python) on the same machine is not in it. The audit's cost is the same without its triggers, in a copy of
the database.
"""

import asyncio
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from asyncpg.pool import PoolConnectionProxy

from bench.queue.ground import Ground
from bench.queue.idle import of_postgres
from bench.report import Measurement, measured, ratio
from shared.database import open_pool

from .documents import Persister, Shaped, add_documents, enqueue

PATIENTS = 40
DOCUMENTS = 240
CONNECTIONS = 4
WARM_UP = 8
"""Documents of each connection before the clock starts: a pool's sessions have their plans and catalogs."""

CLINICAL = (
    "patient_clinical_events",
    "patient_observations",
    "patient_interventions",
    "clinical_narratives",
    "healthcare_timeline_events",
)
COUNT = "select " + " + ".join(f"(select count(*) from public.{table})" for table in CLINICAL)
AUDIT_TRIGGERS = """
select format('alter table %s disable trigger %I', tgrelid::regclass, tgname) as statement
from pg_trigger where tgname in ('audit_insert', 'audit_update', 'audit_delete')
"""


@dataclass(frozen=True)
class Written:
    rows: int
    seconds: float
    cpu_seconds: float


async def measure(ground: Ground) -> list[Measurement]:
    async with ground.owner() as owner:
        documents = await add_documents(owner, random.Random("write path"), patients=PATIENTS, documents=DOCUMENTS)
        await enqueue(owner, documents)
    audited: list[Written] = []
    bare: list[Written] = []
    for number in ground.rounds("write path"):
        # In turn the first, so that neither has always the warmer machine.
        variants = [(True, audited), (False, bare)]
        for is_audited, runs in variants if number % 2 == 0 else reversed(variants):
            runs.append(written := await write(ground, audited=is_audited))
            ground.progress(
                f"  {'' if is_audited else 'un'}audited: {written.rows} rows, {written.rows / written.seconds:,.0f}/s, "
                f"{written.rows / written.cpu_seconds:,.0f} a CPU second"
            )
    title = f"write path, {CONNECTIONS} connections"
    return [
        measured("write path: clinical rows a document", [run.rows / _timed_documents() for run in audited], "rows"),
        measured(
            f"{title}: rows a second of Postgres' CPU",
            [run.rows / run.cpu_seconds for run in audited],
            "rows/s",
            at_least=5_000,
        ),
        measured(f"{title}: rows a second by the clock", [run.rows / run.seconds for run in audited], "rows/s"),
        measured(
            f"{title}, audit triggers off: rows a second of Postgres' CPU",
            [run.rows / run.cpu_seconds for run in bare],
            "rows/s",
        ),
        ratio(
            "write path: CPU a row, with / without audit",
            [run.cpu_seconds / run.rows for run in audited],
            [run.cpu_seconds / run.rows for run in bare],
        ),
    ]


def _timed_documents() -> int:
    return DOCUMENTS - CONNECTIONS * WARM_UP


async def write(ground: Ground, *, audited: bool) -> Written:
    async with ground.clone("write_path") as database:
        if not audited:
            async with ground.owner(database) as owner:
                for row in await owner.fetch(AUDIT_TRIGGERS):
                    await owner.execute(row["statement"])
        pool = await open_pool(ground.persister_url_of(database), size=CONNECTIONS, application_name="bench")
        async with AsyncExitStack() as held, ground.owner(database) as owner:
            held.callback(pool.terminate)
            persister = Persister(pool)
            waiting = await persister.shape(DOCUMENTS)
            connections = [await held.enter_async_context(pool.acquire()) for _ in range(CONNECTIONS)]
            for connection in connections:
                warm_up, waiting = waiting[:WARM_UP], waiting[WARM_UP:]
                await store_all(persister, connection, warm_up)
            await ground.settle_down(database)
            before = await owner.fetchval(COUNT)
            cpu, began = of_postgres(ground.postmaster), time.perf_counter()
            await asyncio.gather(*(store_all(persister, connection, waiting) for connection in connections))
            seconds, cpu = time.perf_counter() - began, of_postgres(ground.postmaster) - cpu
            written = Written(await owner.fetchval(COUNT) - before, seconds, cpu)
            events = await owner.fetchval("select count(*) from public.audit_log where table_name = any($1)", CLINICAL)
            assert (events > 0) is audited
        return written


async def store_all(persister: Persister, connection: PoolConnectionProxy, waiting: list[Shaped]) -> None:
    while waiting:
        await persister.store(connection, waiting.pop())
