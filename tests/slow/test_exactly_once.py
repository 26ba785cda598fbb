"""Three hundred documents become clinical rows once each, while persisters are killed 200 times and Postgres ten times.

Only ``persist`` is left to do; the persisters and the sweeper are the real processes. What they leave is compared, row
for row, with what an undisturbed persister leaves in a copy of the same database.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest

from bench.record.documents import Document, add_documents, add_runs, enqueue
from cli.embedded_postgres import EmbeddedPostgres
from shared.database import connect
from tests.conftest import OWNER, REPOSITORY, TEMPLATE, Database
from tests.records import record
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(480)]

SEED = 20261124
PATIENTS = 12
DOCUMENTS = 300
REPROCESSED = 60
"""So many of them have the rows of an earlier run, which the new ones supersede."""
KILLS = 200
RESTARTS = 10
PERSISTERS = 2
AHEAD = 6
"""Documents that wait or are in hand, if there are so many left."""
KILLED_AT_START = 0.15
LONGEST_START_SECONDS = 1.5
KILLED_AT_A_COMPLETION = 0.3
LONGEST_WORK_SECONDS = 0.06
"""From the sight of a claim to the kill: a document's passes are read, its rows shaped and written in 20 to 60 ms."""

COMPLETED_JOBS = "from chartloom.job_archive where status = 'completed'"


# -- the processes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Service:
    """A service's process; its name is its worker id."""

    name: str
    process: asyncio.subprocess.Process

    async def end(self, number: signal.Signals) -> None:
        # One that ended by itself is a fault, whatever became of its documents.
        assert self.process.returncode is None, f"{self.name} ended by itself with {self.process.returncode}"
        self.process.send_signal(number)
        await self.process.wait()


@dataclass
class Services:
    """Starts processes on one database; whatever still runs at the end is killed."""

    database: Database
    logs: Path
    running: dict[str, Service] = field(default_factory=dict)
    started: int = 0

    async def start(self, service: str) -> Service:
        self.started += 1
        name = f"{service}-{self.started}"
        environment = {
            **os.environ,
            "DATABASE_URL": self.database.url(f"chartloom_{service}"),
            "WORKER_ID": name,
            "LEASE_SECONDS": "3",
            # The dead leave sleepers behind, each of which eats a wake-up.
            "POLL_SECONDS": "0.1",
            "HEALTH_HOST": "127.0.0.1",
            "PORT": "0",
        }
        with (self.logs / f"{self.database.name}-{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"services.{service}", cwd=REPOSITORY, env=environment, stdout=log, stderr=log
            )
        self.running[name] = Service(name, process)
        return self.running[name]

    async def kill(self, victim: Service) -> None:
        del self.running[victim.name]
        await victim.end(signal.SIGKILL)

    async def stop(self) -> None:
        for service in [*self.running.values()]:
            del self.running[service.name]
            await service.end(signal.SIGTERM)


@asynccontextmanager
async def services(database: Database, logs: Path) -> AsyncIterator[Services]:
    started = Services(database, logs)
    try:
        yield started
    finally:
        for service in started.running.values():
            if service.process.returncode is None:
                service.process.kill()
            await service.process.wait()


# -- the undisturbed run ----------------------------------------------------------------------------------------------


async def persist_undisturbed(database: Database, logs: Path, documents: list[Document]) -> None:
    owner = await database.connect()
    before = await owner.fetchval(f"select count(*) {COMPLETED_JOBS}")
    async with services(database, logs) as running:
        await running.start("persister")
        await enqueue(owner, documents)
        await until(owner, f"count(*) = $1 {COMPLETED_JOBS}", before + len(documents), seconds=90)
        await running.stop()
    await owner.close()


# -- the disturbed run ------------------------------------------------------------------------------------------------


