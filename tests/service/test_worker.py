"""The runtime around a handler: how an attempt ends, what a stop does, what a lost lease or a lost server does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from shared.contract.base import Row
from shared.contract.payloads import DocumentPayload
from shared.database import connect, open_pool
from shared.errors import BusyError, TerminalError, TransientError
from shared.handler import Handler, report_progress
from shared.jobs import ClaimedJob, Write
from shared.listener import Listener
from shared.settings import ServiceSettings
from shared.worker import Worker
from tests.conftest import Database, Patient
from tests.users import upload

Work = Callable[[ClaimedJob], Awaitable[str]]


class Count(Row):
    number: int


async def succeed(_: ClaimedJob) -> str:
    return "done"


@dataclass
class Harness:
    """One worker with a handler that the test chooses."""

    worker: Worker
    listener: Listener
    stored: list[str] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def stop(self) -> None:
        self.worker.stop()
        await asyncio.wait_for(self.tasks[0], 20)


Start = Callable[..., Awaitable[Harness]]


@pytest.fixture
async def start(database: Database) -> AsyncIterator[Start]:
    harnesses: list[Harness] = []
    pools: list[asyncpg.Pool] = []

    async def start_worker(work: Work = succeed, *, listen_url: str | None = None, **changes: Any) -> Harness:
        url = database.url("chartloom_ocr")
        settings = ServiceSettings(
            database_url=url,
            worker_id=f"worker-{len(harnesses)}",
            **{"poll_seconds": 30, "drain_seconds": 5, **changes},
        )
        pool = await open_pool(url, size=4, application_name="worker under test")
        pools.append(pool)
        listener = Listener(
            listen_url=listen_url or url, pool=pool, topics=["ocr"], application_name="worker under test"
        )
        stored: list[str] = []

        def store(_: ClaimedJob, result: str) -> Write:
            stored.append(result)
            return Write("chartloom.write_ocr_pages", ([], {"said": result}))

        handler = Handler(job_type="ocr", payload=DocumentPayload, work=lambda job, _: work(job), store=store)
        worker = Worker(
            service="ocr",
            version="test",
            settings=settings,
            pool=pool,
            listener=listener,
            handlers={"ocr": handler},
            details={},
        )
        harness = Harness(worker, listener, stored)
        harness.tasks = [asyncio.create_task(worker.run()), asyncio.create_task(listener.run())]
        harnesses.append(harness)
        return harness

    yield start_worker
    for harness in harnesses:
        for task in harness.tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    for pool in pools:
        pool.terminate()


async def until(owner: asyncpg.Connection, condition: str, *arguments: Any, seconds: float = 10) -> None:
    """Waits until a query says true."""
    async with asyncio.timeout(seconds):
        while not await owner.fetchval(f"select {condition}", *arguments):
            await asyncio.sleep(0.01)


async def cut_connections(database: Database) -> None:
    """Ends every connection of the service under test, as a failover would."""
    admin = await connect(database.admin_url, application_name="test")
    await admin.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and usename = 'chartloom_ocr'",
        database.name,
    )
    await admin.close()


JOB_IS = "(select status from chartloom.job_history where job_type = 'ocr') = $1"
ASLEEP = "exists (select from chartloom.sleepers where topic = 'ocr')"


async def test_a_job_is_done_and_hands_over_to_the_next_step(
    start: Start, owner: asyncpg.Connection, patient: Patient
) -> None:
    await upload(owner, patient.user_id, patient.profile_id)
    harness = await start()
    await until(owner, JOB_IS, "completed")
    assert harness.stored == ["done"]
    assert await owner.fetchval("select result from chartloom.job_history where job_type = 'ocr'") == {"said": "done"}
    assert await owner.fetchval("select status from chartloom.job_queue where job_type = 'ai_detect'") == "pending"


async def test_an_idle_worker_is_woken_long_before_its_poll(
    start: Start, owner: asyncpg.Connection, patient: Patient
) -> None:
    await start()
    await until(owner, ASLEEP)
    await upload(owner, patient.user_id, patient.profile_id)
    await until(owner, JOB_IS, "completed", seconds=3)


async def test_a_worker_that_cannot_listen_polls(start: Start, owner: asyncpg.Connection, patient: Patient) -> None:
    harness = await start(listen_url="postgresql://nobody@127.0.0.1:1/none", poll_seconds=0.2)
    await upload(owner, patient.user_id, patient.profile_id)
    await until(owner, JOB_IS, "completed")
    assert harness.listener.mode == "poll"
    assert not await owner.fetchval(f"select {ASLEEP}")


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (TransientError("endpoint_away", "No answer."), "failed", "transient", "endpoint_away"),
        (TerminalError("file_empty", "The file is empty."), "dead_letter", "terminal", "file_empty"),
        (BusyError("rate_limited", "Later.", timedelta(minutes=1)), "pending", "snoozed", "rate_limited"),
        (ValueError("Jane Doe, HIV positive"), "failed", "transient", "unexpected_error"),
        (TimeoutError("of the handler's own"), "failed", "transient", "connection_failed"),
        (asyncpg.ConnectionDoesNotExistError("closed in the middle"), "pending", "snoozed", "database_away"),
    ],
)
async def test_the_type_of_an_error_decides_what_becomes_of_the_job(
    start: Start, owner: asyncpg.Connection, patient: Patient, error: Exception, status: str, kind: str, code: str
) -> None:
    async def fail(_: ClaimedJob) -> str:
        raise error

    await upload(owner, patient.user_id, patient.profile_id)
    await start(fail)
    await until(owner, "exists (select from chartloom.processing_errors)")
    job = await owner.fetchrow("select * from chartloom.job_queue")
    assert job["status"] == status
    assert job["retry_count"] == (1 if status == "failed" else 0)
    recorded = await owner.fetchrow("select * from chartloom.processing_errors")
    assert (recorded["kind"], recorded["code"]) == (kind, code)
    assert "Jane" not in str(dict(recorded)) + str(job["error"])


async def test_who_loses_the_lease_stops_the_work_and_stores_nothing(
    start: Start, owner: asyncpg.Connection, patient: Patient
) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def hang(_: ClaimedJob) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    await upload(owner, patient.user_id, patient.profile_id)
    harness = await start(hang, lease_seconds=3)
    await asyncio.wait_for(begun.wait(), 5)
    # As after a pause: the lease expired, the sweeper took the job, another worker claimed it.
    await owner.execute("update chartloom.job_queue set lease_token = gen_random_uuid(), worker_id = 'another'")
    await asyncio.wait_for(stopped.wait(), 5)
    await harness.stop()
    assert harness.stored == []
    job = await owner.fetchrow("select * from chartloom.job_queue")
    assert (job["status"], job["worker_id"], job["retry_count"]) == ("processing", "another", 0)


async def test_a_cancelled_document_stops_the_work(start: Start, owner: asyncpg.Connection, patient: Patient) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def hang(_: ClaimedJob) -> str:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    document = await upload(owner, patient.user_id, patient.profile_id)
    await start(hang, lease_seconds=3)
    await asyncio.wait_for(begun.wait(), 5)
    await owner.execute("select chartloom.cancel_document_jobs($1)", document)
    await asyncio.wait_for(stopped.wait(), 5)
    assert await owner.fetchval(f"select {JOB_IS}", "cancelled")


async def test_a_stop_lets_the_job_in_hand_finish(start: Start, owner: asyncpg.Connection, patient: Patient) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_: ClaimedJob) -> str:
        begun.set()
        await go_on.wait()
        return "finished"

    await upload(owner, patient.user_id, patient.profile_id)
    harness = await start(wait)
    await asyncio.wait_for(begun.wait(), 5)
    harness.worker.stop()
    assert harness.worker.ready() == "draining"
    go_on.set()
    await harness.stop()
    assert harness.stored == ["finished"]
    assert await owner.fetchval(f"select {JOB_IS}", "completed")


async def test_a_stop_hands_back_what_does_not_finish_and_spends_no_attempt(
    start: Start, owner: asyncpg.Connection, patient: Patient
) -> None:
    begun = asyncio.Event()

    async def hang(_: ClaimedJob) -> str:
        begun.set()
        await asyncio.Event().wait()
        return "never"

    await upload(owner, patient.user_id, patient.profile_id)
    harness = await start(hang, drain_seconds=0.2)
    await asyncio.wait_for(begun.wait(), 5)
    await harness.stop()
    job = await owner.fetchrow("select * from chartloom.job_queue")
    assert (job["status"], job["is_ready"], job["retry_count"], job["lease_losses"]) == ("pending", True, 0, 0)


async def test_finished_work_outlives_the_connections_that_should_have_stored_it(
    start: Start, database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    attempts = 0

    async def wait(_: ClaimedJob) -> str:
        nonlocal attempts
        attempts += 1
        begun.set()
        await go_on.wait()
        return "finished"

    await upload(owner, patient.user_id, patient.profile_id)
    await start(wait)
    await asyncio.wait_for(begun.wait(), 5)
    await cut_connections(database)
    go_on.set()
    await until(owner, JOB_IS, "completed")
    assert attempts == 1


async def test_after_its_connections_died_a_worker_is_still_woken(
    start: Start, database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    await start()
    await until(owner, ASLEEP)
    await owner.execute("truncate chartloom.sleepers")
    await cut_connections(database)
    await until(owner, ASLEEP)
    await upload(owner, patient.user_id, patient.profile_id)
    await until(owner, JOB_IS, "completed", seconds=3)


async def test_no_more_than_the_allowed_number_runs_at_once(
    start: Start, owner: asyncpg.Connection, patient: Patient
) -> None:
    running = most = 0

    async def count(_: ClaimedJob) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return "done"

    for number in range(12):
        await upload(owner, patient.user_id, patient.profile_id, f"file {number}".encode())
    await start(count, worker_concurrency=3)
    await until(owner, "count(*) = 12 from chartloom.job_history where job_type = 'ocr' and status = 'completed'")
    assert most == 3


async def test_a_cancel_in_the_moment_of_waking_is_not_lost(database: Database) -> None:
    """asyncio.wait_for of Python 3.11 swallows it, and a service that should stop goes on for ever."""
    pool = await open_pool(database.url("chartloom_ocr"), size=2, application_name="under test")
    listener = Listener(listen_url="", pool=pool, topics=["ocr"], application_name="under test")
    sleeping = asyncio.create_task(listener.sleep(60))
    await asyncio.sleep(0)
    listener.nudge()
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    await pool.close()


async def test_a_wake_up_that_comes_before_the_answer_of_falling_asleep_is_not_lost(database: Database) -> None:
    pool = await open_pool(database.url("chartloom_ocr"), size=2, application_name="under test")
    url = database.url("chartloom_ocr")
    listener = Listener(listen_url=url, pool=pool, topics=["ocr"], application_name="under test")

    class WokenWhileFallingAsleep:
        async def fetchval(self, *_: object) -> bool:
            listener.wake()
            return True

    running = asyncio.create_task(listener.run())
    async with asyncio.timeout(10):
        while listener.mode != "notify":
            await asyncio.sleep(0.01)
    await listener.sleep(0.1)
    listener._pool = WokenWhileFallingAsleep()  # type: ignore[assignment]
    assert await listener.open_gate()
    listener._pool = pool
    # The gate counts as shut, so it is opened again; and the sleep ends at once.
    assert await listener.open_gate()
    async with asyncio.timeout(5):
        await listener.sleep(60)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await pool.close()


async def test_a_worker_that_gets_its_own_lost_job_again_gives_up_the_old_attempt(
    start: Start, owner: asyncpg.Connection, patient: Patient
) -> None:
    begun: list[int] = []
    ended: list[str] = []
    go_on = asyncio.Event()

    async def work(job: ClaimedJob) -> str:
        begun.append(job.job_id)
        try:
            if len(begun) == 1:
                await asyncio.Event().wait()
            await go_on.wait()
        except asyncio.CancelledError:
            ended.append("given up")
            raise
        return "second attempt"

    await upload(owner, patient.user_id, patient.profile_id)
    harness = await start(work, worker_concurrency=2, lease_seconds=3, poll_seconds=0.2)
    async with asyncio.timeout(10):
        while len(begun) < 1:
            await asyncio.sleep(0.01)
    await owner.execute("update chartloom.job_queue set lease_expires_at = now() - interval '1 second'")
    await owner.execute("select * from chartloom.sweep_expired_leases()")
    async with asyncio.timeout(10):
        while len(begun) < 2 or not ended:
            await asyncio.sleep(0.01)
    # Two heartbeats later the new attempt is still held.
    token = await owner.fetchval("select lease_token from chartloom.job_queue")
    beat = await owner.fetchval("select heartbeat_at from chartloom.job_queue")
    await until(owner, "(select heartbeat_at from chartloom.job_queue) > $1", beat)
    assert await owner.fetchval("select lease_token from chartloom.job_queue") == token
    go_on.set()
    await until(owner, JOB_IS, "completed")
    assert harness.stored == ["second attempt"]
    assert await owner.fetchval("select lease_losses from chartloom.job_history where job_type = 'ocr'") == 1


async def test_a_stop_in_the_middle_of_a_claim_is_not_slept_through(start: Start) -> None:
    harness = await start(poll_seconds=60)
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await harness.stop()


async def test_a_long_drain_is_no_stalled_loop(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    harness = await start()
    monkeypatch.setattr("shared.worker.STALLED_SECONDS", -1.0)
    assert harness.worker.live() == "claim loop stalled"
    harness.worker.stop()
    assert harness.worker.live() is None


async def test_the_row_tells_how_far_the_work_is(start: Start, owner: asyncpg.Connection, patient: Patient) -> None:
    async def work_slowly(_: ClaimedJob) -> str:
        report_progress(0.25)
        await asyncio.Event().wait()
        return "never"

    await upload(owner, patient.user_id, patient.profile_id)
    await start(work_slowly, lease_seconds=3)
    await until(owner, "(select progress from chartloom.job_queue) = 0.25::real")
    await owner.execute("set chartloom.clock = '2100-01-01'")
    await owner.fetch("select * from chartloom.sweep_expired_leases()")
    assert await owner.fetchval("select progress from chartloom.job_queue where status = 'processing'") is None


async def test_what_ran_too_long_is_stopped_within_a_second_or_two(
    start: Start, owner: asyncpg.Connection, patient: Patient
) -> None:
    """Its next heartbeat is minutes away: the worker's own watch has to end it."""
    await owner.execute("update chartloom.job_types set max_run_seconds = 1 where job_type = 'ocr'")
    stopped = asyncio.Event()

    async def hang(_: ClaimedJob) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    await upload(owner, patient.user_id, patient.profile_id)
    await start(hang, lease_seconds=600)
    async with asyncio.timeout(10):
        await stopped.wait()
    await until(owner, "exists (select from chartloom.processing_errors where code = 'run_time_exceeded')")


