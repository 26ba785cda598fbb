"""What a worker does when connections die: with a bang, without a word, or together with the server or the worker."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from cli.embedded_postgres import EmbeddedPostgres
from services.sweeper.handler import STALLED_SECONDS as SWEEPER_STALLED_SECONDS
from shared.database import connect, open_pool
from shared.worker import STALLED_SECONDS as WORKER_STALLED_SECONDS
from tests.conftest import OWNER, REPOSITORY, SERVICE_ROLES, TEMPLATE, Database, Patient
from tests.proxy import Proxy, proxy_to
from tests.users import upload
from tests.waiting import until, until_true
from tests.worker_process import EFFECTS, gate
from tests.workers import RunningWorker, effects, enqueue_probes, leave_effect, make_probe_type, running_worker

ROLE = "chartloom_ocr"
ASLEEP = "exists (select from chartloom.sleepers where topic = 'probe')"
COMPLETED = "count(*) = $1 from chartloom.job_archive where status = 'completed'"


@pytest.fixture
async def proxy(database: Database) -> AsyncIterator[Proxy]:
    async with proxy_to(database.admin_url) as started:
        yield started


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of a minute become waits of a second."""
    create_pool = asyncpg.create_pool

    def create(*arguments: Any, **options: Any) -> Any:
        return create_pool(*arguments, **{**options, "command_timeout": 1})

    monkeypatch.setattr(asyncpg, "create_pool", create)
    monkeypatch.setattr("shared.listener.SELF_TEST_EVERY_SECONDS", 0.2)
    monkeypatch.setattr("shared.listener.ROUND_TRIP_SECONDS", 1.0)


async def end_idle_transactions(database: Database) -> None:
    """As a server does that is set up for it, only sooner."""
    admin = await database.connect_as_superuser()
    await admin.execute(f"alter role {ROLE} in database {database.name} set idle_in_transaction_session_timeout = '1s'")
    await admin.close()


async def until_mode(worker: RunningWorker, mode: str) -> None:
    await until_true(lambda: worker.listener.mode == mode, what=f"a listener in mode {mode}")


# ── connections that are dead without a word ─────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("impatient")
async def test_a_listening_connection_that_died_silently_is_noticed_and_replaced(
    proxy: Proxy, database: Database, owner: asyncpg.Connection
) -> None:
    await make_probe_type(owner)
    url = database.url(ROLE)
    async with running_worker(url, listen_url=proxy.url(url)) as worker:
        await until(owner, ASLEEP)
        proxy.black_hole()
        # Nobody can wake it now, and it knows.
        await until_mode(worker, "poll")
        assert worker.listener.proof_age_seconds is None
        await enqueue_probes(owner, range(5))
        await until(owner, COMPLETED, 5)
        assert worker.listener.mode == "poll"
        proxy.heal()
        await until_mode(worker, "notify")
        # The next poll is a minute away.
        await until(owner, ASLEEP)
        await enqueue_probes(owner, range(5, 6))
        await until(owner, COMPLETED, 6)


@pytest.mark.usefixtures("impatient")
async def test_a_worker_whose_connections_all_died_silently_goes_on_with_new_ones(
    proxy: Proxy, database: Database, owner: asyncpg.Connection
) -> None:
    await make_probe_type(owner)
    begun, go_on = asyncio.Event(), asyncio.Event()
    attempts: list[int] = []

    async def work(number: int) -> None:
        attempts.append(number)
        begun.set()
        await go_on.wait()

    async with running_worker(proxy.url(database.url(ROLE)), work=work, poll_seconds=0.5, lease_seconds=3) as worker:
        await enqueue_probes(owner, range(1))
        await begun.wait()
        await until_mode(worker, "notify")
        proxy.strand()
        # A lease is a thing of the database, not of a connection: this one's is renewed over a new one.
        for _ in range(2):
            expires = await owner.fetchval("select lease_expires_at from chartloom.job_queue")
            await until(owner, "lease_expires_at > $1 from chartloom.job_queue", expires)
        await enqueue_probes(owner, range(1, 4))
        await until_true(lambda: len(attempts) == 4, what="jobs claimed over new connections")
        go_on.set()
        await until(owner, COMPLETED, 4)
        assert await effects(owner) == sorted(attempts) == [0, 1, 2, 3]
        await until_mode(worker, "notify")
        await worker.stop()


