"""Four runs with other instances and other mixes of pages, predicted from the service times of a fifth.

The calibration: one OCR and one AI process, so that nobody waits for a core. Its finished jobs give the times, as
``chartloom capacity --times database`` reads them; /proc gives what an AI job needs of a core besides its wait for the
model: the process's own CPU time and Postgres', which shares the machine here.

Predicted / measured: the makespan, and the p95 from upload to persisted.
"""

import io
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import pypdfium2 as pdfium

from bench.burst.burst import letter
from bench.pdf import text_pdf
from bench.pipeline import (
    announce,
    endpoint_settings,
    model_endpoint,
    services,
    until_final,
    users,
)
from bench.queue.ground import Ground
from bench.queue.idle import cpu_seconds, of_postgres
from bench.report import Measurement, measured
from cli.capacity import prices
from cli.capacity.fleet import Fleet, Service
from cli.capacity.history import finished_jobs
from cli.capacity.simulation import Limits, simulate
from cli.capacity.sizing import percentile
from cli.capacity.times import STEPS, PerPage, Times, of_jobs, reference
from cli.capacity.workload import Document

MODEL_SECONDS = 2.0
AI_CONCURRENCY = 3
"""So few that the AI queue is the narrow place of some of the runs, and OCR of the others."""
WITHIN_SECONDS = 1.0
LONGEST_SECONDS = 600.0
SCAN = Path(__file__).parents[2] / "samples" / "clinic-letter-scan.pdf"
WHOLE = """
select extract(epoch from j.completed_at - f.uploaded_at)::float8
from chartloom.job_archive as j join public.shell_files as f on f.id = j.shell_file_id
where j.job_type = 'persist'
"""
MAKESPAN = """
select extract(epoch from max(j.completed_at) - min(f.uploaded_at))::float8
from chartloom.job_archive as j join public.shell_files as f on f.id = j.shell_file_id
"""

Mix = Sequence[tuple[int, bool, int]]
"""(documents, whether they are scans, pages of each)."""
CALIBRATION: Mix = ((8, False, 1), (8, False, 3), (5, True, 1), (4, True, 2))
MOSTLY_DIGITAL: Mix = ((40, False, 1), (20, False, 3), (5, True, 1))
MOSTLY_SCANS: Mix = ((10, False, 1), (16, True, 1), (8, True, 2))


@dataclass(frozen=True)
class Run:
    """What is measured and predicted."""

    name: str
    ocr: int
    ai: int
    mix: Mix


RUNS = (
    Run("1 OCR, 1 AI, mostly scans", 1, 1, MOSTLY_SCANS),
    Run("1 OCR, 2 AI, mostly digital", 1, 2, MOSTLY_DIGITAL),
    Run("2 OCR, 1 AI, mostly digital", 2, 1, MOSTLY_DIGITAL),
    Run("2 OCR, 2 AI, mostly scans", 2, 2, MOSTLY_SCANS),
)


async def measure(ground: Ground) -> list[Measurement]:
    cores = float(len(os.sched_getaffinity(0)))
    errors: dict[tuple[str, str], list[float]] = {}
    for _ in ground.rounds("capacity"):
        times = await calibrated(ground)
        ground.progress(f"  times: {times.model_dump_json()}")
        for run in RUNS:
            documents = shuffled(run.mix)
            was = await measured_run(ground, run, documents)
            foreseen = predicted(run, documents, times, cores)
            for what, expected, seen in zip(("makespan", "p95"), foreseen, was, strict=True):
                errors.setdefault((run.name, what), []).append(100 * abs(expected / seen - 1))
                ground.progress(f"  {run.name}: {what} predicted {expected:.1f} s, measured {seen:.1f} s")
    return [
        measured(f"capacity: {name}: {what}, predicted beside measured", runs, "% off", at_most=10)
        for (name, what), runs in errors.items()
    ]


