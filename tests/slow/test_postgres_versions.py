"""The migrations and the contract on every Postgres that this machine has, beside the embedded one."""

import tempfile
from pathlib import Path

import pytest

from cli.contract_check import check_contract
from cli.deployment import open_deployment
from cli.embedded_postgres import EmbeddedPostgres
from shared.migrate import migrate

pytestmark = pytest.mark.slow

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@pytest.mark.parametrize("binaries", INSTALLED, ids=[path.parent.name for path in INSTALLED])
async def test_the_contract_holds_on_a_system_postgres(binaries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (binaries / "postgres").exists():
        pytest.skip("only a client is installed")
    with tempfile.TemporaryDirectory(prefix="chartloom-version-") as home:
        monkeypatch.setenv("CHARTLOOM_HOME", home)
        monkeypatch.setenv("CHARTLOOM_PG_BIN", str(binaries))
        monkeypatch.delenv("DATABASE_URL", raising=False)
        try:
            async with open_deployment() as deployment, deployment.owner() as connection:
                assert str(connection.get_server_version().major) == binaries.parent.name
                assert await migrate(connection) == []
                problems = [problem async for _, problem in check_contract(connection)]
                assert problems == [None] * 7
        finally:
            EmbeddedPostgres(Path(home)).remove()