async def test_a_worker_whose_connections_were_reset_while_it_slept_claims_at_once(
    proxy: Proxy, database: Database, owner: asyncpg.Connection
) -> None:
    await make_probe_type(owner)

    async def work(_: int) -> None:
        pass

    async with running_worker(proxy.url(database.url(ROLE)), work=work, poll_seconds=60) as worker:
        for number in range(3):
            await until(owner, ASLEEP)
            proxy.cut()
            await until_mode(worker, "poll")
            await until_mode(worker, "notify")
            await enqueue_probes(owner, range(number, number + 1))
            await until(owner, COMPLETED, number + 1)
        await worker.stop()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("lost", ["request", "answer"])
@pytest.mark.parametrize("way", ["with what it writes", "in a batch"])
async def test_a_completion_that_is_lost_is_repeated_and_never_doubled(
    proxy: Proxy, database: Database, owner: asyncpg.Connection, way: str, lost: Literal["request", "answer"]
) -> None:
    await make_probe_type(owner)
    await end_idle_transactions(database)
    attempts: list[int] = []

    async def work(number: int) -> None:
        attempts.append(number)
        proxy.lose(b"worker_id", lost)

    await enqueue_probes(owner, range(1))
    with capture_logs() as logs:
        async with running_worker(
            proxy.url(database.url(ROLE)),
            work=work,
            store=leave_effect if way == "with what it writes" else None,
        ):
            await until_true(
                lambda: any(line["event"] == "job_attempt_ended" for line in logs), what="the end of the attempt"
            )
    assert proxy.lost.is_set()
    outcomes = [line["outcome"] for line in logs if line["event"] == "job_attempt_ended"]
    # After a lost answer it finds that the job is no longer its own: it was completed, by itself.
    assert outcomes == ["completed" if lost == "request" else "settled_or_lost"]
    assert attempts == [0]
    assert await owner.fetch("select status, lease_losses, retry_count from chartloom.job_history") == [
        ("completed", 0, 0)
    ]
    assert await effects(owner) == ([0] if way == "with what it writes" else [])


async def test_a_heartbeat_does_not_revoke_what_has_just_been_completed(
    proxy: Proxy, database: Database, owner: asyncpg.Connection
) -> None:
    """Between the commit and its answer the lease is gone; that it was lost, only the completion itself can say."""
    await make_probe_type(owner)

    async def work(_: int) -> None:
        proxy.delay(b"worker_id")

    await enqueue_probes(owner, range(1))
    with capture_logs() as logs:
        async with running_worker(
            proxy.url(database.url(ROLE)), work=work, store=leave_effect, lease_seconds=3
        ) as worker:
            await until(owner, COMPLETED, 1)
            for _ in range(2):
                beat = await owner.fetchval("select heartbeat_at from chartloom.workers")
                await until(owner, "heartbeat_at > $1 from chartloom.workers", beat)
            proxy.deliver()
            await until_true(
                lambda: any(line["event"] == "job_attempt_ended" for line in logs), what="the end of the attempt"
            )
            await worker.stop()
    assert [line["outcome"] for line in logs if line["event"] == "job_attempt_ended"] == ["completed"]


async def test_the_next_job_begins_while_the_last_is_being_written(
    database: Database, owner: asyncpg.Connection
) -> None:
    """But what a database is slow to take doesn't pile up: as many again as the worker has places, and no more."""
    await make_probe_type(owner)
    begun: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)

    await enqueue_probes(owner, range(4))
    async with running_worker(database.url(ROLE), work=work, store=leave_effect, worker_concurrency=1):
        writer = await connect(database.url(OWNER), application_name="test")
        async with writer.transaction():
            await writer.execute("lock table effects in exclusive mode")
            await until_true(lambda: len(begun) == 2, what="the second job while the first is being written")
            await until(owner, "count(*) = 2 from pg_locks where relation = 'effects'::regclass and not granted")
            await until(owner, "count(*) = 2 from chartloom.job_queue where status = 'pending'")
        await until(owner, COMPLETED, 4)
        await writer.close()
    assert begun == await effects(owner) == [0, 1, 2, 3]


