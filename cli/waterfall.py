"""``chartloom trace``: where a document's time went, from the rows alone: no collector is needed."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
from rich.console import Group
from rich.table import Table
from rich.text import Text

from shared.attempts import Error, Job, attempts, began_to_wait, seconds_between

BESIDE_THE_BAR = 72
"""Cells that the other columns take; the bar gets the rest of the terminal, and at least BAR_CELLS."""
BAR_CELLS = 16
_STYLES = {
    "completed": "green",
    "processing": "cyan",
    "waiting": "dim",
    "snoozed": "yellow",
    "lease_lost": "yellow",
    "transient": "red",
    "terminal": "red",
    "cancelled": "red",
}

Trace = dict[str, Any]
"""What ``--json`` writes. Times are seconds; ``offset_s`` counts from ``began_at``."""


_DOCUMENT = """
select null::bigint as job_id, id as shell_file_id, current_run_id::text as run_id, status, uploaded_at,
    chartloom.trace_id(traceparent) as trace_id
from shell_files where id = $1
"""
# A no-op job has no document, and is a trace of its own.
_JOB = """
select h.id as job_id, h.shell_file_id, h.payload ->> 'run_id' as run_id, coalesce(f.status, h.status) as status,
    case when f.current_run_id::text = h.payload ->> 'run_id' then f.uploaded_at end as uploaded_at,
    chartloom.trace_id(h.traceparent) as trace_id
from chartloom.job_history as h left join shell_files as f on f.id = h.shell_file_id
where h.id = $1
"""


async def read_trace(connection: asyncpg.Connection, wanted: UUID | int) -> Trace | None:
    """The trace of a document (its current run), or of the document and run of a job. None where there is no such."""
    subject = await connection.fetchrow(_JOB if isinstance(wanted, int) else _DOCUMENT, wanted)
    if subject is None:
        return None
    rows = await connection.fetch(
        "select id, job_type, job_category, status, created_at, started_at, completed_at, worker_id "
        "from chartloom.job_history where id = $1 or shell_file_id = $2 and payload ->> 'run_id' = $3 order by id",
        subject["job_id"],
        subject["shell_file_id"],
        subject["run_id"],
    )
    jobs = [dict(row) for row in rows]
    errors: dict[int, list[dict[str, Any]]] = {job["id"]: [] for job in jobs}
    for error in await connection.fetch(
        "select job_id, kind, code, started_at, occurred_at, worker_id "
        "from chartloom.processing_errors where job_id = any($1) order by id",
        list(errors),
    ):
        errors[error["job_id"]].append(dict(error))
    now = await connection.fetchval("select chartloom.clock()")
    uploaded = subject["uploaded_at"]
    began = min([uploaded or now, *(began_to_wait(job, errors[job["id"]]) for job in jobs)])
    return {
        "shell_file_id": str(subject["shell_file_id"]) if subject["shell_file_id"] else None,
        "status": subject["status"],
        "run_id": subject["run_id"],
        "trace_id": subject["trace_id"],
        "began_at": began.isoformat(),
        "fast_queue_s": _queue_seconds(jobs, "fast", uploaded),
        "ai_queue_s": _queue_seconds(jobs, "ai", None),
        "jobs": [_job(job, errors[job["id"]], began, now) for job in jobs],
    }


def _job(job: Job, errors: Sequence[Error], began: datetime, now: datetime) -> dict[str, Any]:
    return {
        "job_id": job["id"],
        "job_type": job["job_type"],
        "status": job["status"],
        "attempts": [
            attempt | {"number": number} for number, attempt in enumerate(attempts(job, errors, began, now), 1)
        ],
    }


def _queue_seconds(jobs: Sequence[Job], category: str, since: datetime | None) -> float | None:
    """What the objective of the queue is about; None while it is not over, or ended in error."""
    own = [job for job in jobs if job["job_category"] == category]
    if not own or any(job["status"] != "completed" for job in own):
        return None
    return seconds_between(since or min(job["created_at"] for job in own), max(job["completed_at"] for job in own))


# ── the picture ──────────────────────────────────────────────────────────────────────────────────────────────────────


def draw(trace: Trace, *, width: int) -> Group:
    """A row an attempt: ░ waited, █ worked, ╌ which of both is not known."""
    heading = Text(
        f"document {trace['shell_file_id'] or '-'}  {trace['status']}\n"
        f"trace {trace['trace_id']}  since {trace['began_at'][:19].replace('T', ' ')} UTC"
    )
    queues = ", ".join(
        f"{name} {trace[key]:.1f} s"
        for name, key in (("fast queue", "fast_queue_s"), ("AI queue", "ai_queue_s"))
        if trace[key] is not None
    )
    ends = [attempt["ended_s"] for job in trace["jobs"] for attempt in job["attempts"]]
    whole = max(ends, default=0.0)
    table = Table(box=None, pad_edge=False)
    for column in ("job", "attempt", "outcome"):
        table.add_column(column, no_wrap=True)
    for column in ("waited", "worked"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column(f"{whole:.1f} s in all", no_wrap=True)
    cells = max(width - BESIDE_THE_BAR, BAR_CELLS)
    for job in trace["jobs"]:
        for attempt in job["attempts"]:
            style = _STYLES[attempt["outcome"]]
            table.add_row(
                f"{job['job_type']} {job['job_id']}" if attempt["number"] == 1 else "",
                str(attempt["number"]),
                Text(attempt["code"] or attempt["outcome"], style),
                _said(attempt["waited_s"]),
                _said(attempt["worked_s"]),
                _bar(attempt, whole, cells, style),
            )
    return Group(heading, Text(queues, "dim"), table) if queues else Group(heading, table)


def _said(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f} s"


def _bar(attempt: Mapping[str, Any], whole: float, cells: int, style: str) -> Text:
    def cell(seconds: float) -> int:
        return min(round(seconds / whole * cells), cells) if whole else 0

    first, last = cell(attempt["offset_s"]), cell(attempt["ended_s"])
    bar = Text(" " * first)
    if attempt["waited_s"] is None:
        bar.append("╌" * max(last - first, 1), style)
        return bar
    begin = cell(attempt["offset_s"] + attempt["waited_s"])
    bar.append("░" * (begin - first), "dim")
    if attempt["outcome"] != "waiting":
        # Even the shortest work is seen.
        bar.append("█" * max(last - begin, 1), style)
    return bar
