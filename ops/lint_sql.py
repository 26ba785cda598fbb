"""The SQL linters of the field, over the migrations and the databases that they make: ``python -m ops.lint_sql``.

    squawk          what a migration would lock, rewrite or break
    advisors        Supabase's own, on the embedded Postgres: RLS, grants, search paths, policies, indexes
    plpgsql_check   every statement of every PL/pgSQL function, on a Postgres of Debian's

Prints what it ran and what it found, and exits 1 where that is more than INFO.
"""

import asyncio
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cli.embedded_postgres import EmbeddedPostgres
from shared.migrate import FOLDER
from tests.conftest import REPOSITORY, Database, make_template

SQUAWK = Path(sysconfig.get_path("scripts"), "squawk")
SUPABASE = REPOSITORY / "ops/sql/node_modules/@supabase/cli-linux-x64/bin/supabase"
DEBIAN_POSTGRES = Path("/usr/lib/postgresql")

FIRST_RELEASE = "20261123"
"""The day in the names of the migrations that make a database from nothing."""
EXCLUDED_IN_THE_FIRST_RELEASE = (
    # Nobody uses these tables yet: no lock is waited for, and nothing takes long.
    "require-lock-timeout",
    "require-statement-timeout",
    # Counts, limits, pages, offsets and priorities. Whatever numbers rows is a bigint.
    "prefer-bigint-over-int",
    "prefer-bigint-over-smallint",
)

# Supabase's `db lint` passes over trigger functions; here they are checked on each table that has them, with the
# transition tables of all their triggers there: the check follows every branch, whatever tg_op is.
PLPGSQL_CHECK = """
with functions as (
    select p.oid::regprocedure as function, coalesce(t.tgrelid, 0)::regclass as relation,
        max(t.tgoldtable::text) as old_table, max(t.tgnewtable::text) as new_table
    from pg_catalog.pg_proc as p
    join pg_catalog.pg_language as l on l.oid = p.prolang and l.lanname = 'plpgsql'
    left join pg_catalog.pg_trigger as t on t.tgfoid = p.oid and not t.tgisinternal
    where p.pronamespace in ('chartloom'::regnamespace, 'public'::regnamespace)
    group by 1, 2
)
select f.function::text, case when f.relation <> 0 then f.relation::text end as relation,
    c.lineno, c.level, c.message, c.detail
from functions as f
left join lateral public.plpgsql_check_function_tb(
    f.function, f.relation, oldtable => f.old_table, newtable => f.new_table, fatal_errors => false,
    other_warnings => true, extra_warnings => true, security_warnings => true, performance_warnings => false
) as c on true
order by 1, 2, 3
"""
EXCLUDED_FINDINGS = {
    # The variable is there for the INTO: without one, PL/pgSQL runs no statement that begins with WITH.
    ("chartloom.wake(text,integer)", 'never read variable "v_woken"'),
    # Each branch is for one of the tables with this trigger, and the check follows all of them.
    ("chartloom.refuse_erased()", 'record "new" has no field "patient_id"'),
    ("chartloom.refuse_erased()", 'record "new" has no field "shell_file_id"'),
    # Dynamic SQL of nothing but names from the catalogue, quoted by patient_tables; what it returns can't be told.
    ("chartloom.erase_rows(uuid)", "text type variable is not sanitized"),
    ("chartloom.export_rows(uuid)", "text type variable is not sanitized"),
    ("chartloom.export_rows(uuid)", 'OUT variable "table_name" is maybe unmodified'),
    ("chartloom.export_rows(uuid)", 'OUT variable "contents" is maybe unmodified'),
}


def squawk(files: Sequence[Path], *options: str) -> list[str]:
    done = _run([SQUAWK, "--reporter=json", *options, *files], cwd=REPOSITORY)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise SystemExit(f"squawk failed: {done.stdout}{done.stderr}") from None
    return [f"{row['file']}:{row['line'] + 1}: {row['rule_name']}: {row['message']}" for row in found]


