"""A document read by many: pages kept once, what follows it enqueued once, and nothing stuck when one of them fails."""

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.conftest import Database, Patient
from tests.pipeline import claim, page
from tests.users import as_user, upload

PAGES = 12
MISSING = "select chartloom.missing_pages($1, $2, $3)"
SAVE = "select chartloom.save_ocr_pages($1, $2, $3)"
COMPLETE = "select chartloom.complete_job($1, $2)"
FAIL = "select chartloom.fail_job($1, $2, $3, 'advice', false)"


def lease(job: asyncpg.Record) -> tuple[int, Any]:
    return job["job_id"], job["lease_token"]


async def hand_out(connection: asyncpg.Connection, job: asyncpg.Record, *, read: int) -> None:
    """The job's first pages are kept, each of the rest is a job of its own."""
    assert await connection.fetchval(MISSING, *lease(job), PAGES) == list(range(1, PAGES + 1))
    await connection.execute(SAVE, *lease(job), [page("text", number=number) for number in range(1, read + 1)])
    payloads = [{**job["payload"], "first_page": n, "last_page": n} for n in range(read + 1, PAGES + 1)]
    children = await connection.fetch(
        "select chartloom.fan_out_job($1, $2, 'ocr_pages', $3, null) as id", *lease(job), payloads
    )
    assert len(children) == PAGES - read


async def read_page(connection: asyncpg.Connection, job: asyncpg.Record) -> None:
    number = job["payload"]["first_page"]
    async with connection.transaction():
        await connection.execute(SAVE, *lease(job), [page("text", number=number)])
        await connection.execute(COMPLETE, *lease(job))


async def following(owner: asyncpg.Connection) -> list[str]:
    rows = await owner.fetch("select job_type from chartloom.job_queue where job_type <> 'ocr_pages'")
    return [row["job_type"] for row in rows]


@pytest.fixture
async def document(owner: asyncpg.Connection, patient: Patient) -> Any:
    return await upload(owner, patient.user_id, patient.profile_id)


async def status(owner: asyncpg.Connection, document: Any) -> tuple[str, str | None]:
    row = await owner.fetchrow(
        "select status, processing_error ->> 'code' as code from shell_files where id = $1", document
    )
    assert row is not None
    return row["status"], row["code"]


async def test_what_follows_ocr_follows_the_last_page_once_whoever_reads_it(
    database: Database, owner: asyncpg.Connection, document: Any
) -> None:
    workers = [await database.connect("chartloom_ocr") for _ in range(4)]
    await hand_out(workers[0], await claim(workers[0], "ocr"), read=2)

    async def work(connection: asyncpg.Connection) -> None:
        while jobs := await connection.fetch("select * from chartloom.claim_jobs('w', array['ocr_pages'], 1)"):
            assert await following(owner) == []
            await read_page(connection, jobs[0])

    await asyncio.gather(*(work(worker) for worker in workers[1:3]))
    assert await following(owner) == ["ai_detect"]
    next_job = await claim(owner, "ai_detect")
    assert set(next_job["payload"]) == {"shell_file_id", "run_id"}
    assert await owner.fetchval("select array_agg(page order by page) from ocr_pages") == list(range(1, PAGES + 1))
    assert await owner.fetchval("select page_count from chartloom.document_runs") == PAGES
    traces = await owner.fetchval("select count(distinct chartloom.trace_id(traceparent)) from chartloom.job_history")
    assert traces == 1
    for worker in workers:
        await worker.close()


async def test_a_page_is_kept_once_and_only_by_who_holds_the_job(
    database: Database, owner: asyncpg.Connection, document: Any
) -> None:
    worker = await database.connect("chartloom_ocr")
    job = await claim(worker, "ocr")
    for text in ("first", "second"):
        assert await worker.fetchval(SAVE, *lease(job), [page(text)]) == 1
    assert await owner.fetchval("select array_agg(text) from ocr_pages") == ["first"]
    assert await worker.fetchval(MISSING, *lease(job), 3) == [2, 3]
    await owner.execute("update chartloom.job_queue set lease_expires_at = now() - interval '1 second'")
    await owner.execute("select chartloom.sweep_expired_leases()")
    again = await claim(worker, "ocr")
    with pytest.raises(asyncpg.PostgresError) as lost:
        await worker.execute(SAVE, *lease(job), [page("late", number=2)])
    assert lost.value.sqlstate == "CL001"
    assert await worker.fetchval(MISSING, *lease(again), 3) == [2, 3]
    await worker.close()


async def test_a_page_that_cannot_be_read_fails_the_document_and_its_redrive_ends_it(
    owner: asyncpg.Connection, document: Any
) -> None:
    await hand_out(owner, await claim(owner, "ocr"), read=PAGES - 3)
    for code in ("page_timed_out", "page_reader_died"):
        job = await claim(owner, "ocr_pages")
        await owner.execute(FAIL, *lease(job), code)
        assert await status(owner, document) == ("failed", code)
    await read_page(owner, await claim(owner, "ocr_pages"))
    assert await following(owner) == []
    dead = [row["id"] for row in await owner.fetch("select id from chartloom.job_queue order by id")]
    await owner.fetch("select chartloom.redrive_jobs($1)", dead[:1])
    # Another of its pages is still a dead letter: the document has not recovered.
    assert (await status(owner, document))[0] == "failed"
    await owner.fetch("select chartloom.redrive_jobs($1)", dead[1:])
    assert await status(owner, document) == ("processing", None)
    for _ in dead:
        await read_page(owner, await claim(owner, "ocr_pages"))
    assert await following(owner) == ["ai_detect"]


