"""What may become of an attempt, and that only its holder decides."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.conftest import Database, Patient
from tests.users import upload

CLAIM = "select * from chartloom.claim_jobs($1, array['ocr'], 1, 60)"
PIPELINE = ["ocr", "ai_detect", "ai_enrich", "ai_narrate", "persist"]


async def enqueue(owner: asyncpg.Connection, **arguments: Any) -> int:
    extra = "".join(f", p_{name} => ${number}" for number, name in enumerate(arguments, start=1))
    job_id: int = await owner.fetchval(
        f"select chartloom.enqueue_job_v3('ocr', 'fast', '{{\"noop\": true}}'{extra})", *arguments.values()
    )
    return job_id


async def move_clock(owner: asyncpg.Connection, interval: str) -> None:
    await owner.execute(
        f"select set_config('chartloom.clock', (clock_timestamp() + interval '{interval}')::text, false)"
    )


async def status(owner: asyncpg.Connection, job_id: int) -> str:
    value: str = await owner.fetchval("select status from chartloom.job_history where id = $1", job_id)
    return value


CHANGES = [
    ("complete", "select chartloom.complete_job($1, $2)"),
    ("fail", "select chartloom.fail_job($1, $2, 'code', 'message', true)"),
    ("release", "select chartloom.release_job($1, $2)"),
    ("save pages", "select chartloom.save_ocr_pages($1, $2, '[]')"),
    ("save a pass", "select chartloom.save_ai_pass($1, $2, 'detect', '{}')"),
    ("persist", "select chartloom.persist_findings($1, $2, '{}')"),
    ("read the upload", "select chartloom.read_upload($1, $2)"),
    ("read pages", "select chartloom.read_pages($1, $2)"),
    ("read pages and tables", "select chartloom.read_pages_v2($1, $2)"),
    ("read a pass", "select chartloom.read_ai_pass($1, $2, 'detect')"),
    ("read what OCR needs", "select chartloom.read_ocr_input($1, $2)"),
    ("read what a pass needs", "select chartloom.read_ai_input($1, $2, true, 'detect')"),
    ("read what the persister needs", "select chartloom.read_persist_input($1, $2)"),
    ("begin to read", "select chartloom.begin_reading($1, $2, '{}', 1)"),
    ("write pages", "select chartloom.complete_job($1, $2, chartloom.write_ocr_pages($1, $2, '[]', '{}'))"),
    ("write passes", "select chartloom.complete_job($1, $2, chartloom.write_ai_passes($1, $2, '{}', '{}'))"),
    ("write findings", "select chartloom.complete_job($1, $2, chartloom.write_findings($1, $2, '{}'))"),
]


@pytest.mark.parametrize("change", [query for _, query in CHANGES], ids=[name for name, _ in CHANGES])
async def test_who_lost_the_lease_reads_and_writes_nothing(owner: asyncpg.Connection, change: str) -> None:
    job_id = await enqueue(owner)
    stale = await owner.fetchrow(CLAIM, "first")
    await move_clock(owner, "61 seconds")
    assert len(await owner.fetch("select * from chartloom.sweep_expired_leases()")) == 1
    held = await owner.fetchrow(CLAIM, "second")
    assert held["job_id"] == job_id
    before = await owner.fetchrow("select * from chartloom.job_queue")
    for token in (stale["lease_token"], uuid4(), None):
        with pytest.raises(asyncpg.PostgresError) as refused:
            await owner.execute(change, job_id, token)
        assert refused.value.sqlstate == "CL001"
    assert await owner.fetchrow("select * from chartloom.job_queue") == before


@pytest.mark.parametrize("change", [query for _, query in CHANGES], ids=[name for name, _ in CHANGES])
async def test_the_holder_of_a_cancelled_job_is_told_so(
    owner: asyncpg.Connection, patient: Patient, change: str
) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    held = await owner.fetchrow(CLAIM, "worker")
    assert await owner.fetchval("select chartloom.cancel_document_jobs($1)", document) == 1
    with pytest.raises(asyncpg.PostgresError) as refused:
        await owner.execute(change, held["job_id"], held["lease_token"])
    assert refused.value.sqlstate == "CL002"
    beat = await owner.fetchrow(
        "select * from chartloom.heartbeat_jobs('worker', 'ocr', '0', array[$1::bigint], array[$2::uuid])",
        held["job_id"],
        held["lease_token"],
    )
    assert beat["state"] == "cancelled"
    assert await owner.fetchval("select status from shell_files") == "cancelled"


async def test_a_document_passes_every_step_and_completes(owner: asyncpg.Connection, patient: Patient) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    seen = []
    for job_type in PIPELINE:
        assert await owner.fetchval("select status from shell_files where id = $1", document) != "completed"
        job = await owner.fetchrow("select * from chartloom.claim_jobs('w', $1, 10)", PIPELINE)
        assert job["job_type"] == job_type
        await owner.execute("select chartloom.complete_job($1, $2)", job["job_id"], job["lease_token"])
        seen.append(job["traceparent"].split("-")[1])
    assert await owner.fetchval("select status from shell_files where id = $1", document) == "completed"
    assert len(set(seen)) == 1
    assert await owner.fetchrow("select * from chartloom.claim_jobs('w', $1, 10)", PIPELINE) is None


async def test_the_next_job_is_there_if_and_only_if_the_completion_committed(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    await upload(owner, patient.user_id, patient.profile_id)
    job = await owner.fetchrow(CLAIM, "worker")
    transaction = owner.transaction()
    await transaction.start()
    await owner.execute("select chartloom.complete_job($1, $2)", job["job_id"], job["lease_token"])
    assert await owner.fetchval("select count(*) from chartloom.job_history") == 2
    await transaction.rollback()
    assert await owner.fetchval("select count(*) from chartloom.job_history") == 1
    assert await status(owner, job["job_id"]) == "processing"


async def test_a_transient_error_waits_longer_each_time_and_then_is_a_dead_letter(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    await owner.execute("update chartloom.job_queue set max_retries = 3")
    for attempt in range(4):
        job = await owner.fetchrow(CLAIM, "worker")
        assert job["attempt"] == attempt + 1
        row = await owner.fetchrow(
            "select chartloom.fail_job($1, $2, 'endpoint_away', 'No answer.', true) as status, now()",
            job["job_id"],
            job["lease_token"],
        )
        if attempt < 3:
            assert row["status"] == "failed"
            wait = await owner.fetchval(
                "select extract(epoch from scheduled_at - $1) from chartloom.job_queue", row["now"]
            )
            assert wait <= 2 * 2**attempt
            assert await owner.fetchrow(CLAIM, "too early") is None or wait <= 0.05
            await owner.execute("update chartloom.job_queue set scheduled_at = now() where status = 'failed'")
    assert row["status"] == "dead_letter"
    assert await owner.fetchval("select count(*) from chartloom.processing_errors where code = 'endpoint_away'") == 4
    file = await owner.fetchrow("select status, processing_error from shell_files where id = $1", document)
    assert file["status"] == "failed"
    assert file["processing_error"] == {"code": "endpoint_away", "message": "No answer.", "stage": "ocr"}


async def test_a_terminal_error_is_a_dead_letter_at_once_and_can_be_redriven(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    job = await owner.fetchrow(CLAIM, "worker")
    query = "select chartloom.fail_job($1, $2, 'file_empty', 'The file is empty.', false)"
    assert await owner.fetchval(query, job["job_id"], job["lease_token"]) == "dead_letter"
    assert await owner.fetchrow(CLAIM, "worker") is None
    again = await owner.fetch("select chartloom.redrive_jobs(array[$1, 999]::bigint[]) as id", job["job_id"])
    assert [row["id"] for row in again] == [job["job_id"]]
    redriven = await owner.fetchrow(CLAIM, "worker")
    assert (redriven["job_id"], redriven["attempt"]) == (job["job_id"], 1)
    assert await owner.fetchval("select status from shell_files where id = $1", document) == "processing"


async def test_handing_back_spends_no_attempt(owner: asyncpg.Connection) -> None:
    job_id = await enqueue(owner)
    for _ in range(10):
        job = await owner.fetchrow(CLAIM, "worker")
        assert job["attempt"] == 1
        await owner.execute("select chartloom.release_job($1, $2)", job_id, job["lease_token"])
    job = await owner.fetchrow(CLAIM, "worker")
    await owner.execute("select chartloom.release_job($1, $2, 30, 'busy', 'later')", job_id, job["lease_token"])
    assert await owner.fetchrow(CLAIM, "worker") is None
    await move_clock(owner, "31 seconds")
    assert (await owner.fetchrow(CLAIM, "worker"))["attempt"] == 1


async def test_a_file_that_kills_its_workers_does_not_loop(owner: asyncpg.Connection) -> None:
    job_id = await enqueue(owner)
    limit = await owner.fetchval("select max_lease_losses from chartloom.job_types where job_type = 'ocr'")
    for lost in range(limit + 1):
        assert (await owner.fetchrow(CLAIM, f"victim-{lost}"))["attempt"] == 1
        await move_clock(owner, "61 seconds")
        swept = await owner.fetchrow("select * from chartloom.sweep_expired_leases()")
        await owner.execute("select set_config('chartloom.clock', '', false)")
        await owner.execute("update chartloom.job_queue set scheduled_at = now()")
    assert swept["new_status"] == "dead_letter"
    assert await status(owner, job_id) == "dead_letter"
    assert await owner.fetchval("select error ->> 'code' from chartloom.job_queue") == "lease_lost_too_often"
    assert (
        await owner.fetchval("select count(*) from chartloom.processing_errors where kind = 'lease_lost'") == limit + 1
    )


async def test_heartbeats_hold_the_lease_until_the_run_deadline(owner: asyncpg.Connection) -> None:
    job_id = await enqueue(owner)
    job = await owner.fetchrow(CLAIM, "worker")
    beat = "select state from chartloom.heartbeat_jobs('worker', 'ocr', '0', array[$1::bigint], array[$2::uuid])"
    await move_clock(owner, "50 seconds")
    assert await owner.fetchval(beat, job_id, job["lease_token"]) == "held"
    await move_clock(owner, "100 seconds")
    assert await owner.fetch("select * from chartloom.sweep_expired_leases()") == []
    assert await owner.fetchval(beat, job_id, uuid4()) == "lost"
    await move_clock(owner, "1801 seconds")
    assert await owner.fetchval(beat, job_id, job["lease_token"]) == "overdue"
    assert len(await owner.fetch("select * from chartloom.sweep_expired_leases()")) == 1


async def test_two_claimers_never_get_the_same_job(database: Database, owner: asyncpg.Connection) -> None:
    for number in range(60):
        await enqueue(owner, fairness_key=str(number % 7))
    connections = [await database.connect("chartloom_ocr") for _ in range(6)]
    try:

        async def drain(connection: asyncpg.Connection, name: str) -> list[int]:
            mine: list[int] = []
            while rows := await connection.fetch("select * from chartloom.claim_jobs($1, array['ocr'], 4)", name):
                mine += [row["job_id"] for row in rows]
            return mine

        drained = await asyncio.gather(*(drain(connection, f"w{n}") for n, connection in enumerate(connections)))
        ids = [job_id for mine in drained for job_id in mine]
        assert sorted(ids) == sorted(set(ids))
        assert len(ids) == 60
    finally:
        for connection in connections:
            await connection.close()


async def test_two_sweepers_share_the_work_and_double_nothing(database: Database, owner: asyncpg.Connection) -> None:
    for _ in range(40):
        await enqueue(owner)
    await owner.fetch("select * from chartloom.claim_jobs('dead', array['ocr'], 40, 1)")
    await owner.execute("update chartloom.job_queue set lease_expires_at = now() - interval '1 second'")
    sweepers = [await database.connect("chartloom_sweeper") for _ in range(3)]
    try:
        swept = await asyncio.gather(
            *(sweeper.fetch("select job_id from chartloom.sweep_expired_leases(100)") for sweeper in sweepers)
        )
        ids = [row["job_id"] for rows in swept for row in rows]
        assert len(ids) == len(set(ids)) == 40
        assert await owner.fetchval("select count(*) from chartloom.processing_errors") == 40
    finally:
        for sweeper in sweepers:
            await sweeper.close()


async def test_a_completed_upload_told_twice_is_one_run(owner: asyncpg.Connection, patient: Patient) -> None:
    first: UUID = await upload(owner, patient.user_id, patient.profile_id)
    assert await upload(owner, patient.user_id, patient.profile_id) == first
    assert await owner.fetchval("select count(*) from chartloom.job_history") == 1
    other = await upload(owner, patient.user_id, patient.profile_id, b"another")
    assert other != first


async def test_cancelling_reaches_the_job_that_comes_to_be_meanwhile(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    job = await owner.fetchrow(CLAIM, "worker")
    completing = owner.transaction()
    await completing.start()
    await owner.execute("select chartloom.complete_job($1, $2)", job["job_id"], job["lease_token"])
    canceller = await database.connect()
    pid = canceller.get_server_pid()
    cancelling = asyncio.create_task(canceller.fetchval("select chartloom.cancel_document_jobs($1)", document))
    watcher = await database.connect()
    async with asyncio.timeout(10):
        while not await watcher.fetchval("select cardinality(pg_blocking_pids($1)) > 0", pid):
            await asyncio.sleep(0.01)
    await completing.commit()
    assert await cancelling == 1
    assert await owner.fetchval("select count(*) from chartloom.job_queue") == 0
    assert await owner.fetchval("select status from shell_files") == "cancelled"
    await canceller.close()
    await watcher.close()


async def test_an_earlier_run_cannot_come_back_and_write_over_the_current_one(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    await upload(owner, patient.user_id, patient.profile_id)
    first = await owner.fetchrow(CLAIM, "worker")
    await owner.execute(
        "select chartloom.fail_job($1, $2, 'file_corrupt', 'Broken.', false)", first["job_id"], first["lease_token"]
    )
    document = await upload(owner, patient.user_id, patient.profile_id)
    assert await owner.fetch("select chartloom.redrive_jobs(array[$1]::bigint[])", first["job_id"]) == []
    second = await owner.fetchrow(CLAIM, "worker")
    assert second["payload"]["run_id"] != first["payload"]["run_id"]
    assert await owner.fetchrow(CLAIM, "worker") is None
    await owner.execute("update shell_files set current_run_id = gen_random_uuid() where id = $1", document)
    with pytest.raises(asyncpg.PostgresError) as refused:
        await owner.execute("select chartloom.persist_findings($1, $2, '{}')", second["job_id"], second["lease_token"])
    assert refused.value.sqlstate == "CL002"


async def test_many_completions_at_once_are_each_judged_by_their_own_lease(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    await upload(owner, patient.user_id, patient.profile_id)
    for _ in range(3):
        await enqueue(owner)
    jobs = await owner.fetch("select * from chartloom.claim_jobs('w', array['ocr'], 10)")
    ids = [row["job_id"] for row in jobs]
    tokens = [row["lease_token"] for row in jobs]
    tokens[1] = uuid4()
    results = [{"number": number} for number in range(4)]
    refused = await owner.fetch("select * from chartloom.complete_jobs($1, $2, $3)", ids, tokens, results)
    assert [(row["job_id"], row["state"]) for row in refused] == [(ids[1], "lost")]
    archived = await owner.fetch("select id, result from chartloom.job_archive order by id")
    assert [(row["id"], row["result"]) for row in archived] == [
        (job_id, results[place]) for place, job_id in enumerate(ids) if place != 1
    ]
    assert await status(owner, ids[1]) == "processing"
    # The document among them went on to its next step.
    assert await owner.fetchval("select count(*) from chartloom.job_queue where job_type = 'ai_detect'") == 1


async def test_the_join_is_enqueued_once_when_the_last_children_finish_together(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    await upload(owner, patient.user_id, patient.profile_id)
    await owner.execute(
        "insert into chartloom.job_types (job_type, job_category, worker_role, payload_schema) "
        "values ('child', 'fast', 'chartloom_ocr', '{\"part\": \"integer\"}')"
    )
    parent = await owner.fetchrow(CLAIM, "worker")
    children = await owner.fetch(
        "select chartloom.fan_out_job($1, $2, 'child', $3, 'ai_detect')",
        parent["job_id"],
        parent["lease_token"],
        [{"part": number} for number in range(40)],
    )
    assert len(children) == 40
    connections = [await database.connect() for _ in range(5)]

    async def work(connection: asyncpg.Connection, name: str) -> None:
        while rows := await connection.fetch("select * from chartloom.claim_jobs($1, array['child'], 3)", name):
            for row in rows:
                await connection.execute("select chartloom.complete_job($1, $2)", row["job_id"], row["lease_token"])

    await asyncio.gather(*(work(connection, f"w{number}") for number, connection in enumerate(connections)))
    for connection in connections:
        await connection.close()
    joins = await owner.fetch("select payload from chartloom.job_queue")
    assert [row["payload"] for row in joins] == [parent["payload"]]


async def test_a_type_with_caps_runs_no_more_than_they_allow(owner: asyncpg.Connection) -> None:
    await owner.execute(
        "update chartloom.job_types set max_processing = 5, max_processing_per_key = 2 where job_type = 'ocr'"
    )
    for number in range(12):
        await enqueue(owner, fairness_key=f"patient-{number % 3}")
    for _ in range(4):
        await enqueue(owner, fairness_key="heavy")
    claim = "select * from chartloom.claim_jobs('w', array['ocr'], 100)"
    first = await owner.fetch(claim)
    assert len(first) == 5
    keys = await owner.fetch(
        "select count(*) as live from chartloom.job_queue where status = 'processing' group by fairness_key"
    )
    assert max(row["live"] for row in keys) <= 2
    assert await owner.fetch(claim) == []
    await owner.execute("select chartloom.complete_job($1, $2)", first[0]["job_id"], first[0]["lease_token"])
    assert len(await owner.fetch(claim)) == 1
    # A dead worker's place is free when its lease ends, swept or not.
    await owner.execute("update chartloom.job_queue set lease_expires_at = now() where status = 'processing'")
    assert len(await owner.fetch(claim)) == 5


async def test_a_job_that_is_put_off_for_ever_ends(owner: asyncpg.Connection) -> None:
    job_id = await enqueue(owner)
    await owner.execute("update chartloom.job_queue set created_at = now() - interval '25 hours'")
    job = await owner.fetchrow(CLAIM, "worker")
    await owner.execute("select chartloom.release_job($1, $2, 30, 'busy', 'later')", job_id, job["lease_token"])
    assert await status(owner, job_id) == "dead_letter"


async def test_dead_letters_come_back_at_the_rate_asked_for(owner: asyncpg.Connection) -> None:
    ids = [await enqueue(owner) for _ in range(10)]
    for _ in ids:
        job = await owner.fetchrow(CLAIM, "worker")
        await owner.execute("select chartloom.fail_job($1, $2, 'x', 'y', false)", job["job_id"], job["lease_token"])
    assert len(await owner.fetch("select chartloom.redrive_jobs($1::bigint[], 2)", ids)) == 10
    claim_all = "select * from chartloom.claim_jobs('w', array['ocr'], 100)"
    assert len(await owner.fetch(claim_all)) == 1
    await move_clock(owner, "2.1 seconds")
    assert len(await owner.fetch(claim_all)) == 4
    await move_clock(owner, "6 seconds")
    assert len(await owner.fetch(claim_all)) == 5
