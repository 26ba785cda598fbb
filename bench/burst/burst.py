"""A burst through the four services, and a model that takes 5 s for an answer: with the heavy patient and without.

- Nothing is lost and nothing doubled: every document completes, by one job of each step, with its findings once.
- ``complete_upload``, from when each call was due: a thousand within one second, and the heavy patient's one after
  another meanwhile.
- The others' end-to-end time, from their upload to their persisted findings, beside the heavy patient and alone.
- What the four services use while they wait for more documents.

Digital PDFs of one page. One document has gone through each connection before, so that connections and services are
as those of a gateway and a service that have run for a while: a new connection's plans take 15 ms. Everything,
Postgres, services, endpoint and 1,500 users, is on this machine.
"""

import asyncio
import os
import time
from dataclasses import dataclass
from statistics import quantiles

from bench.pdf import text_pdf
from bench.pipeline import (
    announce,
    endpoint_settings,
    model_endpoint,
    patients,
    services,
    until_completed,
    until_final,
    users,
)
from bench.queue.ground import Ground
from bench.queue.idle import CALM_DOWN_SECONDS, SECONDS, of_postgres, of_workers
from bench.queue.program import Program
from bench.report import Measurement, measured, ratio

PATIENTS = 1000
HEAVY_SHARE = 0.5
WITHIN_SECONDS = 1.0
USERS_CONNECTIONS = 20
MODEL_SECONDS = 5.0
LONGEST_SECONDS = 1200.0
NICENESS = 10
"""Of the services: in production users and Postgres are on machines of their own, here nobody else would get a core."""
INSTANCES = {"ocr": 1, "ai": 1, "persister": 1, "sweeper": 1}
CONCURRENCY = {"ocr": "2", "ai": "500", "persister": "4"}

END_TO_END = """
select extract(epoch from j.completed_at - f.uploaded_at)::float8
from chartloom.job_archive as j join public.shell_files as f on f.id = j.shell_file_id
where j.job_type = 'persist' and j.patient_id = any ($1::uuid[])
"""
# A document for which anything is other than once.
WRONG = """
select count(*) from public.shell_files as f
where f.status <> 'completed'
    or (select array_agg(job_type order by job_type) from chartloom.job_history as j where j.shell_file_id = f.id)
        is distinct from '{ai_detect,ai_enrich,ai_narrate,ocr,persist}'
    or (select count(*) from chartloom.document_runs as r where r.shell_file_id = f.id) <> 1
    or (select count(*) from public.patient_clinical_events as e where e.shell_file_id = f.id) <> $1
"""
# A pool keeps a connection for five minutes after its last use.
CONNECTIONS = """
select count(*) from pg_stat_activity where datname = $1 and application_name like 'chartloom %'
"""
COMMITS = "select xact_commit from pg_stat_database where datname = $1"
FINDINGS = 3
"""What the model endpoint finds in each."""


@dataclass(frozen=True)
class Outcome:
    """One burst. Times in ms where not said otherwise; ``wrong`` counts documents."""

    enqueue_p99: float
    others_p95_s: float
    makespan_s: float
    wrong: int
    transactions_a_document: float
    connections: int


@dataclass(frozen=True)
class Idle:
    """The four services while there is nothing to do: % of a core, and transactions a second."""

    services: float
    postgres: float
    transactions: float


async def measure(ground: Ground) -> list[Measurement]:
    count = int(os.environ.get("BURST") or PATIENTS)
    heavy = round(count * HEAVY_SHARE)
    idle: list[Idle] = []
    beside: list[Outcome] = []
    alone: list[Outcome] = []
    for number in ground.rounds("burst"):
        for documents in (heavy, 0) if number % 2 == 0 else (0, heavy):
            outcome = await burst(ground, count, documents, idle)
            (beside if documents else alone).append(outcome)
            ground.progress(f"  {documents} more of one patient: {outcome}")
    name = f"burst of {count} patients"
    with_heavy = f"{name} and {heavy} documents more of one"
    return [
        measured(f"{with_heavy}: lost, doubled or not completed", [o.wrong for o in beside], "documents", at_most=0),
        measured(f"{name}: lost, doubled or not completed", [o.wrong for o in alone], "documents", at_most=0),
        measured(f"{with_heavy}: complete_upload p99", [o.enqueue_p99 for o in beside], "ms", at_most=100),
        measured(f"{with_heavy}: until the last is persisted", [o.makespan_s for o in beside], "s"),
        measured(f"{with_heavy}: the others' p95, upload to persisted", [o.others_p95_s for o in beside], "s"),
        measured(f"{name}: p95, upload to persisted", [o.others_p95_s for o in alone], "s"),
        ratio(
            "burst: the others' p95 beside the heavy patient / alone",
            [o.others_p95_s for o in beside],
            [o.others_p95_s for o in alone],
            at_most=1.10,
        ),
        measured(f"{with_heavy}: transactions", [o.transactions_a_document for o in beside], "a document"),
        measured(f"{with_heavy}: connections of the services", [o.connections for o in beside], "at most"),
        measured("idle: the four services that wait", [i.services for i in idle], "% of a core", at_most=1.0),
        measured("idle: their Postgres", [i.postgres for i in idle], "% of a core"),
        measured("idle: transactions of the four services", [i.transactions for i in idle], "a second"),
    ]


