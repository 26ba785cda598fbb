"""A document's way through the queue without its services: each step by the contract, as a worker takes it."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from tests.conftest import Database, Patient
from tests.users import upload

STEPS = {
    "ocr": "chartloom_ocr",
    "ai_detect": "chartloom_ai",
    "ai_enrich": "chartloom_ai",
    "ai_narrate": "chartloom_ai",
    "persist": "chartloom_persister",
}


async def claim(connection: asyncpg.Connection, job_type: str) -> asyncpg.Record:
    """The next job of a type; fails the test where there is none."""
    (job,) = await connection.fetch("select * from chartloom.claim_jobs('test', array[$1], 1)", job_type)
    return job


async def read_document(database: Database, owner: asyncpg.Connection, patient: Patient, texts: Sequence[str]) -> UUID:
    """A document whose pages are read; pass 1 is next. No other job of OCR may be waiting."""
    document = await upload(owner, patient.user_id, patient.profile_id)
    worker = await database.connect(STEPS["ocr"])
    job = await claim(worker, "ocr")
    lease = (job["job_id"], job["lease_token"])
    pages = [page(text, number=number) for number, text in enumerate(texts, 1)]
    await worker.fetchval("select chartloom.save_ocr_pages($1, $2, $3)", *lease, pages)
    await worker.execute("select chartloom.complete_job($1, $2)", *lease)
    await worker.close()
    return document


async def persist_document(
    database: Database,
    owner: asyncpg.Connection,
    patient: Patient,
    rows: Callable[[UUID], dict[str, list[dict[str, Any]]]],
    *,
    content: bytes = b"record",
    text: str = "A page of the record.",
) -> UUID:
    """A document with a page and the rows that ``rows`` makes of its run's id; all its jobs completed.

    No other job may be waiting: a claim takes whichever is next.
    """
    document = await upload(owner, patient.user_id, patient.profile_id, content)
    for job_type, role in STEPS.items():
        worker = await database.connect(role)
        job = await claim(worker, job_type)
        lease = (job["job_id"], job["lease_token"])
        if job_type == "ocr":
            await worker.fetchval("select chartloom.save_ocr_pages($1, $2, $3)", *lease, [page(text)])
        if job_type == "persist":
            await worker.fetchval(
                "select chartloom.persist_findings($1, $2, $3)", *lease, rows(UUID(job["payload"]["run_id"]))
            )
        await worker.execute("select chartloom.complete_job($1, $2, $3)", *lease, {"done": job_type})
        await worker.close()
    return document


async def persist_again(
    database: Database,
    owner: asyncpg.Connection,
    document: UUID,
    rows: Callable[[UUID], dict[str, list[dict[str, Any]]]],
) -> UUID:
    """A new run over the same pages, of which only the last step is done. Returns the run's id."""
    async with owner.transaction():
        run_id: UUID = await owner.fetchval(
            "insert into chartloom.document_runs (shell_file_id, ocr_run_id) "
            "select id, (select ocr_run_id from chartloom.document_runs where id = current_run_id) "
            "from shell_files where id = $1 returning id",
            document,
        )
        await owner.execute("update shell_files set current_run_id = $2 where id = $1", document, run_id)
        await owner.execute(
            "select chartloom.enqueue_job_v3('persist', 'ai', $1)",
            {"shell_file_id": str(document), "run_id": str(run_id)},
        )
    worker = await database.connect(STEPS["persist"])
    job = await claim(worker, "persist")
    lease = (job["job_id"], job["lease_token"])
    await worker.fetchval("select chartloom.persist_findings($1, $2, $3)", *lease, rows(run_id))
    await worker.execute("select chartloom.complete_job($1, $2)", *lease)
    await worker.close()
    return run_id


def page(text: str, *, number: int = 1) -> dict[str, Any]:
    """One page as OCR saves it, with one word."""
    return {
        "page": number,
        "width": 100,
        "height": 100,
        "text": text,
        "words": [{"text": text, "box": [1, 2, 3, 4], "confidence": 1, "start": 0, "end": len(text)}],
        "text_source": "text_layer",
        "engine": "test",
        "engine_version": "1",
    }
