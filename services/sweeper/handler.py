"""What one sweep does. Any number of sweepers may run: each locks what it takes, none waits for another, none leads."""

import asyncio
import time

import asyncpg
import structlog
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.metrics import CallbackOptions, Observation

from shared.database import CONNECTION_ERRORS
from shared.jobs import heartbeat_jobs
from shared.listener import Listener
from shared.logs import describe_error
from shared.telemetry import meter

BATCH = 100
"""Rows a sweep may take at once, so that none holds its locks for long."""
LONGEST_SLEEP_SECONDS = 5.0
SHORTEST_SLEEP_SECONDS = 0.2
"""Between two wakes by NOTIFY: under load the sweeper looks five times a second, and is not announced to in between."""
DEPTHS_EVERY_SECONDS = 10.0
STALLED_SECONDS = 150.0
"""More than a hung statement takes to time out: a database that is away is no reason to end the process."""

_leases_lost = meter.create_counter("chartloom_leases_lost", description="Leases that expired, by job type.")


class Sweeper:
    """Wakes by NOTIFY when something changes, and by itself when the next lease or retry is due."""

    def __init__(self, *, pool: asyncpg.Pool, listener: Listener, worker_id: str, version: str) -> None:
        self._pool = pool
        self._worker_id = worker_id
        self._version = version
        self._listener = listener
        self._stopping = False
        self._database_ok = False
        self._came_round_at = time.monotonic()
        self._depths: list[asyncpg.Record] = []
        self._depths_read_at = float("-inf")
        self._log = structlog.get_logger()
        meter.create_observable_gauge(
            "chartloom_jobs", callbacks=[self._observe_depths], description="Jobs in the queue, by type and status."
        )
        meter.create_observable_gauge(
            "chartloom_oldest_ready_job_age_seconds",
            callbacks=[self._observe_ages],
            unit="s",
            description="How long the oldest job that could run has waited.",
        )

    def live(self) -> str | None:
        if self._stopping:
            return None
        return "sweep loop stalled" if time.monotonic() - self._came_round_at > STALLED_SECONDS else None

    def ready(self) -> str | None:
        if self._stopping:
            return "draining"
        return None if self._database_ok else "database away"

    def stop(self) -> None:
        self._stopping = True
        self._listener.nudge()

    async def run(self) -> None:
        while not self._stopping:
            self._came_round_at = time.monotonic()
            try:
                with suppress_instrumentation():
                    await self._come_round()
                self._database_ok = True
            except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
                if self._database_ok or isinstance(error, asyncpg.PostgresError):
                    self._log.warning("sweep_failed", **describe_error(error))
                self._database_ok = False
                await self._listener.sleep(1.0)

    async def _come_round(self) -> None:
        if await self.sweep() == BATCH:
            return
        if time.monotonic() - self._depths_read_at > DEPTHS_EVERY_SECONDS:
            self._depths = await self._pool.fetch("select * from chartloom.queue_depths()")
            await self._pool.execute("select chartloom.retry_audit_events($1)", BATCH)
            await self._show_that_it_lives()
            self._depths_read_at = time.monotonic()
        if await self._listener.open_gate():
            await self.sweep()
        await self._pool.execute("select chartloom.wake_for_ready_jobs()")
        seconds = await self._until_next_deadline()
        if not self._stopping:
            await self._listener.sleep(seconds)
        if not self._stopping:
            await asyncio.sleep(SHORTEST_SLEEP_SECONDS)

    async def _show_that_it_lives(self) -> None:
        await heartbeat_jobs(
            self._pool,
            worker_id=self._worker_id,
            service="sweeper",
            version=self._version,
            jobs=[],
            lease_seconds=60,
            details={},
        )

    async def sweep(self) -> int:
        """Returns expired leases and due retries to the ready queue. Returns how many of the larger of the two."""
        lost = await self._pool.fetch("select * from chartloom.sweep_expired_leases($1)", BATCH)
        for row in lost:
            _leases_lost.add(1, {"job_type": row["job_type"]})
            self._log.warning(
                "lease_expired",
                job_id=row["job_id"],
                job_type=row["job_type"],
                previous_worker_id=row["worker_id"],
                new_status=row["new_status"],
                overdue_s=round(row["overdue_seconds"], 3),
            )
        promoted: int = await self._pool.fetchval("select chartloom.promote_due_jobs($1)", BATCH)
        return max(len(lost), promoted)

    async def _until_next_deadline(self) -> float:
        # The database's clock decides who is late, so it says how long to sleep, too.
        seconds: float | None = await self._pool.fetchval(
            "select extract(epoch from chartloom.next_deadline() - clock_timestamp())::float8"
        )
        if seconds is None:
            return LONGEST_SLEEP_SECONDS
        return min(max(seconds, 0.0), LONGEST_SLEEP_SECONDS)

    def _observe_depths(self, _: CallbackOptions) -> list[Observation]:
        return [
            Observation(row["jobs"], {"job_type": row["job_type"], "status": row["status"]}) for row in self._depths
        ]

    def _observe_ages(self, _: CallbackOptions) -> list[Observation]:
        return [
            Observation(row["oldest_ready_seconds"] or 0.0, {"job_type": row["job_type"]})
            for row in self._depths
            if row["status"] == "pending"
        ]
