"""What operators' metrics are made of: how long a document was in each queue, and what the sweeper measures."""

from datetime import UTC, datetime, timedelta

import asyncpg

from ops.dashboards import SLOWEST_DOCUMENTS
from tests.conftest import Database, Patient
from tests.pipeline import STEPS, claim, page
from tests.users import upload

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


async def at(owner: asyncpg.Connection, seconds: float) -> None:
    moved = NOON + timedelta(seconds=seconds)
    await owner.execute("select set_config('chartloom.clock', $1, false)", moved.isoformat())


async def complete(owner: asyncpg.Connection, job: asyncpg.Record) -> float | None:
    """Completes the job; returns what its worker would then record."""
    await owner.execute("select chartloom.complete_job($1, $2)", job["job_id"], job["lease_token"])
    seconds: float | None = await owner.fetchval("select chartloom.queue_seconds($1)", job["job_id"])
    return seconds


async def gauges(owner: asyncpg.Connection, name: str) -> dict[str, float]:
    return dict(await owner.fetch("select label, value from chartloom.operator_gauges() where gauge = $1", name))


async def test_the_ends_of_the_queues_are_data_of_the_pipeline(owner: asyncpg.Connection) -> None:
    ends = "select * from chartloom.queue_ends($1)"
    assert {tuple(row) for row in await owner.fetch(ends, list(STEPS))} == {("ocr", "fast"), ("persist", "ai")}


async def test_the_fast_queue_counts_from_complete_upload_and_the_ai_queue_from_its_first_enqueue(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    await at(owner, 0)
    await upload(owner, patient.user_id, patient.profile_id)
    measured = {}
    for second, job_type in enumerate(STEPS):
        await at(owner, 10 * second + 5)
        job = await claim(owner, job_type)
        if job_type == "ocr":
            await owner.fetchval(
                "select chartloom.save_ocr_pages($1, $2, $3)", job["job_id"], job["lease_token"], [page("Words.")]
            )
        await at(owner, 10 * second + 7)
        measured[job_type] = await complete(owner, job)
    # An AI job that is followed by another ends nothing: its worker does not even ask.
    assert measured == {"ocr": 7, "ai_detect": None, "ai_enrich": None, "ai_narrate": None, "persist": 40}


async def test_a_fanned_out_document_is_measured_by_its_last_fast_job(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    await at(owner, 0)
    document = await upload(owner, patient.user_id, patient.profile_id)
    parent = await claim(owner, "ocr")
    await owner.execute(
        "insert into chartloom.job_types (job_type, job_category, worker_role, payload_schema) "
        "values ('ocr_range', 'fast', 'chartloom_ocr', '{\"shell_file_id\": \"uuid\", \"run_id\": \"uuid\"}')"
    )
    await owner.fetch(
        "select chartloom.fan_out_job($1, $2, 'ocr_range', $3, 'ai_detect')",
        parent["job_id"],
        parent["lease_token"],
        [parent["payload"]] * 2,
    )
    first, second = await claim(owner, "ocr_range"), await claim(owner, "ocr_range")
    await at(owner, 20)
    assert await complete(owner, first) is None
    await at(owner, 30)
    assert await complete(owner, second) == 30
    assert await owner.fetchval("select count(*) from chartloom.job_queue where shell_file_id = $1", document) == 1


async def test_workers_are_alive_dead_or_forgotten(owner: asyncpg.Connection) -> None:
    beat = "select chartloom.heartbeat_jobs($1, $2, '1', '{}', '{}')"
    await at(owner, 0)
    await owner.execute(beat, "ocr-long-ago", "ocr")
    await at(owner, 3700)
    for worker_id, service in (
        ("ocr-1", "ocr"),
        ("ai-1", "ai"),
        ("persister-1", "persister"),
        ("sweeper-1", "sweeper"),
    ):
        await owner.execute(beat, worker_id, service)
    await owner.execute("select chartloom.forget_worker('persister-1', 'chartloom_0')")
    await at(owner, 3790)
    await owner.execute(beat, "ai-1", "ai")
    assert await gauges(owner, "workers_alive") == {"ocr": 0, "ai": 1, "persister": 0, "sweeper": 0}
    assert await gauges(owner, "workers_dead") == {"ocr": 1, "ai": 0, "persister": 0, "sweeper": 1}


async def test_dead_letters_count_for_an_hour_whatever_made_them_and_none_is_a_zero(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    await at(owner, 0)
    await upload(owner, patient.user_id, patient.profile_id)
    job = await claim(owner, "ocr")
    # Put off until its time ran out: the worker that snoozes a job is not told that it was the last time.
    await at(owner, 90_000)
    await owner.execute("select chartloom.release_job($1, $2, 5)", job["job_id"], job["lease_token"])
    assert await gauges(owner, "recent_dead_letters") == {
        "ocr": 1, "ocr_pages": 0, "ai_detect": 0, "ai_enrich": 0, "ai_narrate": 0, "ai_shadow": 0, "persist": 0,
    }  # fmt: skip
    await at(owner, 94_000)
    assert set((await gauges(owner, "recent_dead_letters")).values()) == {0}


async def test_failed_audit_events_are_counted_and_the_sweeper_may_ask(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    assert await gauges(owner, "failed_audit_events") == {"": 0}
    await owner.execute(
        "insert into public.failed_audit_events (patient_id, action, table_name, row_ids, actor_role, sqlstate) "
        "values ($1, 'read', 'shell_files', '{}', 'authenticated', '53100')",
        patient.profile_id,
    )
    sweeper = await database.connect("chartloom_sweeper")
    assert await gauges(sweeper, "failed_audit_events") == {"": 1}
    await sweeper.close()


async def test_an_operators_dashboard_leads_from_the_slowest_documents_to_their_traces(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    trace_id = await owner.fetchval("select split_part(traceparent, '-', 2) from shell_files")
    superuser = await database.connect_as_superuser()
    await superuser.execute("set role chartloom_operator")
    (row,) = await superuser.fetch(SLOWEST_DOCUMENTS)
    await superuser.close()
    assert (row["shell_file_id"], row["trace_id"], row["not_done"]) == (document, trace_id, "ocr pending")
