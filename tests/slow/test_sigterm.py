"""A deploy under load: SIGTERM ends each service with 0 within its window, and spends nothing of any job's."""

import asyncio
import json
import random
import signal
import time
from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from shared.storage import open_storage
from tests.conftest import Database
from tests.fleet import SETTLE_SECONDS, Instance, fleet
from tests.letters import FINAL, Owner, announce, make_letters, upload
from tests.waiting import until, until_true

pytestmark = pytest.mark.slow

DRAIN_SECONDS = 3
LETTERS = 12
HELD_UP_AT = {"ocr": "ocr_pages", "ai": "ai_pass_results", "persister": "patient_clinical_events"}
"""The table whose lock holds the service up in the middle of the transactions that complete its jobs."""


async def terminate(instance: Instance) -> None:
    """SIGTERM; fails the test unless it ends with 0 within its window."""
    began = time.monotonic()
    instance.send(signal.SIGTERM)
    assert await instance.process.wait() == 0
    assert time.monotonic() - began < DRAIN_SECONDS + SETTLE_SECONDS


def ends_of_attempts(logs: Path) -> dict[int, Counter[str]]:
    """How each attempt at each job ended, by what the processes wrote of it."""
    found: dict[int, Counter[str]] = {}
    for log in logs.glob("*.log"):
        for line in map(json.loads, log.read_text().splitlines()):
            if line["event"] == "job_attempt_ended":
                found.setdefault(line["job_id"], Counter())[line["outcome"]] += 1
    return found


@pytest.mark.parametrize("way", ["finishes what it has in hand", "hands back what it cannot finish"])
@pytest.mark.parametrize("service", HELD_UP_AT)
async def test_a_worker_that_is_told_to_stop_under_load(
    service: str, way: str, database: Database, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    letters = make_letters(random.Random(5), LETTERS, per_second=1, unreadable=0)
    documents = await announce(database, letters)
    settings = {"STORAGE_URL": (tmp_path / "storage").as_uri(), "DRAIN_SECONDS": str(DRAIN_SECONDS)}
    blocker = await database.connect()
    gate = blocker.transaction()
    await gate.start()
    await blocker.execute(f"lock table {HELD_UP_AT[service]} in exclusive mode")
    async with fleet(database, tmp_path, settings) as services:
        for letter in letters:
            await upload(Owner(database), open_storage(settings["STORAGE_URL"]), letter, documents[letter.sha256])
        stopped = next(instance for instance in services.instances if instance.service == service)
        log = tmp_path / f"{stopped.name}.log"
        await until(
            owner,
            "exists (select from pg_locks where relation = $1::text::regclass and not granted)",
            HELD_UP_AT[service],
        )
        stopping = asyncio.create_task(terminate(stopped))
        await until_true(lambda: '"draining"' in log.read_text(), what="the drain")
        if way == "finishes what it has in hand":
            await gate.rollback()
            await stopping
        else:
            await stopping
            await gate.rollback()
        held = "count(*) = 0 from chartloom.job_queue where status = 'processing' and worker_id like $1"
        assert await owner.fetchval(f"select {held}", f"{stopped.name}-%")

        await services.restart(stopped)
        await until(owner, FINAL, seconds=60)
        assert set((await services.stop()).values()) == {0}
    await blocker.close()

    assert await owner.fetchval("select count(*) from shell_files where status = 'completed'") == LETTERS
    assert await owner.fetch("select distinct retry_count, lease_losses from chartloom.job_history") == [(0, 0)]
    ends = ends_of_attempts(tmp_path)
    assert len(ends) == await owner.fetchval("select count(*) from chartloom.job_history")
    # What was finished was not done again, and what was done again had been handed back. Of what Postgres commits for a
    # process that has just ended, nobody writes.
    assert max(count["completed"] for count in ends.values()) == 1
    others = sum((count - Counter(completed=1) for count in ends.values()), Counter())
    assert set(others) == (set() if way == "finishes what it has in hand" else {"released"})


async def test_a_sweeper_that_is_told_to_stop_under_load(
    database: Database, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    jobs = 1000
    await owner.fetch(
        "select chartloom.enqueue_jobs_v3('ocr', 'fast', array_fill('{\"noop\": true}'::jsonb, array[$1::integer]))",
        jobs,
    )
    await owner.fetch("select job_id from chartloom.claim_jobs('silent', array['ocr'], $1, 1)", jobs)
    swept = "count(*) {} $1 from chartloom.processing_errors where code = 'lease_expired'"
    async with fleet(database, tmp_path, {"DRAIN_SECONDS": str(DRAIN_SECONDS)}, services=["sweeper"]) as services:
        (sweeper,) = services.instances
        await until(owner, swept.format(">"), 0)
        await terminate(sweeper)
        await services.restart(sweeper)
        await until(owner, swept.format("="), jobs)
        assert set((await services.stop()).values()) == {0}
    assert await owner.fetch(
        "select status, retry_count, lease_losses, count(*) from chartloom.job_queue group by 1, 2, 3"
    ) == [("pending", 0, 1, jobs)]
