"""Which database and which storage: those of the environment, or the embedded default under ``.chartloom/``."""

import fcntl
import hashlib
import hmac
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

import asyncpg

from shared.database import connect
from shared.errors import ConfigurationError
from shared.migrate import FOLDER, migrate, pending
from shared.storage import BUCKET, Storage, open_storage

from .command import command
from .embedded_postgres import EmbeddedPostgres

CHECKOUT = Path(__file__).parents[1]
SERVICES = ("ocr", "ai", "persister", "sweeper")
CONSOLE = "console"
"""The pages: a fifth service, which works on no job."""
OWNER = "chartloom_owner"
DATABASE = "chartloom"

Migrations = Literal["apply", "require", "ignore"]
"""What to do about migrations that are missing from a database of the environment's."""


@dataclass(frozen=True)
class Deployment:
    """Where everything is. ``owner_url`` may migrate and read all; each service signs in as its own role."""

    owner_url: str
    service_urls: dict[str, str]
    storage_url: str
    home: Path
    is_embedded: bool
    console_key: str | None = None
    """What signs in the local user; where it is None, Supabase's users sign in or nobody can."""

    @property
    def services(self) -> tuple[str, ...]:
        """Those that can run here: without a way to sign in there is no console."""
        can_sign_in = self.console_key is not None or bool(os.environ.get("SUPABASE_URL"))
        return (*SERVICES, CONSOLE) if can_sign_in else SERVICES

    def storage(self) -> Storage:
        """Raises ConfigurationError."""
        key = os.environ.get("SUPABASE_SERVICE_ROLE_KEY")
        return open_storage(self.storage_url, key=key, bucket=os.environ.get("STORAGE_BUCKET") or BUCKET)

    @asynccontextmanager
    async def owner(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection as the owner. Raises ConfigurationError where nobody answers."""
        try:
            connection = await connect(self.owner_url, application_name="chartloom cli")
        except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            parts = urlsplit(self.owner_url)
            raise ConfigurationError(
                "database_away",
                f"DATABASE_URL: no database answers at {parts.hostname}:{parts.port or 5432} ({type(error).__name__}).",
            ) from None
        try:
            yield connection
        finally:
            await connection.close()


def home_folder() -> Path:
    """Where the embedded database, the files and the logs are: CHARTLOOM_HOME, else .chartloom in the checkout."""
    return Path(os.environ.get("CHARTLOOM_HOME") or CHECKOUT / ".chartloom").resolve()


@asynccontextmanager
async def open_deployment(migrations: Migrations = "require") -> AsyncIterator[Deployment]:
    """The deployment, with its database up.

    An embedded server is started where it isn't running, migrated, and stopped by whoever is the last to leave. A
    database of the environment's is migrated only where the command says so: to look at it must not change it.
    """
    home = home_folder()
    home.mkdir(parents=True, exist_ok=True)
    (home / "storage").mkdir(mode=0o700, exist_ok=True)
    storage_url = os.environ.get("STORAGE_URL") or os.environ.get("SUPABASE_URL") or (home / "storage").as_uri()
    if url := os.environ.get("DATABASE_URL"):
        deployment = Deployment(url, dict.fromkeys((*SERVICES, CONSOLE), url), storage_url, home, is_embedded=False)
        async with deployment.owner() as connection:
            if migrations == "apply":
                await migrate(connection)
            elif migrations == "require" and (missing := await pending(connection)):
                raise ConfigurationError(
                    "migrations_pending",
                    f"{len(missing)} migrations are not applied to this database: {command()} migrate.",
                )
        yield deployment
        return
    with (home / "users.lock").open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        postgres = EmbeddedPostgres(home)
        try:
            yield await _open_embedded(postgres, home, storage_url)
        finally:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass  # somebody else still uses the server
            else:
                postgres.stop()


async def _open_embedded(postgres: EmbeddedPostgres, home: Path, storage_url: str) -> Deployment:
    server = postgres.ensure_started()
    secret = urlsplit(server.admin_url).password or ""

    def url(role: str) -> str:
        return f"postgresql://{role}:{quote(_password(secret, role))}@{server.host}:{server.port}/{DATABASE}"

    deployment = Deployment(
        owner_url=url(OWNER),
        service_urls={service: url(f"chartloom_{service}") for service in (*SERVICES, CONSOLE)},
        storage_url=storage_url,
        home=home,
        is_embedded=True,
        console_key=None if os.environ.get("SUPABASE_URL") else _password(secret, "console key"),
    )
    # Every step finds out for itself whether it is done: a first start may have been killed anywhere.
    admin = await connect(server.admin_url, application_name="chartloom cli")
    try:
        # One process at a time: two may start at once on a fresh machine.
        await admin.execute("select pg_advisory_lock(hashtext('chartloom bootstrap'))")
        await _ensure_database(admin, server.admin_url, secret)
        async with deployment.owner() as connection:
            await migrate(connection)
        for service in (*SERVICES, CONSOLE):
            await _ensure_sign_in(admin, f"chartloom_{service}", secret)
    finally:
        await admin.close()
    return deployment


def _password(secret: str, role: str) -> str:
    """Derived from the superuser's, which only this user can read: nothing more to store."""
    return hmac.new(secret.encode(), role.encode(), hashlib.sha256).hexdigest()


async def _ensure_sign_in(admin: asyncpg.Connection, role: str, secret: str) -> None:
    if not await admin.fetchval("select rolcanlogin from pg_roles where rolname = $1", role):
        # A role name of ours and a hexadecimal password: nothing here needs quoting.
        await admin.execute(f"alter role {role} login password '{_password(secret, role)}'")


async def _ensure_database(admin: asyncpg.Connection, admin_url: str, secret: str) -> None:
    """Makes the owner and its database as Supabase would have them: an owner that is no superuser."""
    if not await admin.fetchval("select exists (select from pg_roles where rolname = $1)", OWNER):
        await admin.execute(f"create role {OWNER} login createrole bypassrls password '{_password(secret, OWNER)}'")
    if not await admin.fetchval("select exists (select from pg_database where datname = $1)", DATABASE):
        await admin.execute(f"create database {DATABASE} owner {OWNER}")
    inside = await connect(urlsplit(admin_url)._replace(path=f"/{DATABASE}").geturl(), application_name="chartloom cli")
    try:
        if not await inside.fetchval("select to_regprocedure('auth.uid()') is not null"):
            async with inside.transaction():
                await inside.execute((FOLDER / "plain_postgres.sql").read_text())
        # A home of release 0.1.0 lacks the option, as plain_postgres.sql did.
        await inside.execute(f"grant authenticated to {OWNER} with admin option")
    finally:
        await inside.close()
