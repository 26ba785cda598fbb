"""A migration is applied once, and refused where it changed afterwards, whoever applied it."""

from pathlib import Path

import asyncpg
import pytest

from shared.errors import ConfigurationError
from shared.migrate import migrate

NAME = "20270101000000_example.sql"
SCRIPT = "-- An example.\ncreate table public.example (id bigint);\n"


async def test_a_migration_is_applied_once(owner: asyncpg.Connection, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(SCRIPT)
    assert await migrate(owner, tmp_path) == [NAME]
    assert await migrate(owner, tmp_path) == []


async def test_a_migration_that_changed_is_refused(owner: asyncpg.Connection, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(SCRIPT)
    await migrate(owner, tmp_path)
    (tmp_path / NAME).write_text(SCRIPT.replace("bigint", "integer"))
    with pytest.raises(ConfigurationError) as refused:
        await migrate(owner, tmp_path)
    assert refused.value.code == "migration_changed"


async def test_the_one_statement_that_supabase_recorded_is_no_change(owner: asyncpg.Connection, tmp_path: Path) -> None:
    (tmp_path / NAME).write_text(SCRIPT)
    await owner.execute(
        "insert into supabase_migrations.schema_migrations (version, statements, name) values ($1, $2, 'example')",
        NAME[:14],
        [SCRIPT.removesuffix(";\n")],
    )
    assert await migrate(owner, tmp_path) == []
