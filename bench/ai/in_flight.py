"""As many passes in flight as one process may have, each of which waits five seconds for the model.

The ideal is what an instance would do that needs no time itself: passes in flight / seconds of the endpoint. Measured
is the middle of the run, where neither the first claims nor the last passes are. Documents are letters of one page, so
a pass is one question.
"""

import asyncio
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from bench.burst.burst import letter
from bench.pipeline import announce, endpoint_settings, model_endpoint, patients, services
from bench.queue.ground import Ground
from bench.queue.idle import cpu_seconds, of_postgres
from bench.queue.program import Program
from bench.report import Measurement, measured

PASSES = 1000
MODEL_SECONDS = 5.0
ROUNDS = 12
"""So many times as many passes as are in flight."""
WARM_UP_ROUNDS = 3
MEASURED_ROUNDS = 6
PASSES_A_DOCUMENT = 3
LOOK_EVERY_SECONDS = 0.25

READ = """
do $read$
declare
    v_job record;
begin
    for v_job in select * from chartloom.claim_jobs('bench', array['ocr'], 1000) loop
        perform chartloom.save_ocr_pages(v_job.job_id, v_job.lease_token, (
            select jsonb_build_array(jsonb_build_object(
                'page', 1, 'width', 1000, 'height', 1400, 'text', t.text, 'words', t.words,
                'text_source', 'text_layer', 'engine', 'bench', 'engine_version', '1'
            )) from letters as t where t.number = v_job.job_id % (select count(*) from letters)
        ));
        perform chartloom.complete_job(v_job.job_id, v_job.lease_token);
    end loop;
end
$read$
"""
COMPLETED = "select count(*) from chartloom.job_archive where job_type like 'ai_%'"
CONNECTIONS = "select count(*) from pg_stat_activity where datname = $1 and application_name like 'chartloom ai%'"
IN_FLIGHT = "select count(*) from chartloom.job_queue where status = 'processing'"
FAILED = "select count(*) from chartloom.processing_errors"


@dataclass(frozen=True)
class Outcome:
    """One run. ``service_ms`` and ``postgres_ms`` are a core's, for each pass."""

    share: float
    memory_mb: float
    connections: int
    in_flight: int
    failed: int
    service_ms: float
    postgres_ms: float


async def measure(ground: Ground) -> list[Measurement]:
    passes = int(os.environ.get("PASSES") or PASSES)
    outcomes = []
    for _ in ground.rounds("in flight"):
        outcome = await run(ground, passes)
        outcomes.append(outcome)
        ground.progress(f"  {outcome}")
    name = f"{passes} passes in flight, {MODEL_SECONDS:g} s each"
    return [
        measured(f"{name}: throughput of the ideal", [100 * o.share for o in outcomes], "%", at_least=95),
        measured(f"{name}: memory of the service at most", [o.memory_mb for o in outcomes], "MB", at_most=512),
        measured(f"{name}: attempts that failed", [o.failed for o in outcomes], "attempts", at_most=0),
        measured(f"{name}: seen in flight", [o.in_flight for o in outcomes], "passes"),
        measured(f"{name}: connections to Postgres", [o.connections for o in outcomes], "at most"),
        measured(f"{name}: the service's share of a core", [o.service_ms for o in outcomes], "ms a pass"),
        measured(f"{name}: Postgres' share of a core", [o.postgres_ms for o in outcomes], "ms a pass"),
    ]


async def run(ground: Ground, passes: int) -> Outcome:
    documents = passes * ROUNDS // PASSES_A_DOCUMENT
    async with (
        ground.clone("passes") as database,
        model_endpoint(MODEL_SECONDS) as base_url,
        ground.owner(database) as owner,
    ):
        await read_documents(ground, database, owner, documents)
        await ground.settle_down(database)
        settings = {"ai": {"WORKER_CONCURRENCY": str(passes), "POOL_SIZE": "8", **endpoint_settings(base_url)}}
        async with services(ground, database, {"ai": 1}, settings) as programs:
            (program,) = programs["ai"]
            connections = 0
            await completed(owner, passes * WARM_UP_ROUNDS)
            seen = await owner.fetchval(IN_FLIGHT)
            began, before = time.perf_counter(), usage(ground, program)
            first = await owner.fetchval(COMPLETED)
            while (done := await owner.fetchval(COMPLETED)) < first + passes * MEASURED_ROUNDS:
                connections = max(connections, await owner.fetchval(CONNECTIONS, database))
                await asyncio.sleep(LOOK_EVERY_SECONDS)
            seconds, after = time.perf_counter() - began, usage(ground, program)
            count = done - first
            return Outcome(
                share=count / seconds / (passes / MODEL_SECONDS),
                memory_mb=peak_memory_mb(program.pid),
                connections=connections,
                in_flight=seen,
                failed=await owner.fetchval(FAILED),
                service_ms=1000 * (after[0] - before[0]) / count,
                postgres_ms=1000 * (after[1] - before[1]) / count,
            )


async def read_documents(ground: Ground, database: str, owner: asyncpg.Connection, count: int) -> None:
    """Documents that OCR is done with, each of a patient of its own: pass 1 is next."""
    uploads = await announce(ground, database, [(patient, str(patient).encode()) for patient in patients(count)])
    await owner.execute("create temporary table letters (number integer, text text, words jsonb)")
    await owner.executemany(
        "insert into letters values ($1, $2, $3::jsonb)",
        [(number, "\n".join(letter(number)), words("\n".join(letter(number)))) for number in range(40)],
    )
    await owner.execute("set role authenticated")
    for upload in uploads:
        await complete(owner, upload.patient_id, upload.shell_file_id)
    await owner.execute("reset role")
    for _ in range(0, count, 1000):
        await owner.execute(READ)


async def complete(owner: asyncpg.Connection, patient: UUID, document: UUID) -> None:
    await owner.fetchval(
        "select complete_upload($2) where set_config('request.jwt.claims', $1, false) <> ''",
        json.dumps({"sub": str(patient), "role": "authenticated"}),
        document,
    )


def words(text: str) -> str:
    """The boxes of a page, as OCR leaves them."""
    boxes: list[dict[str, Any]] = []
    start = 0
    for number, word in enumerate(text.split()):
        start = text.index(word, start)
        x, y = number % 12 * 80, number // 12 * 20
        end = start + len(word)
        boxes.append({"text": word, "box": [x, y, x + 60, y + 16], "confidence": 1, "start": start, "end": end})
        start = end
    return json.dumps(boxes)


async def completed(owner: asyncpg.Connection, count: int) -> None:
    async with asyncio.timeout(300):
        while await owner.fetchval(COMPLETED) < count:
            await asyncio.sleep(LOOK_EVERY_SECONDS)


def usage(ground: Ground, program: Program) -> tuple[float, float]:
    return cpu_seconds(program.pid), of_postgres(ground.postmaster)


def peak_memory_mb(pid: int) -> float:
    """The largest resident size so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status has no VmHWM")