async def test_a_document_that_was_handed_out_is_cancelled_whole(owner: asyncpg.Connection, document: Any) -> None:
    await hand_out(owner, await claim(owner, "ocr"), read=1)
    held = await claim(owner, "ocr_pages")
    assert await owner.fetchval("select chartloom.cancel_document_jobs($1)", document) == PAGES - 1
    with pytest.raises(asyncpg.PostgresError) as cancelled:
        await read_page(owner, held)
    assert cancelled.value.sqlstate == "CL002"
    assert await owner.fetchval("select count(*) from chartloom.job_queue") == 0


async def test_one_patients_long_document_leaves_room_for_everybody_elses(
    owner: asyncpg.Connection, patient: Patient, document: Any
) -> None:
    await hand_out(owner, await claim(owner, "ocr"), read=0)
    other = Patient(*[await owner.fetchval("select gen_random_uuid()") for _ in range(2)])
    await owner.execute(
        "insert into user_profiles (id, owner_user_id) values ($1, $2)", other.profile_id, other.user_id
    )
    await upload(owner, other.user_id, other.profile_id, b"another")
    await hand_out(owner, await claim(owner, "ocr"), read=0)
    order = [(await claim(owner, "ocr_pages"))["shell_file_id"] == document for _ in range(6)]
    assert order.count(True) == 3, "two patients' pages alternate, though one came first"


async def test_children_that_were_lost_are_made_again_and_nothing_is_read_twice(
    owner: asyncpg.Connection, document: Any
) -> None:
    await hand_out(owner, await claim(owner, "ocr"), read=PAGES - 2)
    await read_page(owner, await claim(owner, "ocr_pages"))
    await owner.execute("delete from chartloom.job_queue")
    for statement in (
        "update shell_files set uploaded_at = now() - interval '1 day'",
        "update chartloom.job_archive set completed_at = now() - interval '1 day'",
    ):
        await owner.execute(statement)
    (resumed,) = await owner.fetch("select * from chartloom.resume_documents()")
    assert resumed["outcome"] == "enqueued"
    job = await claim(owner, "ocr")
    assert job["job_id"] == resumed["job_id"]
    assert await owner.fetchval(MISSING, *lease(job), PAGES) == [PAGES]
    async with owner.transaction():
        await owner.execute(SAVE, *lease(job), [page("text", number=PAGES)])
        await owner.execute(COMPLETE, *lease(job))
    assert await following(owner) == ["ai_detect"]


async def test_the_same_bytes_are_read_and_paid_for_once(
    owner: asyncpg.Connection, patient: Patient, document: Any
) -> None:
    job = await claim(owner, "ocr")
    await owner.execute(SAVE, *lease(job), [page("text")])
    for _ in range(2):
        assert await upload(owner, patient.user_id, patient.profile_id) == document
        assert await owner.fetchval("select count(*) from chartloom.job_queue where job_type = 'ocr'") == 1
    await owner.execute(COMPLETE, *lease(job))
    assert await upload(owner, patient.user_id, patient.profile_id) == document
    assert await following(owner) == ["ai_detect"]
    assert await owner.fetchval("select count(*) from chartloom.document_runs") == 1


async def test_the_image_of_a_page_is_read_by_who_may_read_the_page(
    owner: asyncpg.Connection, patient: Patient, document: Any
) -> None:
    job = await claim(owner, "ocr")
    path = f"{patient.profile_id}/pages/{job['payload']['run_id']}/1.jpg"
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.execute(SAVE, *lease(job), [page("text") | {"image_path": "somebody/else/1.jpg"}])
    await owner.execute(SAVE, *lease(job), [page("text") | {"image_path": path}])
    for name in (path, path.replace("1.jpg", "2.jpg")):
        await owner.execute("insert into storage.objects (bucket_id, name) values ('records', $1)", name)
    stranger = await owner.fetchval("select gen_random_uuid()")
    seen = "select array_agg(name) from storage.objects where name like '%.jpg'"
    assert await as_user(owner, patient.user_id, seen) == [path]
    assert await as_user(owner, stranger, seen) is None
    # And the sweeper knows it; the other one is nobody's.
    unknown = await owner.fetch(
        "select storage_path from chartloom.note_unknown_files($1, array[1, 1], 0)",
        [path, path.replace("1.jpg", "2.jpg")],
    )
    assert [row["storage_path"] for row in unknown] == [path.replace("1.jpg", "2.jpg")]
    assert not await owner.fetchval("select chartloom.release_unknown_file($1, 0)", path)
