"""What ``chartloom capacity --times database`` reads: each finished job with its document's pages."""

import asyncpg

from cli.capacity.history import finished_jobs
from cli.capacity.times import STEPS
from tests.conftest import Database, Patient
from tests.pipeline import persist_document
from tests.users import upload


async def test_finished_jobs_come_with_their_documents_pages(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    await persist_document(database, owner, patient, lambda _: {})
    await upload(owner, patient.user_id, patient.profile_id, b"another, that nobody works on")
    jobs = await finished_jobs(owner, list(STEPS), 100)
    assert sorted(job.step for job in jobs) == sorted(STEPS)
    for job in jobs:
        assert (job.document.digital_pages, job.document.scanned_pages) == (1, 0)
        assert job.created_at <= job.started_at < job.completed_at
        assert job.requests == 0
    assert len(await finished_jobs(owner, list(STEPS), 2)) == 2


async def test_a_jobs_questions_are_those_that_its_pass_reported(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    await persist_document(database, owner, patient, lambda _: {})
    run_id = await owner.fetchval("select id from chartloom.document_runs")
    for name, provider in (("detect", "openai"), ("enrich", "local")):
        await owner.execute(
            "insert into ai_pass_results "
            "(run_id, pass, shell_file_id, patient_id, provider, model, prompt_version, schema_version, result) "
            "select r.id, $2, r.shell_file_id, $3, $4, 'm', '1', '1', $5 from chartloom.document_runs as r "
            "where r.id = $1",
            run_id,
            name,
            patient.profile_id,
            provider,
            {"usage": {"requests": 3, "input_tokens": 900, "output_tokens": 90}},
        )
    asked = {job.step: job.requests for job in await finished_jobs(owner, list(STEPS), 100)}
    assert asked == {"ocr": 0, "ai_detect": 3, "ai_enrich": 0, "ai_narrate": 0, "persist": 0}
