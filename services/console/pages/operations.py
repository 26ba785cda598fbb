"""For operators: what waits, who works, what ended in error. Ids, counts and codes; no patient's row is read here."""

from typing import Any

from aiohttp import web

from .base import SETTINGS, not_found, operator_rights, show

MOST_JOBS = 10**15
LATEST_JOBS = 5000
"""Figures are those of so many jobs: a day's would read a month of the archive."""
FAST_SECONDS, AI_SECONDS, SHARE = 120, 600, 0.95
"""The objectives (docs/monitoring.md): so large a share of documents within so many seconds."""
LISTED = 200

# A document's time in a queue: from its first job there to its last.
_OBJECTIVES = """
with latest as (select * from chartloom.job_history order by id desc limit $1),
documents as (
    select job_category, payload ->> 'run_id' as run_id,
        extract(epoch from max(completed_at) - min(created_at))::float8 as seconds,
        bool_and(status = 'completed') as is_done
    from latest where shell_file_id is not null group by 1, 2
)
select job_category, count(*) as documents, percentile_cont(0.95) within group (order by seconds) as p95,
    avg((seconds <= case job_category when 'fast' then $2::float8 else $3 end)::int)::float8 as share
from documents where is_done group by 1 order by 1 desc
"""
_THROUGHPUT = """
with latest as (select * from chartloom.job_history order by id desc limit $1)
select job_type, count(*) filter (where completed_at > now() - interval '1 minute') as last_minute,
    count(*) filter (where completed_at > now() - interval '1 hour') as last_hour,
    percentile_cont(0.5) within group (order by extract(epoch from completed_at - started_at)::float8) as median_seconds
from latest where status = 'completed' group by 1 order by min(id)
"""
_WORKERS = """
select worker_id, service, version, started_at, heartbeat_at, details,
    extract(epoch from now() - heartbeat_at)::float8 as silent_seconds
from chartloom.workers where heartbeat_at > now() - interval '1 hour' order by service, worker_id
"""
_DEAD = """
select id, job_type, completed_at, retry_count, lease_losses, error ->> 'code' as code, error ->> 'message' as message,
    shell_file_id, split_part(traceparent, '-', 2) as trace_id
from chartloom.job_history
where status = 'dead_letter' and ($1::text = '' or job_type = $1) and ($2::text = '' or error ->> 'code' = $2)
order by id limit $3
"""
_DEAD_KINDS = """
select job_type, error ->> 'code' as code, count(*) as jobs from chartloom.job_history
where status = 'dead_letter' group by 1, 2 order by 3 desc, 1, 2
"""
_JOB = """
select id, job_type, job_category, status, priority, created_at, scheduled_at, started_at, completed_at, retry_count,
    max_retries, lease_losses, worker_id, error, shell_file_id, payload ->> 'run_id' as run_id,
    split_part(traceparent, '-', 2) as trace_id
from chartloom.job_history where id = $1
"""
_ATTEMPTS = """
select occurred_at, kind, code, message, attempt, worker_id from chartloom.processing_errors
where job_id = $1 order by id
"""
_SIBLINGS = """
select id, job_type, status, created_at, completed_at from chartloom.job_history
where shell_file_id = $1 and payload ->> 'run_id' = $2 order by id limit 200
"""


async def overview(request: web.Request) -> web.StreamResponse:
    async with operator_rights(request) as connection:
        depths = await connection.fetch("select * from chartloom.queue_depths()")
        objectives = await connection.fetch(_OBJECTIVES, LATEST_JOBS, FAST_SECONDS, AI_SECONDS)
        throughput = await connection.fetch(_THROUGHPUT, LATEST_JOBS)
        workers = await connection.fetch(_WORKERS)
        models = await connection.fetch("select * from chartloom.model_comparison() limit 20")
    by_type: dict[str, dict[str, Any]] = {}
    for row in depths:
        shown = by_type.setdefault(
            row["job_type"],
            {"job_type": row["job_type"], "pending": 0, "processing": 0, "failed": 0, "dead_letter": 0, "oldest": None},
        )
        shown[row["status"]] = row["jobs"]
        shown["oldest"] = row["oldest_ready_seconds"] if row["oldest_ready_seconds"] is not None else shown["oldest"]
    return show(
        request,
        "operations.html",
        tab="overview",
        depths=list(by_type.values()),
        objectives=objectives,
        limits={"fast": FAST_SECONDS, "ai": AI_SECONDS},
        goal=SHARE,
        throughput=throughput,
        workers=workers,
        models=models,
    )


async def dead_letters(request: web.Request) -> web.StreamResponse:
    return await _dead_letters(request, said=None)


async def redrive(request: web.Request) -> web.StreamResponse:
    """Those that are ticked, or all that the filter shows; a dry run only says which."""
    fields = await request.post()
    ids = [int(text) for text in map(str, fields.getall("job", [])) if text.isdecimal() and len(text) < 16]
    async with operator_rights(request) as connection:
        if "everything" in fields or fields.get("dry_run") == "everything":
            rows = await connection.fetch(_DEAD, str(fields.get("type", "")), str(fields.get("code", "")), 10_000)
            ids = [row["id"] for row in rows]
        if "dry_run" in fields:
            rows = await connection.fetch(
                "select id from chartloom.job_history where id = any($1) and status = 'dead_letter'", ids
            )
            said = f"Dry run: {_jobs(len(rows))} would run again. Nothing was changed."
        else:
            rows = await connection.fetch("select chartloom.redrive_jobs($1::bigint[]) as id", ids)
            said = f"{_jobs(len(rows))} {'is' if len(rows) == 1 else 'are'} queued again."
    return await _dead_letters(request, said=said, chosen=frozenset(ids) if "dry_run" in fields else frozenset())


async def _dead_letters(
    request: web.Request, *, said: str | None, chosen: frozenset[int] = frozenset()
) -> web.StreamResponse:
    # The filter stays with a posted form.
    fields = await request.post() if request.method == "POST" else request.query
    job_type, code = str(fields.get("type", "")), str(fields.get("code", ""))
    async with operator_rights(request) as connection:
        kinds = await connection.fetch(_DEAD_KINDS)
        rows = await connection.fetch(_DEAD, job_type, code, LISTED)
    return show(
        request,
        "dead_letters.html",
        tab="dead_letters",
        kinds=kinds,
        jobs=rows,
        listed=LISTED,
        job_type=job_type,
        code=code,
        said=said,
        chosen=chosen,
        trace_url=request.app[SETTINGS].console_trace_url,
    )


async def job(request: web.Request) -> web.StreamResponse:
    text = request.match_info["job"]
    if not text.isdecimal() or int(text) > MOST_JOBS:
        raise not_found()
    async with operator_rights(request) as connection:
        found = await connection.fetchrow(_JOB, int(text))
        if found is None:
            raise not_found()
        attempts = await connection.fetch(_ATTEMPTS, found["id"])
        siblings = await connection.fetch(_SIBLINGS, found["shell_file_id"], found["run_id"])
    return show(
        request,
        "job.html",
        tab="dead_letters",
        job=found,
        attempts=attempts,
        siblings=siblings,
        trace_url=request.app[SETTINGS].console_trace_url,
    )


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def add_routes(app: web.Application) -> None:
    app.router.add_get("/operations", overview)
    app.router.add_get("/operations/dead-letters", dead_letters)
    app.router.add_post("/operations/dead-letters", redrive)
    app.router.add_get("/operations/jobs/{job}", job)
