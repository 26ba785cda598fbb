"""Alerts, live: a real Prometheus over real services is silent while all is well, and names each planted fault."""

import asyncio
import os
import re
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
import yaml

from cli.deployment import SERVICES, Deployment
from cli.documents import ensure_patient, submit
from shared.storage import open_storage
from tests.conftest import REPOSITORY, Database
from tests.end_to_end.test_metrics import NOTE, Running
from tests.pipeline import claim
from tests.waiting import until_true

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is not installed (Debian: apt install prometheus)"
    ),
]

RULES = REPOSITORY / "ops" / "prometheus"


@pytest.fixture
def deployment(database: Database, tmp_path: Path) -> Deployment:
    (tmp_path / "storage").mkdir()
    return Deployment(
        owner_url=database.url(),
        service_urls={service: database.url(f"chartloom_{service}") for service in SERVICES},
        storage_url=(tmp_path / "storage").as_uri(),
        home=tmp_path,
        is_embedded=False,
    )


@asynccontextmanager
async def prometheus(folder: Path, targets: list[str]) -> AsyncIterator[str]:
    """Over the rules as they are, but for how often they are looked at and how long an alert waits. Its address."""
    for name in ("rules.yml", "alerts.yml"):
        hurried = re.sub(r"(?m)^(\s+for): \d+m$", r"\1: 4s", (RULES / name).read_text())
        (folder / name).write_text(hurried.replace("interval: 1m", "interval: 2s"))
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
                "rule_files": ["rules.yml", "alerts.yml"],
                "scrape_configs": [{"job_name": "chartloom", "static_configs": [{"targets": targets}]}],
            }
        )
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address={address}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        await process.wait()


async def ask(address: str, path: str) -> Any:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.get(f"{address}/api/v1/{path}") as response:
                data = (await response.json())["data"]
                return data["alerts"] if path == "alerts" else data["result"]
        except aiohttp.ClientConnectionError:
            return None


async def firing(address: str) -> set[tuple[str, str]]:
    return {
        (alert["labels"]["alertname"], alert["labels"].get("job_type") or alert["labels"].get("service", ""))
        for alert in await ask(address, "alerts")
        if alert["state"] == "firing"
    }


async def test_three_planted_faults_fire_their_alerts_and_a_normal_run_none(
    deployment: Deployment, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    patient_id = await ensure_patient(owner, uuid4())
    note = tmp_path / "note.txt"
    note.write_text(NOTE)
    running = Running(deployment)
    running.supervisor.start()
    try:
        await until_true(lambda: len(running.ports) == len(SERVICES), what="each service says where its metrics are")
        # Alerts wait for seconds here, not for minutes: a start is no fault.
        async with asyncio.timeout(60):
            while (await running.scrape())["sweeper"].count('state="alive"} 1.0') < len(SERVICES):
                await asyncio.sleep(0.5)
        async with prometheus(tmp_path, [f"127.0.0.1:{port}" for port in running.ports.values()]) as address:
            await submit(owner, open_storage(deployment.storage_url), note, patient_id)
            await until_true(lambda: running.completed["persist"] == 1, what="the document is persisted", seconds=60)
            async with asyncio.timeout(60):
                while await ask(address, "query?query=slo:documents:increase1h") in (None, []):
                    await asyncio.sleep(0.5)
            assert await ask(address, "query?query=ALERTS") == []

            # A type that no service works: its jobs end in error or wait for ever.
            await owner.execute(
                "insert into chartloom.job_types (job_type, job_category, worker_role, payload_schema) "
                "values ('untended', 'ai', 'chartloom_ai', '{}')"
            )
            for _ in range(3):
                await owner.execute("select chartloom.enqueue_job_v3('untended', 'ai', '{\"noop\": true}')")
                job = await claim(owner, "untended")
                lease = (job["job_id"], job["lease_token"])
                await owner.execute("select chartloom.fail_job($1, $2, 'planted', 'A test.', false)", *lease)
            await owner.execute("select chartloom.enqueue_job_v3('untended', 'ai', '{\"noop\": true}')")
            await owner.execute(
                "update chartloom.job_queue set scheduled_at = scheduled_at - interval '11 minutes' where is_ready"
            )
            os.kill(running.supervisor.pids["persister"], signal.SIGKILL)

            wanted = {("DeadLetters", "untended"), ("QueueStuck", "untended"), ("WorkerDied", "persister")}
            async with asyncio.timeout(120):
                while not wanted <= await firing(address):
                    await asyncio.sleep(1)
            assert await firing(address) - wanted == set()
    finally:
        await running.supervisor.stop()