async def test_a_statement_that_hangs_is_no_reason_to_end_the_process(
    proxy: Proxy, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncpg waits for the cancellation as long again as for the answer, and the watchdog must not bite meanwhile."""
    create_pool, timeouts = asyncpg.create_pool, []

    def create(*arguments: Any, command_timeout: float, **options: Any) -> Any:
        timeouts.append(command_timeout)
        return create_pool(*arguments, command_timeout=1, **options)

    monkeypatch.setattr(asyncpg, "create_pool", create)
    pool = await open_pool(proxy.url(database.url(ROLE)), size=2, application_name="test")
    assert await pool.fetchval("select 1") == 1
    proxy.black_hole()
    began = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        await pool.fetchval("select 1")
    times_longer = asyncio.get_running_loop().time() - began
    pool.terminate()
    assert timeouts[0] * times_longer < min(WORKER_STALLED_SECONDS, SWEEPER_STALLED_SECONDS)


async def test_a_lease_outlives_the_connections_that_should_have_renewed_it(
    proxy: Proxy, database: Database, owner: asyncpg.Connection
) -> None:
    """A statement on a dead line hangs for a minute; the lease is shorter than that."""
    await make_probe_type(owner)
    begun = asyncio.Event()

    async def work(_: int) -> None:
        begun.set()
        await asyncio.Event().wait()

    await enqueue_probes(owner, range(1))
    async with running_worker(proxy.url(database.url(ROLE)), work=work, lease_seconds=12):
        await begun.wait()
        await until(owner, "exists (select from chartloom.workers)")
        proxy.strand()
        for _ in range(2):
            expires = await owner.fetchval("select lease_expires_at from chartloom.job_queue")
            await until(owner, "lease_expires_at <> $1 from chartloom.job_queue", expires)
            assert await owner.fetch("select * from chartloom.sweep_expired_leases()") == []


async def test_the_server_ends_a_transaction_that_nobody_ends(database: Database) -> None:
    """Who is frozen or cut off in the middle of one holds its job's row: no sweep and no retry gets by."""
    seconds = {}
    for role in SERVICE_ROLES:
        connection = await database.connect(role)
        seconds[role] = await connection.fetchval(
            "select extract(epoch from current_setting('idle_in_transaction_session_timeout')::interval)::integer"
        )
        await connection.close()
    assert {role: limit for role, limit in seconds.items() if not 0 < limit <= 120} == {}


# ── the server dies ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("way", ["stop immediately", "kill -9"])
async def test_nothing_is_lost_or_doubled_when_postgres_dies_under_workers(
    own_server: EmbeddedPostgres, way: str
) -> None:
    server = own_server.ensure_started()
    database = Database(server.admin_url, f"test_{uuid4().hex[:12]}")
    admin = await connect(server.admin_url, application_name="test")
    await admin.execute(f"create database {database.name} template {TEMPLATE} owner {OWNER}")
    await admin.close()
    owner = await database.connect()
    await make_probe_type(owner)
    count = 400
    await enqueue_probes(owner, range(count))
    dead = asyncio.Event()
    begun: list[int] = []

    async def work(number: int) -> None:
        begun.append(number)
        if number % 100 == 99:
            # In hand when the server dies, done before it is back: its completion has to wait.
            await dead.wait()

    async with (
        running_worker(database.url(ROLE), worker_id="one", work=work, worker_concurrency=5, lease_seconds=3) as one,
        running_worker(
            database.url(ROLE), worker_id="other", work=work, worker_concurrency=5, lease_seconds=3
        ) as other,
    ):
        await until(owner, "count(*) >= 150 from effects")
        if way == "kill -9":
            os.kill(int((server.data_directory / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        else:
            await asyncio.to_thread(own_server.stop, "immediate")
        assert len(begun) < count
        dead.set()
        owner.terminate()
        again = await asyncio.to_thread(own_server.ensure_started)
        assert again.port == server.port
        owner = await database.connect()
        async with asyncio.timeout(60):
            # A claim whose answer was lost gave its jobs to nobody: their leases have to expire.
            while not await owner.fetchval(f"select {COMPLETED}", count):
                await owner.fetch("select * from chartloom.sweep_expired_leases()")
                await asyncio.sleep(0.05)
        assert await effects(owner) == list(range(count))
        assert await owner.fetchval("select count(*) from chartloom.job_queue") == 0
        # Both are back by themselves, and hear again: the next poll is a minute away.
        for worker in (one, other):
            await until_mode(worker, "notify")
        await until(owner, "count(*) = 2 from chartloom.sleepers where topic = 'probe'")
        await enqueue_probes(owner, range(count, count + 1))
        await until(owner, COMPLETED, count + 1)
        assert one.worker.ready() is None
        assert other.worker.ready() is None
    await owner.close()


async def test_a_handler_whom_a_restarting_postgres_refuses_spends_no_attempt(
    own_server: EmbeddedPostgres,
) -> None:
    database = Database(own_server.ensure_started().admin_url, f"test_{uuid4().hex[:12]}")
    admin = await connect(database.admin_url, application_name="test")
    await admin.execute(f"create database {database.name} template {TEMPLATE} owner {OWNER}")
    await admin.close()
    owner = await database.connect()
    await make_probe_type(owner)
    asked = await open_pool(database.url(ROLE), size=1, application_name="test")
    in_hand, away, refused = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(_: int) -> None:
        in_hand.set()
        await away.wait()
        try:
            await asked.fetchval("select 1")
        except asyncpg.PostgresError:
            refused.set()
            raise

    async with running_worker(database.url(ROLE), work=work, poll_seconds=0.5, lease_seconds=3):
        await enqueue_probes(owner, range(1))
        await in_hand.wait()
        await asyncio.to_thread(own_server.stop, "immediate")
        owner.terminate()
        away.set()
        async with asyncio.timeout(30):
            await refused.wait()
        await asyncio.to_thread(own_server.ensure_started)
        owner = await database.connect()
        async with asyncio.timeout(60):
            while not await owner.fetchval(f"select {COMPLETED}", 1):
                await owner.fetch("select * from chartloom.sweep_expired_leases()")
                await asyncio.sleep(0.05)
        assert await owner.fetchval("select retry_count from chartloom.job_archive") == 0
    await owner.close()
    await asked.close()


# ── the worker dies, or is as good as dead ───────────────────────────────────────────────────────────────────────────


@dataclass
class WorkerProcess:
    """``tests.worker_process``, and the locks that hold it up."""

    name: str
    process: asyncio.subprocess.Process
    gates: asyncpg.Connection
    log: Path

    async def shut(self, place: str) -> None:
        """From here on it stops in its work, or in its store."""
        await self.gates.execute("select pg_advisory_lock(hashtext($1))", gate(self.name, place))

    async def open(self, place: str) -> None:
        await self.gates.execute("select pg_advisory_unlock(hashtext($1))", gate(self.name, place))

    async def until_at(self, place: str) -> None:
        """Until it stands there, in the middle of a job."""
        await until(
            self.gates,
            "exists (select from pg_locks where locktype = 'advisory' and not granted "
            "and database = (select oid from pg_database where datname = current_database()) "
            "and ((classid::bigint << 32) | objid::bigint)::bit(64) = hashtext($1)::bigint::bit(64))",
            gate(self.name, place),
        )

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


StartProcess = Callable[..., Awaitable[WorkerProcess]]


@pytest.fixture
async def start_process(database: Database, owner: asyncpg.Connection, tmp_path: Path) -> AsyncIterator[StartProcess]:
    await owner.execute(EFFECTS)
    started: list[WorkerProcess] = []

    async def start(name: str, *, shut: str | None = None, lease_seconds: int = 3) -> WorkerProcess:
        environment = {
            **os.environ,
            "DATABASE_URL": database.url(ROLE),
            "WORKER_ID": name,
            "LEASE_SECONDS": str(lease_seconds),
            "HEALTH_HOST": "127.0.0.1",
            "PORT": "0",
            "DRAIN_SECONDS": "1",
        }
        gates = await database.connect()
        log = tmp_path / f"{name}.log"
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "tests.worker_process", cwd=REPOSITORY, env=environment, stdout=file, stderr=file
            )
        worker = WorkerProcess(name, process, gates, log)
        started.append(worker)
        if shut:
            await worker.shut(shut)
        return worker

    yield start
    for worker in started:
        if worker.process.returncode is None:
            worker.process.kill()
        await worker.process.wait()
        worker.gates.terminate()


async def rescue(owner: asyncpg.Connection, worker: WorkerProcess) -> None:
    """Sweeps until the lease of the worker has expired."""
    async with asyncio.timeout(20):
        while True:
            swept = await owner.fetch("select * from chartloom.sweep_expired_leases()")
            if worker.name in {row["worker_id"] for row in swept}:
                return
            await asyncio.sleep(0.05)


async def effects_of_workers(owner: asyncpg.Connection) -> list[tuple[int, str]]:
    return [tuple(row) for row in await owner.fetch("select job_id, worker_id from effects order by job_id")]


OCR_COMPLETED = "count(*) = $1 from chartloom.job_archive where job_type = 'ocr' and status = 'completed'"


async def submit(owner: asyncpg.Connection, patient: Patient, content: bytes) -> int:
    document: UUID = await upload(owner, patient.user_id, patient.profile_id, content)
    job_id: int = await owner.fetchval(
        "select id from chartloom.job_queue where shell_file_id = $1 and job_type = 'ocr'", document
    )
    return job_id


async def test_the_job_of_a_killed_worker_goes_to_another_when_its_lease_ends(
    start_process: StartProcess, owner: asyncpg.Connection, patient: Patient
) -> None:
    victim = await start_process("victim", shut="work")
    job_id = await submit(owner, patient, b"record")
    await victim.until_at("work")
    victim.send(signal.SIGKILL)
    await victim.process.wait()
    await start_process("heir")
    await rescue(owner, victim)
    await until(owner, OCR_COMPLETED, 1)
    assert await effects_of_workers(owner) == [(job_id, "heir")]
    job = await owner.fetchrow("select lease_losses, retry_count from chartloom.job_archive where id = $1", job_id)
    assert job == (1, 0)


@pytest.mark.parametrize(
    "lease_seconds",
    [
        # It wakes past its lease, and its heartbeat and its completion race to find out: nothing may be written anyhow.
        pytest.param(3, marks=pytest.mark.slow),
        # Its next heartbeat is far away when it wakes: it has to be the write itself that is refused.
        60,
    ],
)
async def test_a_worker_that_was_frozen_past_its_lease_writes_nothing_and_goes_on_with_other_jobs(
    start_process: StartProcess,
    owner: asyncpg.Connection,
    patient: Patient,
    lease_seconds: int,
) -> None:
    frozen = await start_process("frozen", shut="work", lease_seconds=lease_seconds)
    job_id = await submit(owner, patient, b"record")
    await frozen.until_at("work")
    frozen.send(signal.SIGSTOP)
    await frozen.open("work")
    if lease_seconds == 60:
        # As if a minute had gone by.
        await owner.execute("update chartloom.job_queue set lease_expires_at = now() - interval '1 second'")
    await rescue(owner, frozen)
    heir = await start_process("heir")
    await until(owner, OCR_COMPLETED, 1)
    assert await effects_of_workers(owner) == [(job_id, "heir")]
    archived = await owner.fetchrow("select * from chartloom.job_archive where id = $1", job_id)
    heir.send(signal.SIGTERM)
    assert await heir.process.wait() == 0

    frozen.send(signal.SIGCONT)
    # The other is gone: whoever does this one has come back to life.
    later = await submit(owner, patient, b"another record")
    await until(owner, OCR_COMPLETED, 2)
    assert await effects_of_workers(owner) == [(job_id, "heir"), (later, "frozen")]
    assert await owner.fetchrow("select * from chartloom.job_archive where id = $1", job_id) == archived
    assert await owner.fetchval("select count(*) from chartloom.job_history where job_type = 'ai_detect'") == 2
    frozen.send(signal.SIGTERM)
    assert await frozen.process.wait() == 0
    ends = [line for line in frozen.log.read_text().splitlines() if "job_given_up" in line]
    assert len(ends) == 1
    if lease_seconds == 60:
        assert "lease_lost" in ends[0] or "settled_or_lost" in ends[0]


async def test_a_worker_that_freezes_while_it_completes_a_job_has_completed_it(
    start_process: StartProcess, owner: asyncpg.Connection, patient: Patient
) -> None:
    """Result and completion are one statement: no lock waits for a process that stands still."""
    frozen = await start_process("frozen", shut="store", lease_seconds=60)
    job_id = await submit(owner, patient, b"record")
    await frozen.until_at("store")
    frozen.send(signal.SIGSTOP)
    await frozen.open("store")
    await until(owner, OCR_COMPLETED, 1)
    assert await effects_of_workers(owner) == [(job_id, "frozen")]
    frozen.send(signal.SIGCONT)
    frozen.send(signal.SIGTERM)
    assert await frozen.process.wait() == 0
    assert "job_given_up" not in frozen.log.read_text()
