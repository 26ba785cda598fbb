"""Random sequences of everything that may happen to jobs, by several workers, on a real Postgres, against a model.

The model is a dictionary; the database is right if after every step each job stands where the model has it, each
attempt has a lease of its own, stale holders are refused, and what completed is there exactly once.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from shared.database import connect
from tests.conftest import OWNER, TEMPLATE, Database

WORKERS = ("ann", "bob", "eve")
LEASE_SECONDS = 60


@dataclass
class Job:
    """What the model knows of one job."""

    status: str = "pending"
    token: UUID | None = None
    expires: datetime | None = None
    due: datetime | None = None
    retries: int = 0
    losses: int = 0


@dataclass
class Lease:
    """One attempt, current or long gone."""

    job_id: int
    token: UUID
    worker: str


@dataclass
class Contract:
    """The database of one run of the machine."""

    loop: asyncio.AbstractEventLoop
    connection: asyncpg.Connection
    now: datetime = field(default_factory=lambda: datetime.fromisoformat("2030-01-01T00:00:00+00:00"))

    def fetch(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = self.loop.run_until_complete(self.connection.fetch(query, *arguments))
        return rows

    def refused(self, query: str, *arguments: Any) -> str | None:
        """The SQLSTATE of a refusal, or None."""
        try:
            self.fetch(query, *arguments)
        except asyncpg.PostgresError as error:
            return str(error.sqlstate)
        return None


class JobQueueMachine(RuleBasedStateMachine):
    """``contract`` is set by the test."""

    contract: ClassVar[Contract]
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[int, Job] = {}
        self.keys: dict[str, int] = {}
        self.contract.fetch("select set_config('chartloom.clock', '', false)")
        self.contract.loop.run_until_complete(
            self.contract.connection.execute(
                "truncate chartloom.job_queue, chartloom.job_archive, chartloom.queue_heads, "
                "chartloom.idempotency_keys, chartloom.processing_errors, chartloom.workers"
            )
        )
        self.pass_time(0)

    def is_current(self, lease: Lease) -> bool:
        return self.jobs[lease.job_id].token == lease.token

    # ── what may happen ──────────────────────────────────────────────────────────────────────────────────────────────

    @rule(
        key=st.sampled_from(["", "a", "b"]),
        once=st.sampled_from([None, "k1", "k2"]),
        delay=st.sampled_from([0, 0, 0, 90]),
        priority=st.sampled_from([0, 0, 5]),
    )
    def enqueue(self, key: str, once: str | None, delay: int, priority: int) -> None:
        at = self.contract.now + timedelta(seconds=delay)
        (row,) = self.contract.fetch(
            "select chartloom.enqueue_job_v3("
            "'ocr', 'fast', '{\"noop\": true}', $1, $2, $3, $4, p_max_retries => 2) as id",
            priority,
            at,
            once,
            key,
        )
        if once in self.keys:
            assert row["id"] == self.keys[once]
            return
        assert row["id"] not in self.jobs
        self.jobs[row["id"]] = Job(due=at)
        if once:
            self.keys[once] = row["id"]

    @rule(target=leases, worker=st.sampled_from(WORKERS), limit=st.integers(1, 4))
    def claim(self, worker: str, limit: int) -> Any:
        ready = {
            job_id
            for job_id, job in self.jobs.items()
            if job.status in ("pending", "failed") and job.due is not None and job.due <= self.contract.now
        }
        rows = self.contract.fetch(
            "select * from chartloom.claim_jobs($1, array['ocr'], $2, $3)", worker, limit, LEASE_SECONDS
        )
        assert {row["job_id"] for row in rows} <= ready
        assert len(rows) == min(limit, len(ready)), "a claim leaves nothing lying that it had room for"
        made = []
        for row in rows:
            job = self.jobs[row["job_id"]]
            assert row["attempt"] == job.retries + 1
            job.status, job.token = "processing", row["lease_token"]
            job.expires = self.contract.now + timedelta(seconds=LEASE_SECONDS)
            made.append(Lease(row["job_id"], row["lease_token"], worker))
        return multiple(*made)

    @rule(lease=leases)
    def heartbeat(self, lease: Lease) -> None:
        (row,) = self.contract.fetch(
            "select * from chartloom.heartbeat_jobs($1, 'ocr', '0', array[$2::bigint], array[$3::uuid], $4)",
            lease.worker,
            lease.job_id,
            lease.token,
            LEASE_SECONDS,
        )
        assert row["state"] == ("held" if self.is_current(lease) else "lost")
        if self.is_current(lease):
            self.jobs[lease.job_id].expires = self.contract.now + timedelta(seconds=LEASE_SECONDS)

    @rule(lease=leases)
    def complete(self, lease: Lease) -> None:
        current = self.is_current(lease)
        refused = self.contract.refused("select chartloom.complete_job($1, $2)", lease.job_id, lease.token)
        assert refused == (None if current else "CL001")
        if current:
            self.end(lease.job_id, "completed")

    @rule(some=st.lists(leases, min_size=1, max_size=5, unique_by=lambda lease: lease.job_id))
    def complete_many(self, some: list[Lease]) -> None:
        rows = self.contract.fetch(
            "select * from chartloom.complete_jobs($1, $2)",
            [lease.job_id for lease in some],
            [lease.token for lease in some],
        )
        assert {row["job_id"] for row in rows} == {lease.job_id for lease in some if not self.is_current(lease)}
        assert {row["state"] for row in rows} <= {"lost"}
        for lease in some:
            if self.is_current(lease):
                self.end(lease.job_id, "completed")

    @rule(lease=leases, transient=st.booleans())
    def fail(self, lease: Lease, transient: bool) -> None:
        current = self.is_current(lease)
        refused = self.contract.refused(
            "select chartloom.fail_job($1, $2, 'code', 'message', $3)", lease.job_id, lease.token, transient
        )
        assert refused == (None if current else "CL001")
        if not current:
            return
        job = self.jobs[lease.job_id]
        if transient and job.retries < 2:
            job.retries += 1
            self.end(lease.job_id, "failed")
            (row,) = self.contract.fetch("select scheduled_at from chartloom.job_queue where id = $1", lease.job_id)
            job.due = row["scheduled_at"]
            assert job.due <= self.contract.now + timedelta(seconds=2 * 2**job.retries)
        else:
            self.end(lease.job_id, "dead_letter")

    @rule(lease=leases, delay=st.sampled_from([0, 0, 45]))
    def release(self, lease: Lease, delay: int) -> None:
        current = self.is_current(lease)
        refused = self.contract.refused("select chartloom.release_job($1, $2, $3)", lease.job_id, lease.token, delay)
        assert refused == (None if current else "CL001")
        if current:
            self.end(lease.job_id, "pending")
            self.jobs[lease.job_id].due = self.contract.now + timedelta(seconds=delay)

    @rule(seconds=st.sampled_from([1, 20, 61]))
    def pass_time(self, seconds: int) -> None:
        self.contract.now += timedelta(seconds=seconds)
        self.contract.fetch("select set_config('chartloom.clock', $1, false)", self.contract.now.isoformat())

    @rule()
    def sweep(self) -> None:
        expired = {
            job_id
            for job_id, job in self.jobs.items()
            if job.status == "processing" and job.expires is not None and job.expires <= self.contract.now
        }
        rows = self.contract.fetch("select * from chartloom.sweep_expired_leases()")
        assert {row["job_id"] for row in rows} == expired
        for job_id in expired:
            job = self.jobs[job_id]
            if job.losses < 5:
                job.losses += 1
                self.end(job_id, "pending")
                job.due = self.contract.now
            else:
                self.end(job_id, "dead_letter")

    @rule()
    def redrive(self) -> None:
        dead = {job_id for job_id, job in self.jobs.items() if job.status == "dead_letter"}
        rows = self.contract.fetch("select chartloom.redrive_jobs($1::bigint[]) as id", list(self.jobs))
        assert {row["id"] for row in rows} == dead
        for job_id in dead:
            self.jobs[job_id] = Job(due=self.contract.now)

    @rule(lease=consumes(leases))
    def forget(self, lease: Lease) -> None:
        """A worker dies and tells nobody."""

    def end(self, job_id: int, status: str) -> None:
        job = self.jobs[job_id]
        job.status, job.token, job.expires = status, None, None

    # ── what must hold after every step ──────────────────────────────────────────────────────────────────────────────

    @invariant()
    def every_job_stands_where_the_model_has_it(self) -> None:
        rows = self.contract.fetch("select id, status from chartloom.job_history")
        assert len(rows) == len(self.jobs), "none lost, none doubled"
        for row in rows:
            job = self.jobs[row["id"]]
            # What was put off becomes pending by somebody's claim, not by itself.
            due = job.status == "failed" and job.due is not None and job.due <= self.contract.now
            assert row["status"] in ({"failed", "pending"} if due else {job.status})

    @invariant()
    def every_lease_is_the_models(self) -> None:
        rows = self.contract.fetch("select id, lease_token from chartloom.job_queue where lease_token is not null")
        held = {job_id: job.token for job_id, job in self.jobs.items() if job.token is not None}
        assert {row["id"]: row["lease_token"] for row in rows} == held
        assert len(set(held.values())) == len(held)


@pytest.mark.timeout(150)
def test_no_sequence_of_events_loses_doubles_or_shares_a_job(postgres_admin_url: str) -> None:
    loop = asyncio.new_event_loop()

    async def open_database() -> tuple[asyncpg.Connection, asyncpg.Connection, str]:
        name = f"test_{uuid4().hex[:12]}"
        admin = await connect(postgres_admin_url, application_name="test")
        await admin.execute(f"create database {name} template {TEMPLATE} owner {OWNER}")
        return admin, await Database(postgres_admin_url, name).connect(), name

    admin, connection, name = loop.run_until_complete(open_database())
    try:
        JobQueueMachine.contract = Contract(loop, connection)
        run_state_machine_as_test(
            JobQueueMachine,
            settings=settings(
                max_examples=40,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        loop.run_until_complete(connection.close())
        loop.run_until_complete(admin.execute(f"drop database {name} with (force)"))
        loop.run_until_complete(admin.close())
        loop.close()
