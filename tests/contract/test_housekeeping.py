"""What the sweeper puts right is put right once, by whichever comes first; what somebody still needs stays."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.conftest import Database, Patient
from tests.pipeline import STEPS, claim, page, persist_document
from tests.users import as_user, upload
from tests.waiting import until_blocked

DAY = 86400.0
LONG_AGO = "now() - interval '2 days'"
RESUME = "select * from chartloom.resume_documents(3600)"
SETTLE = "select chartloom.settle_upload($1, $2, $3)"


async def announce(owner: asyncpg.Connection, patient: Patient, digit: str = "0", *, since: str = LONG_AGO) -> UUID:
    """An upload of which nothing more is heard. Returns the document's id."""
    created = await as_user(
        owner, patient.user_id, "select create_upload($1, 'letter.pdf', $2, 6)", patient.profile_id, digit * 64
    )
    await owner.execute(f"update shell_files set created_at = {since} where id = $1", UUID(created["shell_file_id"]))
    return UUID(created["shell_file_id"])


async def document(owner: asyncpg.Connection, file: UUID) -> asyncpg.Record:
    row: asyncpg.Record = await owner.fetchrow("select * from shell_files where id = $1", file)
    return row


async def count(owner: asyncpg.Connection, what: str, *arguments: Any) -> int:
    number: int = await owner.fetchval(f"select count(*) from {what}", *arguments)
    return number


# -- uploads -----------------------------------------------------------------------------------------------------------


async def test_an_upload_is_stale_only_after_its_grace(owner: asyncpg.Connection, patient: Patient) -> None:
    stale = await announce(owner, patient)
    await announce(owner, patient, "1", since="now()")
    await upload(owner, patient.user_id, patient.profile_id)
    found = await owner.fetch("select * from chartloom.stale_uploads($1, $2)", DAY, UUID(int=0))
    assert [row["shell_file_id"] for row in found] == [stale]
    assert await owner.fetch("select * from chartloom.stale_uploads($1, $2)", DAY, stale) == []