async def burst(ground: Ground, count: int, heavy: int, idle: list[Idle]) -> Outcome:
    others = patients(count)
    first = patients(USERS_CONNECTIONS)
    (busy,) = patients(1)
    owners = [busy] * heavy + others + first
    async with (
        ground.clone("burst") as database,
        model_endpoint(MODEL_SECONDS) as base_url,
        ground.owner(database) as owner,
    ):
        uploads = await announce(
            ground, database, [(patient, text_pdf([letter(place)])) for place, patient in enumerate(owners)]
        )
        await ground.settle_down(database)
        settings = {name: {"WORKER_CONCURRENCY": number} for name, number in CONCURRENCY.items()}
        settings["ai"] |= endpoint_settings(base_url)
        async with (
            services(ground, database, INSTANCES, settings, niceness=NICENESS) as programs,
            users(ground, database, connections=USERS_CONNECTIONS) as signed_in,
        ):
            await asyncio.gather(*(signed_in.complete(upload, 0) for upload in uploads[heavy + count :]))
            await until_completed(owner, len(first), LONGEST_SECONDS)
            committed = await commits(ground, database)
            began = time.perf_counter()
            took = await asyncio.gather(
                signed_in.complete_within(uploads[heavy : heavy + count], WITHIN_SECONDS),
                signed_in.complete_in_turn(uploads[:heavy]),
            )
            connections = await owner.fetchval(CONNECTIONS, database)
            await until_final(owner, LONGEST_SECONDS)
            makespan = time.perf_counter() - began
            connections = max(connections, await owner.fetchval(CONNECTIONS, database))
            committed = await commits(ground, database) - committed
            if heavy:
                idle.append(
                    await waiting(ground, database, [program for group in programs.values() for program in group])
                )
        waits = [row[0] for row in await owner.fetch(END_TO_END, others)]
        return Outcome(
            enqueue_p99=quantiles([*took[0], *took[1]], n=100)[98],
            others_p95_s=quantiles(waits, n=100)[94],
            makespan_s=makespan,
            wrong=await owner.fetchval(WRONG, FINDINGS),
            transactions_a_document=committed / (heavy + count),
            connections=connections,
        )


async def waiting(ground: Ground, database: str, programs: list[Program]) -> Idle:
    await asyncio.sleep(CALM_DOWN_SECONDS)
    began = time.perf_counter()
    before = of_workers(programs), of_postgres(ground.postmaster), await commits(ground, database)
    await asyncio.sleep(SECONDS)
    after = of_workers(programs), of_postgres(ground.postmaster), await commits(ground, database)
    passed = time.perf_counter() - began
    services_used, postgres_used, committed = (
        (later - earlier) / passed for earlier, later in zip(before, after, strict=True)
    )
    return Idle(100 * services_used, 100 * postgres_used, committed)


async def commits(ground: Ground, database: str) -> int:
    """Transactions of this database so far, as the services' own sessions have reported them."""
    async with ground.admin() as connection:
        count: int = await connection.fetchval(COMMITS, database)
        return count


def letter(number: int) -> list[str]:
    """The lines of an invented letter, another one for each number."""
    return [
        f"Invented clinic letter {number}",
        "Date of letter: 9 March 2024",
        "",
        "Diagnosis: hypertension, hypothyroidism.",
        f"Potassium {4 + number % 10 / 10:.1f} mmol/L (3.5 - 5.1). Haemoglobin {120 + number % 40} g/L (115 - 165).",
        f"Blood pressure {120 + number % 30}/80 mmHg. No chest pain, no breathlessness.",
        "Levothyroxine 50 micrograms once daily. Ramipril 5 mg once daily since 2019.",
        "Plan: repeat bloods in six weeks.",
    ]
