"""Everything but LISTEN runs through PgBouncer in transaction mode: each transaction may meet another connection.

What would break it: a prepared statement that is kept, a setting or a lock of the session, a LISTEN.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from shared import jobs
from shared.database import connect, open_pool
from shared.errors import LeaseLostError
from shared.jobs import ClaimedJob
from shared.migrate import FOLDER, migrate, pending
from tests.conftest import OWNER, Database
from tests.end_to_end.conftest import SAMPLES, process
from tests.pooler import BINARY, Pooler, pgbouncer
from tests.waiting import until, until_true
from tests.workers import effects, enqueue_probes, make_probe_type, running_worker

pytestmark = pytest.mark.skipif(BINARY is None, reason="pgbouncer is not installed on this machine")

SERVERS = 2
CLIENTS = 20
NOOP = {"noop": True}


@pytest.fixture
async def pooler(database: Database) -> AsyncIterator[Pooler]:
    async with pgbouncer(database, servers=SERVERS) as started:
        yield started


async def backends(owner: asyncpg.Connection, role: str) -> int:
    """How many server connections the role has in this database."""
    count: int = await owner.fetchval(
        "select count(*) from pg_stat_activity where datname = current_database() and usename = $1", role
    )
    return count


async def claim_all(pool: asyncpg.Pool, worker_id: str, outcomes: Counter[str], released: set[int]) -> None:
    """Claims until nothing is ready, and ends each job in the way that its id says."""
    while claimed := await jobs.claim_jobs(pool, worker_id=worker_id, job_types=["ocr"], limit=3, lease_seconds=60):
        states = await jobs.heartbeat_jobs(
            pool, worker_id=worker_id, service="ocr", version="0", jobs=claimed, lease_seconds=60, details={}
        )
        assert states == {job.lease_token: "held" for job in claimed}
        batch: list[tuple[ClaimedJob, dict[str, Any]]] = []
        for job in claimed:
            match job.job_id % 5:
                case 0:
                    async with pool.acquire() as connection, connection.transaction():
                        await jobs.complete_job(connection, job, result={"by": worker_id}, traceparent=None)
                    outcomes["completed"] += 1
                case 1 | 2:
                    batch.append((job, {"by": worker_id}))
                case 3:
                    async with pool.acquire() as connection:
                        ended = await jobs.fail_job(
                            connection, job, code="broken", message="As asked.", is_transient=job.attempt == 1
                        )
                    outcomes[ended] += 1
                case _ if job.job_id in released:
                    batch.append((job, {"by": worker_id}))
                case _:
                    async with pool.acquire() as connection:
                        await jobs.release_job(connection, job)
                    released.add(job.job_id)
                    outcomes["released"] += 1
        assert await jobs.complete_jobs(pool, batch) == {}
        outcomes["completed"] += len(batch)
        if batch:
            with pytest.raises(LeaseLostError):
                await jobs.complete_job(pool, batch[0][0], result=None, traceparent=None)


async def test_twenty_clients_do_every_thing_with_jobs_over_two_connections(
    pooler: Pooler, owner: asyncpg.Connection
) -> None:
    # Failed jobs are due again at once.
    await owner.execute("update chartloom.job_types set backoff_base_seconds = 0.000001 where job_type = 'ocr'")
    enqueuers = await open_pool(pooler.url(), size=CLIENTS, application_name="test")
    workers = await open_pool(pooler.url("chartloom_ocr"), size=CLIENTS, application_name="test")
    try:
        count = 200
        ids = await asyncio.gather(
            *(
                enqueuers.fetchval(
                    "select chartloom.enqueue_job_v3('ocr', 'fast', $1, p_fairness_key => $2)", NOOP, f"{number % 9}"
                )
                for number in range(count)
            )
        )
        assert len(set(ids)) == count
        outcomes: Counter[str] = Counter()
        released: set[int] = set()
        async with asyncio.timeout(60):
            while await owner.fetchval("select exists (select from chartloom.job_queue where status <> 'dead_letter')"):
                await asyncio.gather(
                    *(claim_all(workers, f"worker-{number}", outcomes, released) for number in range(CLIENTS))
                )
        assert workers.get_size() == CLIENTS
        assert await backends(owner, "chartloom_ocr") <= SERVERS
        a_fifth = count // 5
        assert outcomes == {
            "completed": 4 * a_fifth,
            "failed": a_fifth,
            "dead_letter": a_fifth,
            "released": a_fifth,
        }
        ended = await owner.fetch("select status, count(*) as jobs from chartloom.job_history group by status")
        assert {row["status"]: row["jobs"] for row in ended} == {"completed": 4 * a_fifth, "dead_letter": a_fifth}
        assert await owner.fetchval("select count(distinct id) from chartloom.job_history") == count
    finally:
        enqueuers.terminate()
        workers.terminate()


async def test_a_transaction_keeps_its_connection_and_rolls_back_whole(
    pooler: Pooler, owner: asyncpg.Connection
) -> None:
    await make_probe_type(owner)
    await enqueue_probes(owner, range(CLIENTS))
    pool = await open_pool(pooler.url("chartloom_ocr"), size=CLIENTS, application_name="test")

    async def complete(job: ClaimedJob) -> None:
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("insert into effects values ($1, 'test')", job.payload["number"])
            await jobs.complete_job(connection, job, result={}, traceparent=None)
            if job.payload["number"] % 2:
                raise ConnectionAbortedError

    try:
        claimed = await jobs.claim_jobs(pool, worker_id="w", job_types=["probe"], limit=CLIENTS, lease_seconds=60)
        ended = await asyncio.gather(*(complete(job) for job in claimed), return_exceptions=True)
        assert Counter(type(error) for error in ended) == {
            type(None): CLIENTS // 2,
            ConnectionAbortedError: CLIENTS // 2,
        }
        even = list(range(0, CLIENTS, 2))
        assert await effects(owner) == even
        done = await owner.fetch("select payload from chartloom.job_archive order by id")
        assert [row["payload"]["number"] for row in done] == even
    finally:
        pool.terminate()


async def test_a_worker_behind_it_listens_on_a_connection_of_its_own(
    pooler: Pooler, database: Database, owner: asyncpg.Connection
) -> None:
    await make_probe_type(owner)
    await enqueue_probes(owner, range(50))
    role = "chartloom_ocr"
    async with running_worker(
        pooler.url(role), listen_url=database.url(role), pool_size=8, worker_concurrency=8
    ) as worker:
        await until(owner, "count(*) = 50 from chartloom.job_archive")
        assert await effects(owner) == list(range(50))
        assert worker.listener.mode == "notify"
        # Asleep, it is woken long before its poll, which comes once a minute.
        await until(owner, "exists (select from chartloom.sleepers where topic = 'probe')")
        await enqueue_probes(owner, range(50, 51))
        await until(owner, "count(*) = 51 from chartloom.job_archive")
        # Its own, and those that are everybody's.
        assert await backends(owner, role) <= SERVERS + 1
        await worker.stop()


async def test_a_worker_that_can_only_listen_through_it_finds_out_polls_and_says_so(
    pooler: Pooler, owner: asyncpg.Connection
) -> None:
    await make_probe_type(owner)
    with capture_logs() as logs:
        async with running_worker(pooler.url("chartloom_ocr"), poll_seconds=0.5) as worker:
            await until_true(lambda: any(line["event"] == "listen_unproved" for line in logs), what="a line in the log")
            assert worker.listener.mode == "poll"
            await enqueue_probes(owner, range(20))
            await until(owner, "count(*) = 20 from chartloom.job_archive")
            assert await effects(owner) == list(range(20))
            # Nobody may rely on waking it: it is not among the sleepers.
            assert not await owner.fetchval("select exists (select from chartloom.sleepers)")
            assert worker.listener.mode == "poll"
    assert [line["mode"] for line in logs if line["event"] == "listen_unproved"] == ["poll"]
    assert [line for line in logs if line["event"] == "listening"] == []


async def test_two_instances_that_migrate_at_once_through_it_apply_each_file_once(pooler: Pooler) -> None:
    name = f"test_{uuid4().hex[:12]}"
    admin = await connect(pooler.admin_url, application_name="test")
    await admin.execute(f"create database {name} owner {OWNER}")
    try:
        inside = await Database(pooler.admin_url, name).connect_as_superuser()
        await inside.execute((FOLDER / "plain_postgres.sql").read_text())
        await inside.close()
        empty = Pooler(pooler.admin_url, name, pooler.port)
        instances = [await empty.connect() for _ in range(2)]
        applied = await asyncio.gather(*(migrate(instance) for instance in instances))
        files = sorted(path.name for path in FOLDER.glob("2*.sql"))
        assert sorted(applied[0] + applied[1]) == files
        for instance in instances:
            assert await pending(instance) == []
            await instance.close()
    finally:
        await admin.execute(f"drop database {name} with (force)")
        await admin.close()


@pytest.mark.slow
async def test_a_document_passes_the_whole_system_behind_it(
    pooler: Pooler, database: Database, owner: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARTLOOM_HOME", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", pooler.url())
    monkeypatch.setenv("LISTEN_DATABASE_URL", database.url())
    (document,) = await asyncio.to_thread(process, SAMPLES[0], out=tmp_path / "out.json")
    assert document["entities"]
    assert await owner.fetchval("select status from shell_files") == "completed"
