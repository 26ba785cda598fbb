"""Applies ``migrations/`` in order: ``python -m shared.migrate [FOLDER]``, with DATABASE_URL of the owner.

Its bookkeeping is the table of Supabase's own tooling, so that either may apply the next one. Each file is one
transaction under an advisory lock: many instances may start at once, behind any pooler.
"""

import asyncio
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg

from .errors import ConfigurationError

FOLDER = Path(__file__).parents[1] / "migrations"
FILE_NAME = re.compile(r"^(?P<version>\d{14})_(?P<name>\w+)\.sql$")
ADVISORY_LOCK = 0x43484152544C4F4D
"""The letters CHARTLOM as a number: one lock for all who migrate this database."""

_BOOKKEEPING = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
    version text primary key, statements text[], name text
)
"""


async def migrate(
    connection: asyncpg.Connection, folder: Path = FOLDER, *, on_applied: Callable[[str], None] | None = None
) -> list[str]:
    """Applies what is missing and returns the names of the files applied.

    Raises ConfigurationError where a file changed after it was applied, or where plain Postgres lacks what Supabase
    brings and the role may not make it.
    """
    await _ensure_supabase_helpers(connection, folder)
    applied = []
    for path in sorted(folder.glob("*.sql")):
        match = FILE_NAME.match(path.name)
        if match and await _apply(connection, path.read_text(), match["version"], match["name"], path.name):
            applied.append(path.name)
            if on_applied:
                on_applied(path.name)
    return applied


async def pending(connection: asyncpg.Connection, folder: Path = FOLDER) -> list[str]:
    """The names of the files that are not applied yet."""
    known: set[str] = set()
    if await connection.fetchval("select to_regclass('supabase_migrations.schema_migrations') is not null"):
        rows = await connection.fetch("select version from supabase_migrations.schema_migrations")
        known = {row["version"] for row in rows}
    files = ((path.name, FILE_NAME.match(path.name)) for path in sorted(folder.glob("*.sql")))
    return [name for name, match in files if match and match["version"] not in known]


async def _ensure_supabase_helpers(connection: asyncpg.Connection, folder: Path) -> None:
    if await connection.fetchval("select to_regprocedure('auth.uid()') is not null"):
        return
    try:
        async with connection.transaction():
            await connection.execute("select pg_advisory_xact_lock($1)", ADVISORY_LOCK)
            await connection.execute((folder / "plain_postgres.sql").read_text())
    except asyncpg.InsufficientPrivilegeError:
        raise ConfigurationError(
            "supabase_helpers_missing",
            "This database has no auth schema, and this role may not make it. Run migrations/plain_postgres.sql once "
            "as a superuser, then migrate again.",
        ) from None


async def _apply(connection: asyncpg.Connection, script: str, version: str, name: str, file_name: str) -> bool:
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock($1)", ADVISORY_LOCK)
        await connection.execute(_BOOKKEEPING)
        row = await connection.fetchrow(
            "select statements from supabase_migrations.schema_migrations where version = $1", version
        )
        if row is not None:
            # Ours are one statement, the whole file; Supabase's tooling splits it and leaves nothing to compare, unless
            # the file has one statement: that is kept without its end.
            recorded = row["statements"]
            if recorded is not None and len(recorded) == 1 and _without_end(recorded[0]) != _without_end(script):
                raise ConfigurationError(
                    "migration_changed",
                    f"{file_name} was applied and has changed since. Restore it; put the change into a new one.",
                )
            return False
        await connection.execute(script)
        await connection.execute(
            "insert into supabase_migrations.schema_migrations (version, statements, name) values ($1, $2, $3)",
            version,
            [script],
            name,
        )
        return True


def _without_end(script: str) -> str:
    return script.strip().removesuffix(";")


async def _main(url: str, folder: Path) -> None:
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        applied = await migrate(connection, folder, on_applied=lambda name: print(f"applied {name}"))  # noqa: T201
        print(f"{len(applied)} applied, up to date")  # noqa: T201
    finally:
        await connection.close()


def main() -> None:
    url = os.environ.get("MIGRATE_DATABASE_URL") or os.environ.get("DATABASE_URL")
    if not url:
        sys.exit("DATABASE_URL: set it to the database to migrate, as the role that owns it.")
    try:
        asyncio.run(_main(url, Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER))
    except ConfigurationError as error:
        sys.exit(error.message)
    except (OSError, ValueError, asyncpg.InterfaceError) as error:
        sys.exit(f"DATABASE_URL: no database answers there ({type(error).__name__}).")
    except asyncpg.PostgresError as error:
        sys.exit(f"The database refused (SQLSTATE {error.sqlstate}): {error}")


if __name__ == "__main__":
    main()