async def test_a_whole_file_is_completed_on_the_clients_behalf_and_once(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    file = await announce(owner, patient)
    assert await owner.fetchval(SETTLE, file, "whole", DAY) == "queued"
    assert await owner.fetchval(SETTLE, file, "whole", DAY) is None
    told = await as_user(owner, patient.user_id, "select complete_upload($1)", file)
    job = await claim(owner, "ocr")
    assert (told["status"], told["job_id"]) == ("queued", job["job_id"])
    assert job["payload"]["run_id"] == str((await document(owner, file))["current_run_id"])
    assert await count(owner, "chartloom.document_runs") == 1


@pytest.mark.parametrize(("found", "code"), [("nothing", "upload_never_arrived"), ("different", "checksum_mismatch")])
async def test_what_cannot_be_trusted_ends_with_a_reason_and_may_be_uploaded_again(
    owner: asyncpg.Connection, patient: Patient, found: str, code: str
) -> None:
    file = await announce(owner, patient)
    assert await owner.fetchval(SETTLE, file, found, DAY) == "failed"
    told = (await document(owner, file))["processing_error"]
    assert told["code"] == code
    assert "upload it again" in told["message"]
    assert await count(owner, "chartloom.processing_errors where code = $1 and level = 'file'", code) == 1
    assert await count(owner, "chartloom.job_queue") == 0
    assert (await as_user(owner, patient.user_id, "select complete_upload($1)", file))["status"] == "queued"
    assert await count(owner, "chartloom.job_queue") == 1


async def test_a_client_that_comes_back_in_between_is_first(owner: asyncpg.Connection, patient: Patient) -> None:
    file = await announce(owner, patient)
    await as_user(owner, patient.user_id, "select complete_upload($1)", file)
    assert await owner.fetchval(SETTLE, file, "nothing", DAY) is None
    assert (await document(owner, file))["status"] == "queued"


async def test_uploads_of_who_is_being_erased_are_left_alone(owner: asyncpg.Connection, patient: Patient) -> None:
    file = await announce(owner, patient)
    await owner.execute("select chartloom.begin_erasure($1)", patient.profile_id)
    assert await owner.fetch("select * from chartloom.stale_uploads($1, $2)", DAY, UUID(int=0)) == []
    assert await owner.fetchval(SETTLE, file, "whole", DAY) is None


# -- files and rows ----------------------------------------------------------------------------------------------------


async def test_an_announcement_waits_for_a_file_that_is_being_deleted(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    """Else the same bytes, put anew, would go with the old ones."""
    path = f"{patient.profile_id}/{'0' * 64}"
    note = "select * from chartloom.note_unknown_files(array[$1], array[6::bigint], 3600)"
    assert [row["is_expired"] for row in await owner.fetch(note, path)] == [False]
    await owner.execute(f"update chartloom.storage_findings set found_at = {LONG_AGO}")
    assert [row["is_expired"] for row in await owner.fetch(note, path)] == [True]
    user = await database.connect()
    deleting = owner.transaction()
    await deleting.start()
    assert await owner.fetchval("select chartloom.release_unknown_file($1, 3600)", path)
    announcing = asyncio.create_task(announce(user, patient))
    watcher = await database.connect()
    await until_blocked(watcher, user.get_server_pid())
    await deleting.commit()
    await announcing
    assert not await owner.fetchval("select chartloom.release_unknown_file($1, 3600)", path)
    assert await owner.fetch(note, path) == []
    for connection in (user, watcher):
        await connection.close()


async def test_a_file_is_not_deleted_while_its_patient_announces_one(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    path = f"{patient.profile_id}/{'0' * 64}"
    await owner.fetch("select * from chartloom.note_unknown_files(array[$1], array[6::bigint], 3600)", path)
    await owner.execute(f"update chartloom.storage_findings set found_at = {LONG_AGO}")
    user = await database.connect()
    announcing = user.transaction()
    await announcing.start()
    await user.execute(
        "insert into shell_files (patient_id, file_name, size_bytes, sha256, storage_path, traceparent) "
        "values ($1, 'a', 6, $2, $3, '')",
        patient.profile_id,
        "0" * 64,
        path,
    )
    assert not await owner.fetchval("select chartloom.release_unknown_file($1, 3600)", path)
    await announcing.rollback()
    assert await owner.fetchval("select chartloom.release_unknown_file($1, 3600)", path)
    await user.close()


# -- documents that no job is working on -------------------------------------------------------------------------------


async def lose_jobs(owner: asyncpg.Connection) -> None:
    """As somebody does who deletes rows by hand, two days ago."""
    await owner.execute("delete from chartloom.job_queue")
    await owner.execute(f"update chartloom.job_archive set completed_at = {LONG_AGO}")
    await owner.execute(f"update shell_files set uploaded_at = {LONG_AGO}")


async def test_a_lost_first_step_is_enqueued_again_and_told_to_operators(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    file = await upload(owner, patient.user_id, patient.profile_id)
    await lose_jobs(owner)
    (resumed,) = await owner.fetch(RESUME)
    assert (resumed["shell_file_id"], resumed["outcome"]) == (file, "enqueued")
    assert await owner.fetch(RESUME) == []
    assert (await claim(owner, "ocr"))["job_id"] == resumed["job_id"]
    said = await owner.fetchrow("select * from chartloom.processing_errors")
    assert (said["code"], said["job_id"], said["shell_file_id"]) == ("job_missing", resumed["job_id"], file)


async def test_a_document_goes_on_after_the_last_step_that_was_done(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    file = await upload(owner, patient.user_id, patient.profile_id)
    for done, missing in (("ocr", "ai_detect"), ("ai_detect", "ai_enrich")):
        worker = await database.connect(STEPS[done])
        job = await claim(worker, done)
        lease = (job["job_id"], job["lease_token"])
        if done == "ocr":
            await worker.fetchval("select chartloom.save_ocr_pages($1, $2, $3)", *lease, [page("text")])
        await worker.execute("select chartloom.complete_job($1, $2)", *lease)
        await worker.close()
        await lose_jobs(owner)
        assert [row["outcome"] for row in await owner.fetch(RESUME)] == ["enqueued"]
        waiting = await owner.fetchrow("select * from chartloom.job_queue")
        assert (waiting["job_type"], waiting["traceparent"]) == (missing, job["traceparent"])
    assert (await document(owner, file))["status"] == "processing"


async def test_a_document_whose_last_step_was_done_is_completed(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    file = await persist_document(database, owner, patient, lambda _: {})
    await owner.execute("update shell_files set status = 'processing', completed_at = null")
    await lose_jobs(owner)
    assert [row["outcome"] for row in await owner.fetch(RESUME)] == ["completed"]
    assert (await document(owner, file))["status"] == "completed"
    assert await count(owner, "chartloom.job_queue") == 0


async def test_what_cannot_be_told_is_not_guessed(owner: asyncpg.Connection, patient: Patient) -> None:
    """Children of a pass are lost: which of them were done, nobody knows."""
    file = await upload(owner, patient.user_id, patient.profile_id)
    job = await claim(owner, "ocr")
    await owner.execute("select chartloom.complete_job($1, $2)", job["job_id"], job["lease_token"])
    job = await claim(owner, "ai_detect")
    await owner.execute(
        "insert into chartloom.job_types (job_type, job_category, worker_role, payload_schema) "
        "values ('part', 'ai', 'chartloom_ai', '{\"part\": \"integer\"}')"
    )
    await owner.fetch(
        "select chartloom.fan_out_job($1, $2, 'part', '[{\"part\": 1}]', null)", job["job_id"], job["lease_token"]
    )
    await lose_jobs(owner)
    assert [row["outcome"] for row in await owner.fetch(RESUME)] == ["failed"]
    assert (await document(owner, file))["processing_error"]["code"] == "work_lost"


async def test_pages_that_are_there_are_no_reason_to_give_up(owner: asyncpg.Connection, patient: Patient) -> None:
    """They are kept as they are read: whoever begins anew reads the others."""
    await upload(owner, patient.user_id, patient.profile_id)
    job = await claim(owner, "ocr")
    await owner.execute(
        "select chartloom.save_ocr_pages($1, $2, $3)", job["job_id"], job["lease_token"], [page("text")]
    )
    await lose_jobs(owner)
    (resumed,) = await owner.fetch(RESUME)
    assert resumed["outcome"] == "enqueued"
    assert (await claim(owner, "ocr"))["job_id"] == resumed["job_id"]


async def test_a_job_of_whatever_state_and_a_recent_document_are_left_alone(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    await upload(owner, patient.user_id, patient.profile_id)
    await owner.execute(f"update shell_files set uploaded_at = {LONG_AGO}")
    assert await owner.fetch(RESUME) == []
    job = await claim(owner, "ocr")
    assert await owner.fetch(RESUME) == []
    await owner.execute("select chartloom.fail_job($1, $2, 'c', 'm', false)", job["job_id"], job["lease_token"])
    await owner.execute("update shell_files set status = 'processing'")
    assert await owner.fetch(RESUME) == []
    await owner.execute("delete from chartloom.job_queue")
    await owner.execute("update shell_files set uploaded_at = now()")
    assert await owner.fetch(RESUME) == []


async def test_sweepers_at_once_resume_a_document_once(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    for number in range(20):
        await upload(owner, patient.user_id, patient.profile_id, str(number).encode())
    await lose_jobs(owner)
    sweepers = [await database.connect("chartloom_sweeper") for _ in range(3)]
    for _ in range(2):
        await asyncio.gather(*(sweeper.fetch(RESUME) for sweeper in sweepers))
    assert await count(owner, "chartloom.job_queue") == 20
    for sweeper in sweepers:
        await sweeper.close()


# -- retention ---------------------------------------------------------------------------------------------------------


async def test_what_is_past_its_time_goes_and_what_is_needed_stays(owner: asyncpg.Connection) -> None:
    enqueue = "select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}', p_idempotency_key => $1)"
    for key in ("done", "live"):
        await owner.execute(enqueue, key)
        if key == "done":
            job = await claim(owner, "ocr")
            await owner.execute("select chartloom.complete_job($1, $2)", job["job_id"], job["lease_token"])
    live = await owner.fetchval("select id from chartloom.job_queue")
    old = "now() - interval '100 days'"
    await owner.execute(f"update chartloom.idempotency_keys set created_at = {old}")
    await owner.execute(f"update chartloom.job_archive set completed_at = {old}")
    for group in (1, 2):
        await owner.execute(
            "insert into chartloom.job_groups (parent_job_id, join_job_type, join_payload, remaining, created_at) "
            f"values (1, 'ocr', '{{}}', $1, {old})",
            group,
        )
    await owner.execute("update chartloom.job_queue set group_id = (select min(id) from chartloom.job_groups)")
    for since in (old, "now()"):
        await owner.execute(
            "insert into chartloom.processing_errors (occurred_at, level, kind, code, message) "
            f"values ({since}, 'job', 'transient', 'c', 'm')"
        )
        await owner.execute(
            "insert into chartloom.workers (worker_id, service, version, started_at, heartbeat_at) "
            f"values ($1, 'ocr', '1', {since}, {since})",
            since,
        )
    await owner.execute("select chartloom.set_rate_limit('key', 10, null)")
    await owner.execute(
        f"insert into chartloom.rate_grants (limit_key, granted_at, tokens) values ('key', {old}, 1), ('key', now(), 1)"
    )
    deleted = {
        row["kind"]: row["deleted"] for row in await owner.fetch("select * from chartloom.delete_expired(90, 1000)")
    }
    assert deleted == {
        "archived_jobs": 1, "idempotency_keys": 1, "job_groups": 1, "processing_errors": 1, "workers": 1,
        "sleepers": 0, "rate_grants": 1, "storage_findings": 0,
    }  # fmt: skip
    assert await owner.fetchval("select array_agg(idempotency_key) from chartloom.idempotency_keys") == ["live"]
    assert await owner.fetchval(enqueue, "live") == live
    again = await owner.fetch("select * from chartloom.delete_expired(90, 1000)")
    assert sum(row["deleted"] for row in again) == 0


async def test_a_deletion_is_bounded_and_does_not_wait(database: Database, owner: asyncpg.Connection) -> None:
    await owner.execute(
        "insert into chartloom.processing_errors (occurred_at, level, kind, code, message) "
        "select now() - interval '100 days', 'job', 'transient', 'c', 'm' from generate_series(1, 30)"
    )
    other = await database.connect("chartloom_sweeper")
    delete = "select deleted from chartloom.delete_expired(90, 10) where kind = 'processing_errors'"
    async with owner.transaction():
        assert await owner.fetchval(delete) == 10
        assert await asyncio.wait_for(other.fetchval(delete), 5) == 10
    assert await count(owner, "chartloom.processing_errors") == 10
    await other.close()


async def test_a_sleeper_that_no_longer_looks_for_its_row_is_gone(owner: asyncpg.Connection) -> None:
    sleep = "select chartloom.fall_asleep($1, array['ocr'])"
    for channel in ("chartloom_dead", "chartloom_idle"):
        assert await owner.fetchval(sleep, channel)
    await owner.execute("update chartloom.sleepers set renewed_at = now() - interval '11 minutes'")
    assert not await owner.fetchval(sleep, "chartloom_idle")
    await owner.fetch("select * from chartloom.delete_expired()")
    assert await owner.fetchval("select array_agg(channel) from chartloom.sleepers") == ["chartloom_idle"]


# -- the archive's partitions ------------------------------------------------------------------------------------------

MAKE = "select chartloom.make_archive_partition((now() + make_interval(months => $1))::date)"
PARTITIONS = """
select coalesce(array_agg(c.relname::text order by c.relname), '{}') from pg_inherits as i
join pg_class as c on c.oid = i.inhrelid where i.inhparent = 'chartloom.job_archive'::regclass
"""


async def complete_one(owner: asyncpg.Connection) -> int:
    await owner.execute("select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}')")
    job = await claim(owner, "ocr")
    await owner.execute("select chartloom.complete_job($1, $2)", job["job_id"], job["lease_token"])
    job_id: int = job["job_id"]
    return job_id


async def fill_archive(owner: asyncpg.Connection) -> None:
    """More than may be read while completions wait."""
    await complete_one(owner)
    await owner.execute(
        "insert into chartloom.job_archive select a.* from chartloom.job_archive as a, generate_series(1, 100000)"
    )


async def test_a_new_database_gets_its_months_and_jobs_go_there(owner: asyncpg.Connection) -> None:
    assert [await owner.fetchval(MAKE, ahead) for ahead in (0, 1, 0)] == ["attached", "attached", "there"]
    await complete_one(owner)
    assert await count(owner, "chartloom.job_archive_default") == 0
    assert await count(owner, "chartloom.job_archive") == 1
    assert len(await owner.fetchval(PARTITIONS)) == 3
    assert await owner.fetchval(
        "select bool_and(relrowsecurity) from pg_class where relname ~ '^job_archive_[0-9]{6}$'"
    )


async def test_a_month_that_has_begun_in_the_default_partition_stays_there(owner: asyncpg.Connection) -> None:
    before = await complete_one(owner)
    assert [await owner.fetchval(MAKE, ahead) for ahead in (0, 1)] == ["left", "attached"]
    after = await complete_one(owner)
    assert await owner.fetchval("select array_agg(id order by id) from chartloom.job_archive_default") == [
        before,
        after,
    ]


async def test_beside_a_large_default_partition_a_month_is_made_in_steps(owner: asyncpg.Connection) -> None:
    await fill_archive(owner)
    assert await owner.fetchval(MAKE, 0) == "left"
    assert [await owner.fetchval(MAKE, 2) for _ in range(4)] == ["fenced", "validated", "attached", "there"]
    assert (
        await count(
            owner,
            "pg_constraint where conrelid = 'chartloom.job_archive_default'::regclass and contype = 'c' "
            "and conname ~ '^nothing_of'",
        )
        == 0
    )
    await complete_one(owner)


async def test_a_fence_never_stands_where_jobs_complete(owner: asyncpg.Connection) -> None:
    """A sweeper that died between two steps, and nobody came for a month: completions go on."""
    await fill_archive(owner)
    assert await owner.fetchval(MAKE, 2) == "fenced"
    await owner.execute(
        "select set_config('chartloom.clock', (date_trunc('month', now()) + interval '2 months' - interval '2 days')"
        "::text, false)"
    )
    assert await owner.fetchval(MAKE, 2) == "left"
    assert await count(owner, "pg_constraint where conname ~ '^nothing_of'") == 0


async def test_a_partition_never_waits_long_for_completions_nor_they_for_it(
    database: Database, owner: asyncpg.Connection
) -> None:
    completing = owner.transaction()
    await completing.start()
    await complete_one(owner)
    sweeper = await database.connect("chartloom_sweeper")
    async with asyncio.timeout(5):
        assert await sweeper.fetchval(MAKE, 1) == "busy"
    await completing.commit()
    assert await sweeper.fetchval(MAKE, 1) == "attached"
    await sweeper.close()


async def test_a_month_is_dropped_when_its_last_job_is_past_the_retention(owner: asyncpg.Connection) -> None:
    assert await owner.fetchval(MAKE, 0) == "attached"
    await complete_one(owner)
    drop = "select chartloom.drop_archive_partition(90)"
    assert await owner.fetchval(drop) is None
    await owner.execute(
        "select set_config('chartloom.clock', (date_trunc('month', now()) + interval '1 month 89 days')::text, false)"
    )
    assert await owner.fetchval(drop) is None
    await owner.execute(
        "select set_config('chartloom.clock', (date_trunc('month', now()) + interval '1 month 91 days')::text, false)"
    )
    assert (await owner.fetchval(drop)).startswith("job_archive_2")
    assert await owner.fetchval(PARTITIONS) == ["job_archive_default"]


async def test_the_light_part_is_one_statement_for_pg_cron(owner: asyncpg.Connection, patient: Patient) -> None:
    await upload(owner, patient.user_id, patient.profile_id)
    await lose_jobs(owner)
    await owner.execute("select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}')")
    await claim(owner, "ocr")
    await owner.execute("update chartloom.job_queue set lease_expires_at = now()")
    done = {
        (row["task"], row["outcome"]): row["count"] for row in await owner.fetch("select * from chartloom.keep_house()")
    }
    assert done["leases", "pending"] == done["documents", "enqueued"] == done["archive", "attached"] == 1
    for _ in range(2):
        await owner.fetch("select * from chartloom.keep_house()")
    assert len(await owner.fetchval(PARTITIONS)) == 4


# -- scaling -----------------------------------------------------------------------------------------------------------

DECIDE = "select chartloom.decide_scaling('srv-1', array['ocr'], 60, 5, 600, 120)"


async def move_clock(owner: asyncpg.Connection, seconds: int) -> None:
    await owner.execute(
        "select set_config('chartloom.clock', (now() + make_interval(secs => $1))::text, false)", seconds
    )


async def test_more_when_a_job_waits_too_long_fewer_after_a_calm_and_nothing_in_between(
    owner: asyncpg.Connection,
) -> None:
    assert await owner.fetchval(DECIDE) is None
    await owner.execute("select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}')")
    decided = {}
    for second in (30, 61, 90, 180, 182):
        await move_clock(owner, second)
        decided[second] = await owner.fetchval(DECIDE)
    assert decided == {30: None, 61: "up", 90: None, 180: None, 182: "up"}
    await claim(owner, "ocr")
    for second in (400, 900, 1001, 1300):
        await move_clock(owner, second)
        decided[second] = await owner.fetchval(DECIDE)
    assert [decided[second] for second in (400, 900, 1001, 1300)] == [None, None, "down", None]


async def test_two_sweepers_change_a_service_once(database: Database, owner: asyncpg.Connection) -> None:
    await owner.execute("select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}')")
    await owner.execute("update chartloom.job_queue set scheduled_at = now() - interval '2 minutes'")
    sweepers = [await database.connect("chartloom_sweeper") for _ in range(4)]
    decided = await asyncio.gather(*(sweeper.fetchval(DECIDE) for sweeper in sweepers))
    assert sorted(decided, key=str) == [None, None, None, "up"]
    for sweeper in sweepers:
        await sweeper.close()


async def test_a_refused_change_is_put_off(owner: asyncpg.Connection) -> None:
    await owner.execute("select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}')")
    await move_clock(owner, 61)
    assert await owner.fetchval(DECIDE) == "up"
    await owner.execute("select chartloom.put_off_scaling('srv-1', 30)")
    assert await owner.fetchval(DECIDE) is None
    await move_clock(owner, 92)
    assert await owner.fetchval(DECIDE) == "up"
