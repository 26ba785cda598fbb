"""The linters that read a database find what is planted in it."""

import asyncio
from collections.abc import Iterator

import pytest

from ops.lint_sql import SUPABASE, advise, check_functions, migrated_database, postgres_with_plpgsql_check
from tests.conftest import Database

pytestmark = pytest.mark.slow


@pytest.fixture
def checked_database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    binaries = postgres_with_plpgsql_check()
    if binaries is None:
        pytest.skip("plpgsql_check is not installed")
    monkeypatch.setenv("CHARTLOOM_PG_BIN", str(binaries))
    with migrated_database() as database:
        yield database


@pytest.mark.skipif(not SUPABASE.exists(), reason="Supabase's tooling is not installed: make lint-sql does it")
async def test_the_advisors_find_a_table_that_is_open_to_the_api(database: Database) -> None:
    owner = await database.connect()
    await owner.execute("create table public.planted (id bigint primary key)")
    await owner.close()
    findings, _ = await asyncio.to_thread(advise, database)
    assert [finding.split(":")[:2] for finding in findings] == [["ERROR", " rls_disabled_in_public"]]


async def test_plpgsql_check_finds_a_column_that_is_not_there(checked_database: Database) -> None:
    owner = await checked_database.connect()
    await owner.execute(
        "create function chartloom.planted() returns void language plpgsql as "
        "$$ begin update public.shell_files set nope = 1; end $$"
    )
    await owner.execute(
        "create function chartloom.planted_trigger() returns trigger language plpgsql as "
        "$$ begin new.nope := 1; return new; end $$"
    )
    await owner.execute(
        "create trigger planted before insert on public.shell_files "
        "for each row execute function chartloom.planted_trigger()"
    )
    await owner.close()
    findings, functions = await check_functions(checked_database)
    assert functions > 2
    assert len(findings) == 2
    assert 'chartloom.planted(), line 1: column "nope" of relation "shell_files" does not exist' in findings[0]
    assert 'chartloom.planted_trigger(), line 1: record "new" has no field "nope" (shell_files)' in findings[1]
