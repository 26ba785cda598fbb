"""The operators' commands: migrate, status, jobs, trace, dead letters, contract-check, doctor."""

import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

import asyncpg
import typer
from rich.table import Table
from rich.text import Text

from shared.migrate import migrate as apply_migrations

from . import contract_check, doctor, waterfall
from .command import command
from .console import err, out, run
from .deployment import Migrations, open_deployment

app = typer.Typer()
dead_letters = typer.Typer(help="Jobs that ended in error: list, show, run again.", no_args_is_help=True)
app.add_typer(dead_letters, name="dead-letters")

T = TypeVar("T")


async def _with_owner(work: Callable[[asyncpg.Connection], Awaitable[T]], migrations: Migrations = "require") -> T:
    async with open_deployment(migrations) as deployment, deployment.owner() as connection:
        return await work(connection)


def _table(rows: list[asyncpg.Record], empty: str) -> None:
    if not rows:
        out.print(empty)
        return
    table = Table(box=None, pad_edge=False)
    for column in rows[0].keys():  # noqa: SIM118 - a Record iterates over its values
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_text(value)) for value in row.values()))
    out.print(table)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:.1f}"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


@app.command()
def migrate() -> None:
    """Apply the migrations that are missing."""

    async def work(connection: asyncpg.Connection) -> None:
        applied = await apply_migrations(connection, on_applied=lambda name: out.print(f"applied {name}"))
        out.print("up to date" if not applied else f"{len(applied)} applied")

    run(_with_owner(work, "ignore"))


@app.command()
def status() -> None:
    """How many jobs wait, run and failed, by type, and which workers are alive."""

    async def work(connection: asyncpg.Connection) -> None:
        _table(await connection.fetch("select * from chartloom.queue_depths()"), "The queue is empty.")
        out.print()
        _table(
            await connection.fetch(
                "select worker_id, service, version, heartbeat_at, details from chartloom.workers "
                "where heartbeat_at > now() - interval '1 minute' order by service, worker_id"
            ),
            f"No worker is alive: {command()} up starts them.",
        )

    run(_with_owner(work))


@app.command()
def jobs(
    document: Annotated[UUID | None, typer.Option(help="Only the jobs of this document.")] = None,
    job_status: Annotated[str | None, typer.Option("--status", help="Only jobs in this status.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many.")] = 50,
) -> None:
    """The latest jobs, newest first."""

    async def work(connection: asyncpg.Connection) -> None:
        rows = await connection.fetch(
            "select id, job_type, status, retry_count, lease_losses, created_at, "
            "extract(epoch from completed_at - started_at)::float as worked_s, worker_id, shell_file_id "
            "from chartloom.job_history "
            "where ($1::uuid is null or shell_file_id = $1) and ($2::text is null or status = $2) "
            "order by id desc limit $3",
            document,
            job_status,
            limit,
        )
        _table(rows, "No such jobs.")

    run(_with_owner(work))


