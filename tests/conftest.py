"""A real Postgres for every test that touches data: one server a run, a fresh migrated database a test."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from cli.embedded_postgres import EmbeddedPostgres
from shared.database import connect
from shared.migrate import FOLDER, migrate

OWNER = "chartloom_owner"
WORKER_ROLES = ("chartloom_ocr", "chartloom_ai", "chartloom_persister", "chartloom_sweeper")
SERVICE_ROLES = (*WORKER_ROLES, "chartloom_console")
PASSWORD = "only-in-tests"
TEMPLATE = "template_chartloom"

REPOSITORY = Path(__file__).parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"


@dataclass(frozen=True)
class Database:
    """A migrated database of a test's own."""

    admin_url: str
    name: str

    def url(self, role: str = OWNER) -> str:
        parts = urlsplit(self.admin_url)
        return f"postgresql://{role}:{quote(PASSWORD)}@{parts.hostname}:{parts.port}/{self.name}"

    async def connect(self, role: str = OWNER) -> asyncpg.Connection:
        return await connect(self.url(role), application_name="test")

    @property
    def superuser_url(self) -> str:
        return _in_database(self.admin_url, self.name)

    async def connect_as_superuser(self) -> asyncpg.Connection:
        return await connect(self.superuser_url, application_name="test")


def _in_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


async def make_unmigrated(admin_url: str, name: str) -> Database:
    """An empty database as Supabase hands it over."""
    database = Database(admin_url, name)
    admin = await connect(admin_url, application_name="test")
    try:
        if not await admin.fetchval("select exists (select from pg_roles where rolname = $1)", OWNER):
            # As on Supabase: the owner creates roles and bypasses RLS, and is no superuser.
            await admin.execute(f"create role {OWNER} login createrole bypassrls password '{PASSWORD}'")
        await admin.execute(f"create database {name} owner {OWNER}")
    finally:
        await admin.close()
    inside = await database.connect_as_superuser()
    await inside.execute((FOLDER / "plain_postgres.sql").read_text())
    await inside.close()
    owner = await database.connect()
    # Supabase's: whatever a migration does not revoke is open to the API's roles.
    for kind in ("tables", "functions", "sequences"):
        await owner.execute(
            f"alter default privileges in schema public grant all on {kind} to anon, authenticated, service_role"
        )
    await owner.close()
    return database


async def make_template(admin_url: str) -> Database:
    database = await make_unmigrated(admin_url, TEMPLATE)
    owner = await database.connect()
    await migrate(owner)
    for role in SERVICE_ROLES:
        await owner.execute(f"alter role {role} login password '{PASSWORD}'")
    await owner.close()
    return database


@pytest.fixture(scope="session")
def postgres_admin_url() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="chartloom-tests-") as home:
        server = EmbeddedPostgres(Path(home))
        try:
            admin_url = server.ensure_started().admin_url
            asyncio.run(make_template(admin_url))
            yield admin_url
        finally:
            server.remove()


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server that no other test is on."""
    with tempfile.TemporaryDirectory(prefix="chartloom-tests-") as home:
        server = EmbeddedPostgres(Path(home))
        try:
            asyncio.run(make_template(server.ensure_started().admin_url))
            yield server
        finally:
            server.remove()


@pytest.fixture
async def database(postgres_admin_url: str) -> AsyncIterator[Database]:
    name = f"test_{uuid4().hex[:12]}"
    admin = await connect(postgres_admin_url, application_name="test")
    await admin.execute(f"create database {name} template {TEMPLATE} owner {OWNER}")
    try:
        yield Database(postgres_admin_url, name)
    finally:
        await admin.execute(f"drop database {name} with (force)")
        await admin.close()


@pytest.fixture
async def owner(database: Database) -> AsyncIterator[asyncpg.Connection]:
    connection = await database.connect()
    yield connection
    await connection.close()


@pytest.fixture
async def patient(owner: asyncpg.Connection) -> "Patient":
    found = Patient(uuid4(), uuid4())
    await owner.execute(
        "insert into user_profiles (id, owner_user_id) values ($1, $2)", found.profile_id, found.user_id
    )
    return found


@dataclass(frozen=True)
class Patient:
    """A profile and the user who owns it."""

    profile_id: UUID
    user_id: UUID