async def calibrated(ground: Ground) -> Times:
    """The times of one run."""
    documents = shuffled(CALIBRATION)
    run = Run("calibration", 1, 1, CALIBRATION)
    async with ground.clone("calibration") as database:
        core_s = await through(ground, database, run, documents)
        async with ground.owner(database) as owner:
            jobs = await finished_jobs(owner, list(STEPS), len(STEPS) * len(documents))
    known = reference()
    asking = {
        name: step.model_copy(update={"core_s": PerPage(fixed=core_s)})
        for name, step in known.steps.items()
        if step.model
    }
    return of_jobs(jobs, known.model_copy(update={"steps": known.steps | asking}), note="calibration")


async def measured_run(ground: Ground, run: Run, documents: Sequence[Document]) -> tuple[float, float]:
    """Makespan and p95 in seconds, by the database's clock."""
    async with ground.clone("measured") as database:
        await through(ground, database, run, documents)
        async with ground.owner(database) as owner:
            whole = [row[0] for row in await owner.fetch(WHOLE)]
            assert len(whole) == len(documents)
            return float(await owner.fetchval(MAKESPAN)), percentile(whole, 0.95)


def predicted(run: Run, documents: Sequence[Document], times: Times, cores: float) -> tuple[float, float]:
    """The same by simulation."""
    fleet = Fleet(
        {
            "ocr": Service("ocr", run.ocr, 1, "standard"),
            "ai": Service("ai", run.ai, AI_CONCURRENCY, "standard"),
            "persister": Service("persister", 1, 4, "standard"),
        },
        cores,
    )
    outcome = simulate(documents, times, fleet, prices.read(None), Limits())
    return outcome.makespan_s, percentile([passed.whole_s for passed in outcome.passed], 0.95)


async def through(ground: Ground, database: str, run: Run, documents: Sequence[Document]) -> float:
    """All documents through the services. Returns the core seconds of one AI job, its part of Postgres' among them."""
    async with model_endpoint(MODEL_SECONDS) as base_url, ground.owner(database) as owner:
        uploads = await announce(
            ground,
            database,
            [(UUID(document.patient), file(place, document)) for place, document in enumerate(documents)],
        )
        await ground.settle_down(database)
        settings = {
            "ocr": {"WORKER_CONCURRENCY": "1"},
            "ai": {"WORKER_CONCURRENCY": str(AI_CONCURRENCY), **endpoint_settings(base_url)},
        }
        instances = {"ocr": run.ocr, "ai": run.ai, "persister": 1, "sweeper": 1}
        async with services(ground, database, instances, settings) as programs:
            before = of_postgres(ground.postmaster), sum(cpu_seconds(program.pid) for program in programs["ai"])
            async with users(ground, database, connections=2) as patients:
                await patients.complete_within(uploads, WITHIN_SECONDS)
            await until_final(owner, LONGEST_SECONDS)
            after = of_postgres(ground.postmaster), sum(cpu_seconds(program.pid) for program in programs["ai"])
        incomplete = await owner.fetchval("select count(*) from shell_files where status <> 'completed'")
        assert incomplete == 0, f"{incomplete} documents did not complete"
    jobs = len(documents) * len(STEPS)
    ai_jobs = len(documents) * sum(step.startswith("ai_") for step in STEPS)
    return (after[0] - before[0]) / jobs + (after[1] - before[1]) / ai_jobs


def shuffled(mix: Mix) -> list[Document]:
    """The documents of a mix, each of a patient of its own, in an order that a seed gives."""
    kinds = [(is_scan, pages) for count, is_scan, pages in mix for _ in range(count)]
    random.Random(1).shuffle(kinds)
    return [
        Document(str(uuid4()), 0 if is_scan else pages, pages if is_scan else 0, WITHIN_SECONDS * place / len(kinds))
        for place, (is_scan, pages) in enumerate(kinds)
    ]


def file(number: int, document: Document) -> bytes:
    """Its bytes: letters with a text layer, or pages of the sample's scan."""
    if not document.scanned_pages:
        return text_pdf([letter(number + page) for page in range(document.digital_pages)])
    scan = pdfium.PdfDocument(SCAN)
    copy = pdfium.PdfDocument.new()
    for page in range(document.scanned_pages):
        copy.import_pages(scan, [(number + page) % len(scan)])
    content = io.BytesIO()
    copy.save(content)
    return content.getvalue()