@app.command()
def trace(
    wanted: Annotated[str, typer.Argument(metavar="FILE_OR_JOB", help="A document's id, or the number of a job.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Where a document's time went: each job, its waits and its attempts, as bars."""
    file_or_job = _file_or_job(wanted)
    found = run(_with_owner(lambda connection: waterfall.read_trace(connection, file_or_job)))
    if found is None:
        err.print(f"There is no document or job {wanted}.", highlight=False)
        raise typer.Exit(1)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        out.print(waterfall.draw(found, width=out.width))


def _file_or_job(wanted: str) -> UUID | int:
    if wanted.isdecimal():
        return int(wanted)
    try:
        return UUID(wanted)
    except ValueError:
        raise typer.BadParameter(f"{wanted} is neither a document's id nor a job's number.") from None


# ── dead letters ─────────────────────────────────────────────────────────────────────────────────────────────────────

_DEAD = (
    "select id, job_type, completed_at as since, retry_count, lease_losses, error ->> 'code' as code, "
    "error ->> 'message' as message, shell_file_id from chartloom.job_history where status = 'dead_letter'"
)


@dead_letters.command("list")
def list_dead_letters(
    job_type: Annotated[str | None, typer.Option("--type", help="Only jobs of this type.")] = None,
    code: Annotated[str | None, typer.Option(help="Only jobs that ended with this code.")] = None,
) -> None:
    """Jobs that ended in error, with the reason."""
    run(_with_owner(lambda connection: _list_dead(connection, job_type, code)))


async def _list_dead(connection: asyncpg.Connection, job_type: str | None, code: str | None) -> list[int]:
    rows = await connection.fetch(
        f"{_DEAD} and ($1::text is null or job_type = $1) and ($2::text is null or error ->> 'code' = $2) order by id",
        job_type,
        code,
    )
    _table(rows, "No dead letters.")
    return [row["id"] for row in rows]


@dead_letters.command("show")
def show_dead_letter(job_id: Annotated[int, typer.Argument(help="As listed.")]) -> None:
    """One job, with every attempt that failed."""

    async def work(connection: asyncpg.Connection) -> None:
        row = await connection.fetchrow("select * from chartloom.job_history where id = $1", job_id)
        if row is None:
            err.print(f"There is no job {job_id}.")
            raise typer.Exit(1)
        for key, value in row.items():
            out.print(f"[bold]{key}[/bold] {_text(value)}", highlight=False)
        out.print()
        _table(
            await connection.fetch(
                "select occurred_at, kind, code, message, attempt, worker_id, trace_id "
                "from chartloom.processing_errors where job_id = $1 order by id",
                job_id,
            ),
            "No failed attempt is recorded.",
        )

    run(_with_owner(work))


@dead_letters.command("redrive")
def redrive_dead_letters(
    job_ids: Annotated[list[int] | None, typer.Argument(help="Which; or use --type, --code or --all.")] = None,
    job_type: Annotated[str | None, typer.Option("--type", help="All of this type.")] = None,
    code: Annotated[str | None, typer.Option(help="All that ended with this code.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    per_second: Annotated[float | None, typer.Option(min=0.001, help="So many a second; else all at once.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say which.")] = False,
) -> None:
    """Run dead letters again, with all their retries."""
    if not (job_ids or job_type or code or everything):
        err.print("Say which: job ids, --type, --code or --all.")
        raise typer.Exit(2)

    async def work(connection: asyncpg.Connection) -> None:
        found = await _list_dead(connection, job_type, code)
        chosen = [job_id for job_id in job_ids if job_id in found] if job_ids else found
        if job_ids and len(chosen) < len(job_ids):
            err.print(f"{len(job_ids) - len(chosen)} are no dead letters and are passed over.")
        if dry_run:
            out.print(f"{len(chosen)} would run again.")
            return
        rows = await connection.fetch("select chartloom.redrive_jobs($1::bigint[], $2) as id", chosen, per_second)
        out.print(f"{len(rows)} are queued again; services that run take them.")
        if len(rows) < len(job_ids or chosen):
            raise typer.Exit(1)

    run(_with_owner(work))


# ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@app.command("contract-check")
def contract_check_command() -> None:
    """Enqueue, claim and complete a no-op job of every type, then roll back. Works on any database."""

    async def work(connection: asyncpg.Connection) -> bool:
        passed = True
        async for job_type, problem in contract_check.check_contract(connection):
            out.print(f"{'[green]ok[/green]' if problem is None else '[red]failed[/red]'}  {job_type}  {problem or ''}")
            passed = passed and problem is None
        return passed

    if not run(_with_owner(work)):
        raise typer.Exit(1)


@app.command("doctor")
def doctor_command() -> None:
    """Say what is missing or misconfigured, and how to mend it."""

    async def work() -> bool:
        well = True
        styles = {"ok": "green", "note": "dim", "missing": "red"}
        async for finding in doctor.examine():
            style = styles[finding.verdict]
            out.print(
                f"[{style}]{finding.verdict:<8}[/{style}] {finding.subject:<30} {finding.detail}", highlight=False
            )
            well = well and finding.verdict != "missing"
        return well

    if not run(work()):
        raise typer.Exit(1)