@dataclass
class Disturbance:
    """Feeds the documents to persisters, kills those, and keeps count."""

    server: EmbeddedPostgres
    database: Database
    services: Services
    documents: list[Document]
    random_source: random.Random
    owner: asyncpg.Connection
    fed: int = 0
    figures: Counter[str] = field(default_factory=Counter)

    async def run(self) -> None:
        await self.services.start("sweeper")
        for _ in range(PERSISTERS):
            youngest = await self.services.start("persister")
        restarts = set(self.random_source.sample(range(KILLS), RESTARTS))
        for number in range(KILLS):
            # One at least is kept for each kill that is still to come.
            limit = len(self.documents) - (KILLS - number) + 1
            if self.random_source.random() < KILLED_AT_START:
                await self.kill_at_start(youngest)
            else:
                await self.kill_at_work(limit)
            youngest = await self.services.start("persister")
            if number in restarts:
                await self.restart_postgres(limit)
        await self.feed(len(self.documents))
        await until(self.owner, f"count(*) = $1 {COMPLETED_JOBS}", REPROCESSED + len(self.documents), seconds=90)
        await self.services.stop()

    async def kill_at_start(self, victim: Service) -> None:
        """At some moment of its start, of its first connection or its first claim."""
        await asyncio.sleep(self.random_source.uniform(0, LONGEST_START_SECONDS))
        self.figures["kills at a start"] += 1
        await self.kill(victim)

    async def kill_at_work(self, limit: int) -> None:
        """Some milliseconds into its work, or just as a document is completed, with another in hand."""
        completed = await self.owner.fetchval(f"select count(*) {COMPLETED_JOBS}")
        await self.until_in_hand(limit)
        if self.random_source.random() < KILLED_AT_A_COMPLETION:
            await until(self.owner, f"count(*) > $1 {COMPLETED_JOBS}", completed, seconds=30)
        else:
            await asyncio.sleep(self.random_source.uniform(0, LONGEST_WORK_SECONDS))
        victim = await self.until_in_hand(limit)
        self.figures["kills with work in hand"] += 1
        await self.kill(victim)

    async def kill(self, victim: Service) -> None:
        self.figures["kills"] += 1
        self.figures["kills while rows were being written"] += await self.owner.fetchval(
            "select exists (select from pg_locks where relation = 'patient_clinical_events'::regclass "
            "and mode = 'RowExclusiveLock')"
        )
        await self.services.kill(victim)
        self.figures["kills that lost a lease"] += await self.owner.fetchval(
            "select exists (select from chartloom.job_queue where status = 'processing' and worker_id = $1)",
            victim.name,
        )

    async def until_in_hand(self, limit: int) -> Service:
        """One of those that hold a job at this moment. New documents as long as there are too few."""
        async with asyncio.timeout(60):
            while True:
                holders = await self.owner.fetch(
                    "select distinct worker_id from chartloom.job_queue "
                    "where status = 'processing' and worker_id = any($1) order by worker_id",
                    list(self.services.running),
                )
                if holders:
                    return self.services.running[self.random_source.choice(holders)["worker_id"]]
                live = await self.owner.fetchval("select count(*) from chartloom.job_queue")
                # Where all were completed before the kill, one that was kept for a later one.
                await self.feed(min(self.fed + AHEAD - live, limit if live else max(limit, self.fed + 1)))
                await asyncio.sleep(0.002)

    async def feed(self, count: int) -> None:
        if count > self.fed:
            await enqueue(self.owner, self.documents[self.fed : count])
            self.fed = count

    async def restart_postgres(self, limit: int) -> None:
        await self.until_in_hand(limit)
        await asyncio.sleep(self.random_source.uniform(0, LONGEST_WORK_SECONDS))
        self.figures["restarts of Postgres"] += 1
        data = self.server.ensure_started().data_directory
        os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        self.owner.terminate()
        await asyncio.to_thread(self.server.ensure_started)
        self.owner = await self.database.connect()


# -- what is left -----------------------------------------------------------------------------------------------------


async def figures_of(owner: asyncpg.Connection) -> dict[str, int]:
    """What the queue kept of it all."""
    counts = {
        "lost leases": "count(*) from chartloom.processing_errors where kind = 'lease_lost'",
        "failed attempts": "count(*) from chartloom.processing_errors where kind = 'transient'",
        "documents that took more than one attempt": "count(*) from chartloom.job_archive "
        "where lease_losses + retry_count > 0",
        "repeated attempts": "sum(lease_losses + retry_count) from chartloom.job_archive",
        "most lease losses of one": "max(lease_losses) from chartloom.job_archive",
    }
    return {name: await owner.fetchval(f"select {query}") for name, query in counts.items()}


async def test_every_document_is_persisted_once_whatever_is_killed(
    own_server: EmbeddedPostgres,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    admin_url = own_server.ensure_started().admin_url
    began, undisturbed, disturbed = (Database(admin_url, name) for name in ("began", "undisturbed", "disturbed"))
    random_source = random.Random(SEED)
    await create(began, TEMPLATE)
    owner = await began.connect()
    documents = await add_documents(owner, random_source, patients=PATIENTS, documents=DOCUMENTS)
    await persist_undisturbed(began, tmp_path, documents[:REPROCESSED])
    again = [(document.patient_id, document.shell_file_id) for document in documents[:REPROCESSED]]
    documents[:REPROCESSED] = await add_runs(owner, random_source, again)
    random_source.shuffle(documents)
    # Chance kills some documents more often than the five times after which theirs would be a dead letter.
    await owner.execute("update chartloom.job_types set max_lease_losses = 1000 where job_type = 'persist'")
    await owner.close()
    for database in (undisturbed, disturbed):
        await create(database, began.name)

    await persist_undisturbed(undisturbed, tmp_path, documents)
    owner = await undisturbed.connect()
    expected = await record(owner)
    await owner.close()

    started_at = time.monotonic()
    async with services(disturbed, tmp_path) as running:
        disturbance = Disturbance(own_server, disturbed, running, documents, random_source, await disturbed.connect())
        await disturbance.run()
    owner = disturbance.owner
    figures = {**disturbance.figures, **await figures_of(owner), "seconds": round(time.monotonic() - started_at)}
    for name, value in figures.items():
        record_property(name, value)
    with capsys.disabled():
        print("\n" + "\n".join(f"  {value:5} {name}" for name, value in figures.items()))

    assert await owner.fetchval("select count(*) from chartloom.job_queue") == 0
    assert await owner.fetch("select status, count(*) from shell_files group by status") == [("completed", DOCUMENTS)]
    assert await owner.fetchval("select count(distinct payload) from chartloom.job_archive") == REPROCESSED + DOCUMENTS
    assert await owner.fetchval("select count(*) from chartloom.job_archive") == REPROCESSED + DOCUMENTS
    assert await owner.fetch("select * from chartloom.verify_audit()") == []
    found = await record(owner)
    assert found.keys() == expected.keys()
    assert [table for table in expected if found[table] != expected[table]] == []
    assert len(found["patient_clinical_events"]) > 60 * DOCUMENTS
    assert disturbance.figures["kills"] == KILLS
    assert disturbance.figures["kills that lost a lease"] > KILLS / 2
    await owner.close()


async def create(database: Database, template: str) -> None:
    admin = await connect(database.admin_url, application_name="test")
    await admin.execute(f"create database {database.name} template {template} owner {OWNER}")
    # A copy's sequences count on WAL that only the original has: before a checkpoint, a crash makes them give out again
    # what they gave out.
    await admin.execute("checkpoint")
    await admin.close()