def lint_migrations() -> list[str]:
    files = [path.relative_to(REPOSITORY) for path in sorted(FOLDER.glob("*.sql"))]
    later = [path for path in files if path.name[0].isdigit() and not path.name.startswith(FIRST_RELEASE)]
    first = [path for path in files if path not in later]
    exclude = f"--exclude={','.join(EXCLUDED_IN_THE_FIRST_RELEASE)}"
    print(f"==> squawk {exclude}: {len(first)} files of the first release")
    print(f"==> squawk: {len(later)} later files")
    return squawk(first, exclude) + (squawk(later) if later else [])


def advise(database: Database) -> tuple[list[str], Counter[str]]:
    """What Supabase's advisors find above INFO, and how often which INFO."""
    with tempfile.TemporaryDirectory(prefix="chartloom-supabase-") as home:
        done = _run(
            [SUPABASE, "db", "advisors", f"--remote={database.url()}?sslmode=disable", "--level=info", "--output=json"],
            cwd=Path(home),
            env={"HOME": home, "SUPABASE_TELEMETRY_DISABLED": "1"},
        )
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise SystemExit(f"supabase db advisors failed: {done.stdout}{done.stderr}") from None
    findings = [f"{lint['level']}: {lint['name']}: {lint['detail']}" for lint in found if lint["level"] != "INFO"]
    return findings, Counter(lint["name"] for lint in found if lint["level"] == "INFO")


def lint_database() -> list[str]:
    with migrated_database() as database:
        print("==> supabase db advisors --level=info: a migrated database on the embedded Postgres")
        findings, infos = advise(database)
    print(f"    INFO: {', '.join(f'{number} {name}' for name, number in infos.items())}")
    return findings


async def check_functions(database: Database) -> tuple[list[str], int]:
    """What plpgsql_check finds, exclusions that exclude nothing among it, and how many functions it read."""
    connection = await database.connect_as_superuser()
    try:
        await connection.execute("create extension if not exists plpgsql_check with schema public")
        rows = await connection.fetch(PLPGSQL_CHECK)
    finally:
        await connection.close()
    found = [row for row in rows if row["message"] is not None]
    findings = [
        f"{row['level']}: {row['function']}, line {row['lineno']}: {row['message']}"
        + "".join(f" ({text})" for text in (row["detail"], row["relation"]) if text)
        for row in found
        if (row["function"], row["message"]) not in EXCLUDED_FINDINGS
    ]
    unused = EXCLUDED_FINDINGS - {(row["function"], row["message"]) for row in found}
    findings += [f"{function}: no longer found, take its exclusion out: {message}" for function, message in unused]
    return findings, len({row["function"] for row in rows})


def postgres_with_plpgsql_check() -> Path | None:
    """The programs of the newest Postgres of Debian's that has it."""
    installed = sorted(DEBIAN_POSTGRES.glob("*/lib/plpgsql_check.so"))
    return installed[-1].parents[1] / "bin" if installed else None


def lint_functions() -> list[str]:
    binaries = postgres_with_plpgsql_check()
    if binaries is None:
        return [
            "plpgsql_check is not installed: apt install postgresql-15-plpgsql-check "
            "(the number is that of your release's Postgres)"
        ]
    os.environ["CHARTLOOM_PG_BIN"] = str(binaries)
    with migrated_database() as database:
        print(f"==> plpgsql_check, extra and security warnings on: a migrated database on {binaries}")
        findings, functions = asyncio.run(check_functions(database))
    print(f"    {functions} functions, {len(EXCLUDED_FINDINGS)} findings excluded by name")
    return findings


@contextmanager
def migrated_database() -> Iterator[Database]:
    """As the tests have it: an owner that is no superuser, and Supabase's default privileges."""
    with tempfile.TemporaryDirectory(prefix="chartloom-lint-") as home:
        server = EmbeddedPostgres(Path(home))
        try:
            yield asyncio.run(make_template(server.ensure_started().admin_url))
        finally:
            server.remove()


def _run(
    command: Sequence[str | Path], *, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def main() -> int:
    failed = 0
    for lint in (lint_migrations, lint_database, lint_functions):
        findings = lint()
        print("".join(f"{finding}\n" for finding in findings) or "    nothing above INFO\n", end="", flush=True)
        failed += len(findings)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
