"""Finished jobs of a database, as ``times`` fits them: durations, pages and counts, nothing of a record."""

import asyncpg

from .times import Job
from .workload import Document

# The first attempt's only: after a retry, started_at is the last one's.
_JOBS = """
select j.job_type, j.worker_id,
    extract(epoch from j.created_at)::float8 as created_at,
    extract(epoch from j.started_at)::float8 as started_at,
    extract(epoch from j.completed_at)::float8 as completed_at,
    p.digital_pages, p.scanned_pages,
    case a.provider when 'local' then 0 else coalesce((a.result #>> '{usage,requests}')::integer, 0) end as requests,
    coalesce((a.result #>> '{usage,input_tokens}')::integer, 0) as input_tokens,
    coalesce((a.result #>> '{usage,output_tokens}')::integer, 0) as output_tokens,
    j.patient_id::text as patient
from chartloom.job_archive as j
join chartloom.document_runs as r on r.id = (j.payload ->> 'run_id')::uuid
cross join lateral (
    select count(*) filter (where o.text_source = 'text_layer') as digital_pages,
        count(*) filter (where o.text_source <> 'text_layer') as scanned_pages
    from public.ocr_pages as o where o.run_id = r.ocr_run_id
) as p
left join public.ai_pass_results as a on a.run_id = r.id and j.job_type = 'ai_' || a.pass
where j.status = 'completed' and j.retry_count = 0 and j.lease_losses = 0 and j.job_type = any($1)
    -- What handed its pages to others took less time than they do.
    and not (j.job_type = 'ocr' and j.result ? 'jobs')
order by j.id desc limit $2
"""


async def finished_jobs(connection: asyncpg.Connection, steps: list[str], limit: int) -> list[Job]:
    """The latest jobs that completed at the first attempt."""
    return [
        Job(
            step=row["job_type"],
            worker_id=row["worker_id"],
            created_at=row["created_at"],
            started_at=row["started_at"],
            completed_at=row["completed_at"],
            document=Document(row["patient"], row["digital_pages"], row["scanned_pages"], 0.0),
            requests=row["requests"],
            input_tokens=row["input_tokens"],
            output_tokens=row["output_tokens"],
        )
        for row in await connection.fetch(_JOBS, steps, limit)
    ]