async def test_a_result_that_cannot_be_stored_fails_its_own_job_alone(
    database: Database, owner: asyncpg.Connection
) -> None:
    await owner.execute(
        "insert into chartloom.job_types (job_type, job_category, worker_role, payload_schema, max_retries) "
        "values ('count', 'fast', 'chartloom_ocr', '{\"number\": \"integer\"}', 0)"
    )
    await owner.fetchval(
        "select chartloom.enqueue_jobs_v3('count', 'fast', $1)", [{"number": number} for number in range(20)]
    )

    async def count(_: ClaimedJob, payload: Count) -> dict[str, Any]:
        return {"text": "\0" if payload.number == 7 else "fine"}

    pool = await open_pool(database.url("chartloom_ocr"), size=4, application_name="worker under test")
    listener = Listener(
        listen_url=database.url("chartloom_ocr"), pool=pool, topics=["count"], application_name="worker under test"
    )
    worker = Worker(
        service="ocr", version="test", pool=pool, listener=listener, details={},
        settings=ServiceSettings(database_url="unused", worker_id="w", worker_concurrency=20),
        handlers={"count": Handler(job_type="count", payload=Count, work=count)},
    )  # fmt: skip
    running = asyncio.create_task(worker.run())
    await until(owner, "(select count(*) from chartloom.job_history where status in ('completed', 'dead_letter')) = 20")
    worker.stop()
    async with asyncio.timeout(10):
        await running
    pool.terminate()
    buried = await owner.fetch("select payload, error from chartloom.job_history where status = 'dead_letter'")
    assert [row["payload"] for row in buried] == [{"number": 7}]
    assert buried[0]["error"]["code"] == "database_refused"
