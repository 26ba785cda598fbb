"""What a later migration may not do to tables that are in use. The linters that need a database: tests/slow."""

from pathlib import Path

import pytest

from ops.lint_sql import squawk


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("alter table public.shell_files add column pages bigint not null;", "adding-required-field"),
        ("create index shell_files_pages on public.shell_files (pages);", "require-concurrent-index-creation"),
        ("alter table public.shell_files add check (size_bytes > 0);", "constraint-missing-not-valid"),
        ("alter table public.shell_files drop column sha256;", "ban-drop-column"),
        ("alter table shell_files add column pages bigint;", "require-table-schema"),
        ("alter table public.shell_files add column pages bigint;", "require-lock-timeout"),
    ],
)
def test_a_statement_that_stops_others_is_found(tmp_path: Path, statement: str, rule: str) -> None:
    migration = tmp_path / "20270101000000_example.sql"
    migration.write_text(statement)
    assert f"{migration}:1: {rule}" in {finding.rpartition(": ")[0] for finding in squawk([migration])}


def test_a_migration_that_waits_for_nobody_passes(tmp_path: Path) -> None:
    migration = tmp_path / "20270101000000_example.sql"
    migration.write_text(
        "set local lock_timeout = '5s';\n"
        "set local statement_timeout = '1min';\n"
        "alter table public.shell_files add column pages bigint;\n"
    )
    assert squawk([migration]) == []
