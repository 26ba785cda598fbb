"""A job whose worker fell silent is in another's hands a second after its lease ended, whatever befalls a sweeper."""

import asyncio
import os
import signal
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Literal

import asyncpg
import pytest

from tests.conftest import REPOSITORY, Database
from tests.waiting import until

LEASES = 12
LEASE_SECONDS = 3
"""The shortest that a service may have."""
APART_SECONDS = 0.37
SILENT = "silent"


@asynccontextmanager
async def process(database: Database, module: str, role: str, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        cwd=REPOSITORY,
        env={
            **os.environ,
            "DATABASE_URL": database.url(role),
            "WORKER_ID": name,
            "HEALTH_HOST": "127.0.0.1",
            "PORT": "0",
            "POLL_SECONDS": "60",
        },
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def claim_silently(owner: asyncpg.Connection) -> tuple[int, datetime]:
    """A job that a worker holds from the moment that others can see it, and never renews; and when its lease ends."""
    while True:
        transaction = owner.transaction()
        await transaction.start()
        job_id = await owner.fetchval("select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}')")
        claimed = await owner.fetchval(
            "select job_id from chartloom.claim_jobs($1, array['ocr'], 1, $2)", SILENT, LEASE_SECONDS
        )
        if claimed == job_id:
            end = await owner.fetchval("select lease_expires_at from chartloom.job_queue where id = $1", job_id)
            await transaction.commit()
            return job_id, end
        # An earlier one was on its way to its rescuer at that moment.
        await transaction.rollback()
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", ["none", "stopped", "killed"])
async def test_an_expired_lease_is_claimed_again_within_a_second(
    database: Database, owner: asyncpg.Connection, fault: Literal["none", "stopped", "killed"]
) -> None:
    async with (
        process(database, "services.sweeper", "chartloom_sweeper", "first") as first,
        process(database, "services.sweeper", "chartloom_sweeper", "second"),
        process(database, "tests.worker_process", "chartloom_ocr", "rescuer"),
    ):
        # All are up: both sweepers have beaten, and the worker sleeps.
        await until(owner, "count(*) = 2 from chartloom.workers where service = 'sweeper'")
        await until(owner, "exists (select from chartloom.sleepers where topic = 'ocr')")
        ends = {}
        for number in range(LEASES):
            job_id, end = await claim_silently(owner)
            ends[job_id] = end
            if number == LEASES // 4 and fault != "none":
                first.send_signal(signal.SIGSTOP if fault == "stopped" else signal.SIGKILL)
            # Deadlines at all moments of a sweeper's sleep.
            await asyncio.sleep(APART_SECONDS)
        await until(owner, "count(*) = $1 from chartloom.job_archive where worker_id = 'rescuer'", LEASES)
        claimed = await owner.fetch("select id, started_at from chartloom.job_archive")
    late = sorted((row["started_at"] - ends[row["id"]]).total_seconds() for row in claimed)
    print(
        f"{fault}: {LEASES} leases, claimed again after "
        f"{statistics.median(late) * 1000:.0f} ms (median), {late[-1] * 1000:.0f} ms (longest)"
    )
    assert late[0] > 0, "nobody lost a lease that was still valid"
    assert statistics.median(late) <= 1.0
