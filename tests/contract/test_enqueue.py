"""enqueue_job_v3 is the only door in: strict, idempotent, and a trace begins here at the latest."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from shared.contract.payloads import DocumentPayload, PagesPayload
from tests.conftest import Database, Patient
from tests.users import upload

NOOP = {"noop": True}
ENQUEUE = "select chartloom.enqueue_job_v3($1, $2, $3)"


@pytest.mark.parametrize(
    ("job_type", "category", "payload", "sqlstate", "named"),
    [
        ("fax", "fast", {"noop": True}, "CL003", '"fax"'),
        ("ocr", "ai", {"noop": True}, "CL003", '"ai"'),
        ("ocr", "fast", None, "CL004", "JSON object"),
        ("ocr", "fast", [], "CL004", "JSON object"),
        ("ocr", "fast", {}, "CL004", "is missing"),
        (
            "ocr",
            "fast",
            {"shell_file_id": "7", "run_id": str(uuid4())},
            "CL004",
            '"shell_file_id" must be of type uuid',
        ),
        ("ocr", "fast", {"shell_file_id": str(uuid4()), "run_id": 7}, "CL004", '"run_id" must be of type uuid'),
        (
            "ocr",
            "fast",
            {"shell_file_id": str(uuid4()), "run_id": str(uuid4()), "patient_name": "x"},
            "CL004",
            '"patient_name" is not known',
        ),
        ("ocr", "fast", {"shell_file_id": str(uuid4()), "run_id": str(uuid4())}, "CL007", "shell_file_id"),
        ("ocr", "fast", {"noop": False}, "CL004", "is missing"),
    ],
)
async def test_a_bad_job_is_refused_and_the_field_is_named(
    owner: asyncpg.Connection, job_type: str, category: str, payload: Any, sqlstate: str, named: str
) -> None:
    with pytest.raises(asyncpg.PostgresError, match=named) as refused:
        await owner.fetchval(ENQUEUE, job_type, category, payload)
    assert refused.value.sqlstate == sqlstate
    assert await owner.fetchval("select count(*) from chartloom.job_queue") == 0


@pytest.mark.parametrize(
    ("argument", "value", "named"),
    [
        ("p_priority", 101, "priority"),
        ("p_max_retries", -1, "max_retries"),
        ("p_idempotency_key", "", "idempotency_key"),
        ("p_idempotency_key", "k" * 201, "idempotency_key"),
        ("p_traceparent", "00-zz-zz-01", "traceparent"),
    ],
)
async def test_an_argument_out_of_range_is_named(
    owner: asyncpg.Connection, argument: str, value: Any, named: str
) -> None:
    with pytest.raises(asyncpg.PostgresError, match=named) as refused:
        await owner.fetchval(
            f"select chartloom.enqueue_job_v3('ocr', 'fast', '{{\"noop\": true}}', {argument} => $1)", value
        )
    assert refused.value.sqlstate == "CL005"


async def test_every_type_takes_the_payload_that_the_services_expect(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch("select job_type, payload_schema from chartloom.job_types")
    assert rows
    for row in rows:
        expected = PagesPayload if row["job_type"] == "ocr_pages" else DocumentPayload
        assert row["payload_schema"].keys() == expected.model_fields.keys(), row["job_type"]


async def test_a_job_without_a_trace_gets_one_of_its_own(owner: asyncpg.Connection) -> None:
    for _ in range(2):
        await owner.fetchval(ENQUEUE, "ocr", "fast", {"noop": True})
    traces = [row["traceparent"] for row in await owner.fetch("select traceparent from chartloom.job_queue")]
    assert len(set(traces)) == 2
    for trace in traces:
        version, trace_id, span_id, flags = trace.split("-")
        assert (version, len(trace_id), len(span_id), flags) == ("00", 32, 16, "01")


async def test_the_same_key_is_the_same_job_even_at_the_same_moment(database: Database) -> None:
    connections = [await database.connect() for _ in range(6)]
    try:
        query = "select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}', p_idempotency_key => 'once')"
        ids = await asyncio.gather(*(connection.fetchval(query) for connection in connections))
        assert len(set(ids)) == 1
        assert await connections[0].fetchval("select count(*) from chartloom.job_queue") == 1
    finally:
        for connection in connections:
            await connection.close()


async def test_a_job_for_later_is_not_claimed_before_its_time(owner: asyncpg.Connection) -> None:
    await owner.execute(
        "select chartloom.enqueue_job_v3("
        "'ocr', 'fast', '{\"noop\": true}', p_scheduled_at => now() + interval '1 hour')"
    )
    claim = "select count(*) from chartloom.claim_jobs('w', array['ocr'], 10)"
    assert await owner.fetchval(claim) == 0
    await owner.execute("select set_config('chartloom.clock', (now() + interval '61 minutes')::text, false)")
    assert await owner.fetchval(claim) == 1


async def test_one_patients_many_jobs_line_up_behind_one_another(owner: asyncpg.Connection) -> None:
    enqueue = "select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}', p_fairness_key => $1)"
    heavy = [await owner.fetchval(enqueue, "heavy") for _ in range(50)]
    light = [await owner.fetchval(enqueue, f"light-{number}") for number in range(10)]
    claimed = [
        row["job_id"] for row in await owner.fetch("select job_id from chartloom.claim_jobs('w', array['ocr'], 12)")
    ]
    assert set(light) <= set(claimed)
    assert len(set(heavy) & set(claimed)) == 2


async def test_priority_comes_before_fairness_and_age(owner: asyncpg.Connection) -> None:
    enqueue = "select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}', p_priority => $1)"
    ids = [await owner.fetchval(enqueue, priority) for priority in (0, -5, 7)]
    claim = "select job_id from chartloom.claim_jobs('w', array['ocr'], 1)"
    assert [await owner.fetchval(claim) for _ in range(3)] == [ids[2], ids[0], ids[1]]


async def test_a_documents_job_is_its_patients_in_the_queue(owner: asyncpg.Connection, patient: Patient) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    row = await owner.fetchrow("select * from chartloom.job_queue")
    assert (row["shell_file_id"], row["patient_id"]) == (document, patient.profile_id)
    assert row["fairness_key"] == str(patient.profile_id)


async def test_a_run_of_another_document_is_refused(owner: asyncpg.Connection, patient: Patient) -> None:
    first = await upload(owner, patient.user_id, patient.profile_id)
    second = await upload(owner, patient.user_id, patient.profile_id, b"another")
    foreign = await owner.fetchval("select current_run_id from shell_files where id = $1", second)
    with pytest.raises(asyncpg.PostgresError, match="run_id") as refused:
        await owner.fetchval(ENQUEUE, "ai_detect", "ai", {"shell_file_id": str(first), "run_id": str(foreign)})
    assert refused.value.sqlstate == "CL007"


async def test_a_job_that_was_committed_late_is_found_although_the_queue_moved_on(
    database: Database, owner: asyncpg.Connection
) -> None:
    late = await database.connect()
    held = late.transaction()
    await held.start()
    job_id = await late.fetchval("select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}')")
    for _ in range(30):
        await owner.execute(
            "select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}', p_fairness_key => 'busy')"
        )
    claim = "select job_id from chartloom.claim_jobs('w', array['ocr'], 50)"
    assert len(await owner.fetch(claim)) == 30
    await owner.execute("update chartloom.queue_heads set head_tag = 1000, scanned_at = now()")
    await held.commit()
    await owner.execute("select set_config('chartloom.clock', (clock_timestamp() + interval '2 seconds')::text, false)")
    assert await owner.fetchval(claim) == job_id
    await late.close()


async def test_a_trace_context_of_zeros_is_none(owner: asyncpg.Connection) -> None:
    zeros = f"00-{'0' * 32}-{'1' * 16}-01"
    with pytest.raises(asyncpg.PostgresError, match="traceparent"):
        await owner.fetchval(
            "select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}', p_traceparent => $1)", zeros
        )


async def test_a_priority_nobody_has_met_yet_gets_ahead_of_a_long_queue(owner: asyncpg.Connection) -> None:
    enqueue = "select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}', p_priority => $1)"
    claim = "select job_id from chartloom.claim_jobs('w', array['ocr'], 1)"
    for _ in range(20):
        await owner.execute(enqueue, 0)
    await owner.execute(claim)
    urgent = await owner.fetchval(enqueue, 50)
    await owner.execute("select set_config('chartloom.clock', (clock_timestamp() + interval '2 seconds')::text, false)")
    assert urgent in {await owner.fetchval(claim) for _ in range(2)}


async def test_many_jobs_come_in_their_order_and_line_up_behind_their_patient(owner: asyncpg.Connection) -> None:
    await owner.execute("select chartloom.enqueue_job_v3('ocr', 'fast', $1, p_fairness_key => 'heavy')", NOOP)
    ids = await owner.fetchval(
        "select chartloom.enqueue_jobs_v3('ocr', 'fast', $1, p_fairness_keys => $2, p_max_retries => 2)",
        [NOOP] * 5,
        ["heavy", "light", "heavy", "other", "heavy"],
    )
    rows = await owner.fetch("select * from chartloom.job_queue where id = any($1) order by id", ids)
    assert [row["id"] for row in rows] == ids
    assert [row["fairness_key"] for row in rows] == ["heavy", "light", "heavy", "other", "heavy"]
    assert [row["fair_tag"] for row in rows] == [1, 0, 2, 0, 3]
    assert {row["max_retries"] for row in rows} == {2}
    assert len({row["traceparent"].split("-")[1] for row in rows}) == 5


async def test_many_jobs_are_all_or_none(owner: asyncpg.Connection) -> None:
    enqueue = "select chartloom.enqueue_jobs_v3('ocr', 'fast', $1, p_fairness_keys => $2)"
    with pytest.raises(asyncpg.PostgresError, match='field "run_id" is missing') as refused:
        await owner.fetchval(enqueue, [NOOP, {}], ["a", "b"])
    assert refused.value.sqlstate == "CL004"
    with pytest.raises(asyncpg.PostgresError, match="as many as the payloads") as refused:
        await owner.fetchval(enqueue, [NOOP, NOOP], ["a"])
    assert refused.value.sqlstate == "CL005"
    stray = {"shell_file_id": str(uuid4()), "run_id": str(uuid4())}
    with pytest.raises(asyncpg.PostgresError, match="names no document") as refused:
        await owner.fetchval(enqueue, [NOOP, stray], None)
    assert refused.value.sqlstate == "CL007"
    with pytest.raises(asyncpg.PostgresError, match="1 to 10000"):
        await owner.fetchval(enqueue, [], None)
    assert await owner.fetchval("select count(*) from chartloom.job_queue") == 0


async def test_many_jobs_of_documents_know_their_patient(owner: asyncpg.Connection, patient: Patient) -> None:
    file = await upload(owner, patient.user_id, patient.profile_id)
    payload = await owner.fetchval("select payload from chartloom.job_queue")
    ids = await owner.fetchval("select chartloom.enqueue_jobs_v3('ocr', 'fast', $1)", [NOOP, payload])
    rows = await owner.fetch("select * from chartloom.job_queue where id = any($1) order by id", ids)
    assert [row["patient_id"] for row in rows] == [None, patient.profile_id]
    assert [row["shell_file_id"] for row in rows] == [None, payload and UUID(payload["shell_file_id"])]
    assert rows[1]["fairness_key"] == str(patient.profile_id)
    assert file


async def test_a_repeated_batch_with_keys_finds_its_jobs(owner: asyncpg.Connection) -> None:
    enqueue = "select chartloom.enqueue_jobs_v3('ocr', 'fast', $1, p_idempotency_keys => $2)"
    first = await owner.fetchval(enqueue, [NOOP] * 3, ["a", "b", "c"])
    again = await owner.fetchval(enqueue, [NOOP] * 3, ["c", "new", "a"])
    assert again[0] == first[2]
    assert again[2] == first[0]
    assert await owner.fetchval("select count(*) from chartloom.job_queue") == 4


async def test_a_plan_made_for_an_empty_queue_serves_a_full_one(owner: asyncpg.Connection) -> None:
    """The functions keep their plans for a session: one that reads the whole table would be kept, too."""
    await owner.execute("vacuum analyze chartloom.job_queue")
    enqueue = "select chartloom.enqueue_jobs_v3('ocr', 'fast', $1, p_fairness_keys => $2)"
    await owner.fetchval(enqueue, [NOOP], ["first"])
    await owner.fetch("select * from chartloom.claim_jobs('w', array['ocr'], 1)")
    await owner.execute("alter table chartloom.job_queue set (autovacuum_enabled = off)")
    for batch in range(10):
        await owner.fetchval(enqueue, [NOOP] * 1000, [f"{batch}-{number}" for number in range(1000)])

    async def read() -> int:
        await owner.execute("select pg_stat_force_next_flush()")
        return await owner.fetchval(
            "select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables where relname = 'job_queue'"
        )

    before = await read()
    await owner.fetchval(enqueue, [NOOP], ["5-500"])
    claimed = await owner.fetch("select * from chartloom.claim_jobs('w', array['ocr'], 10)")
    await owner.fetch(
        "select * from chartloom.complete_jobs($1, $2)",
        [job["job_id"] for job in claimed],
        [job["lease_token"] for job in claimed],
    )
    assert len(claimed) == 10
    assert await read() - before < 200
