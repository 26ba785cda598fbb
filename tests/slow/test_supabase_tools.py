"""Supabase's own tooling and ours apply the same migrations, in either order."""

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.contract_check import check_contract
from cli.embedded_postgres import EmbeddedPostgres
from ops.lint_sql import SUPABASE
from shared.migrate import FILE_NAME, FOLDER, migrate, pending
from tests.conftest import Database, make_unmigrated

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SUPABASE.exists(), reason="Supabase's tooling is not installed: make lint-sql does it"),
]

INSTALLED = [path for path in sorted(Path("/usr/lib/postgresql").glob("*/bin")) if (path / "postgres").exists()]


@pytest.fixture(params=[None, *INSTALLED], ids=["embedded", *(path.parent.name for path in INSTALLED)])
def unmigrated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    """A database on a server of its own: roles are the server's, and here no migration has made any."""
    if request.param:
        monkeypatch.setenv("CHARTLOOM_PG_BIN", str(request.param))
    with tempfile.TemporaryDirectory(prefix="chartloom-supabase-") as home:
        server = EmbeddedPostgres(Path(home))
        try:
            yield asyncio.run(make_unmigrated(server.ensure_started().admin_url, "records"))
        finally:
            server.remove()


def push(database: Database, project: Path) -> str:
    """`supabase db push`, as the owner, from a project whose migrations are ours; returns what it said."""
    (project / "supabase").mkdir(exist_ok=True)
    migrations = project / "supabase" / "migrations"
    if not migrations.exists():
        migrations.symlink_to(FOLDER)
    done = subprocess.run(
        [SUPABASE, "--yes", "db", "push", f"--remote={database.url()}?sslmode=disable"],
        cwd=project,
        env={"HOME": str(project), "SUPABASE_TELEMETRY_DISABLED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


async def test_what_supabase_pushed_is_up_to_date_for_ours(unmigrated: Database, tmp_path: Path) -> None:
    await asyncio.to_thread(push, unmigrated, tmp_path)
    owner = await unmigrated.connect()
    assert await pending(owner) == []
    assert await migrate(owner) == []
    assert [problem async for _, problem in check_contract(owner)] == [None] * 7
    await owner.close()


async def test_what_ours_applied_is_up_to_date_for_supabase(unmigrated: Database, tmp_path: Path) -> None:
    owner = await unmigrated.connect()
    assert len(await migrate(owner)) == len([path for path in FOLDER.iterdir() if FILE_NAME.match(path.name)])
    await owner.close()
    assert "up to date" in await asyncio.to_thread(push, unmigrated, tmp_path)
