"""The whole system on a home of its own: embedded Postgres and four service processes."""

import json
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.deployment import Deployment, open_deployment
from cli.embedded_postgres import EmbeddedPostgres
from tests.conftest import REPOSITORY

SAMPLES = [
    REPOSITORY / "samples" / name for name in ("discharge-letter.pdf", "clinic-letter-scan.pdf", "lab-report-photo.jpg")
]


@pytest.fixture(scope="session")
def session_home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="chartloom-home-") as home:
        yield Path(home)
        EmbeddedPostgres(Path(home)).remove()


@pytest.fixture
def home(session_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Short leases, so that the work of a killed service comes back in seconds."""
    for variable in ("DATABASE_URL", "STORAGE_URL", "SUPABASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CHARTLOOM_HOME", str(session_home))
    monkeypatch.setenv("LEASE_SECONDS", "3")
    return session_home


@pytest.fixture
async def deployment(home: Path) -> AsyncIterator[Deployment]:
    async with open_deployment() as opened:
        yield opened


def chartloom(*arguments: str | Path, timeout: float = 150) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def process(*files: Path, out: Path) -> list[dict[str, Any]]:
    """``chartloom process --json``; fails the test unless every document completed."""
    done = chartloom("process", *files, "--json", out)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    documents: list[dict[str, Any]] = json.loads(out.read_text())["documents"]
    return documents
