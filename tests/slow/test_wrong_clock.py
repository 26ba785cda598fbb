"""Services whose clocks are an hour off work, and rescue, as others do: the database's clock alone decides."""

import json
import random
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from shared.storage import open_storage
from tests.conftest import Database
from tests.fleet import find_faketime, fleet, wrong_clock
from tests.letters import FINAL, Owner, announce, make_letters, upload
from tests.waiting import until

pytestmark = pytest.mark.slow

LETTERS = 10
SILENT = 5


@pytest.mark.skipif(find_faketime() is None, reason="faketime is not installed on this machine")
@pytest.mark.parametrize("offset", ["-3600", "+3600"])
async def test_an_hour_off_costs_no_attempt_and_delays_no_rescue(
    offset: str, database: Database, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    faketime = find_faketime()
    assert faketime
    letters = make_letters(random.Random(5), LETTERS, per_second=1, unreadable=0)
    documents = await announce(database, letters)
    settings = {
        "STORAGE_URL": (tmp_path / "storage").as_uri(),
        # A busy machine may well keep a process waiting for five.
        "LEASE_SECONDS": "30",
        **wrong_clock(faketime, offset),
    }
    async with fleet(database, tmp_path, settings) as services:
        for letter in letters:
            await upload(Owner(database), open_storage(settings["STORAGE_URL"]), letter, documents[letter.sha256])
        await until(owner, FINAL, seconds=60)
        assert await owner.fetch("select distinct retry_count, lease_losses from chartloom.job_history") == [(0, 0)]
        assert await owner.fetchval("select count(*) from shell_files where status = 'completed'") == LETTERS

        # A worker that fell silent with leases of a second: taken in the transaction that made the jobs.
        async with owner.transaction():
            await owner.fetch(
                "select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}') from generate_series(1, $1)", SILENT
            )
            claimed = await owner.fetch("select * from chartloom.claim_jobs('silent', array['ocr'], $1, 1)", SILENT)
            assert len(claimed) == SILENT
        await until(owner, "count(*) = 0 from chartloom.job_queue")
        assert set((await services.stop()).values()) == {0}

    written = "".join(log.read_text() for log in tmp_path.glob("*.log")).splitlines()
    lines = [json.loads(line) for line in written if line.startswith("{")]
    off = [(datetime.fromisoformat(line["timestamp"]) - datetime.now(UTC)).total_seconds() for line in lines]
    assert {round(seconds / 3600) for seconds in off} == {int(offset) // 3600}
    overdue = [line["overdue_s"] for line in lines if line["event"] == "lease_expired"]
    assert len(overdue) == SILENT
    assert max(overdue) < 2
