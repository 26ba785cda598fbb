-- What an operator watches: when each attempt began, how long a document's queues took, what the sweeper measures.

set local lock_timeout = '5s';
set local statement_timeout = '30s';

alter table chartloom.processing_errors add column started_at timestamptz;
comment on column chartloom.processing_errors.started_at is 'When the attempt that failed was claimed. The job''s own row knows that of its last attempt only. Null for what failed before release 0.2.';

create or replace function chartloom.record_error(
    p_job chartloom.job_queue, p_kind text, p_code text, p_message text
) returns void
language sql volatile
set search_path = ''
as $$
    insert into chartloom.processing_errors (
        occurred_at, level, kind, code, message, job_id, job_type, attempt, shell_file_id, worker_id, trace_id,
        started_at
    )
    values (
        chartloom.clock(),
        case when p_kind = 'terminal' and p_job.shell_file_id is not null then 'file' else 'job' end,
        p_kind, p_code, p_message, p_job.id, p_job.job_type, p_job.retry_count + 1, p_job.shell_file_id,
        p_job.worker_id, chartloom.trace_id(p_job.traceparent), p_job.started_at
    )
$$;

-- The types whose job may be a document's last in its queue: nothing of the same category follows them.
create function chartloom.queue_ends(p_job_types text[]) returns table (job_type text, job_category text)
language sql stable security definer
set search_path = ''
as $$
    select t.job_type, t.job_category from chartloom.job_types as t
    where t.job_type = any(p_job_types) and not exists (
        select from chartloom.pipeline_steps as s
        join chartloom.job_types as n on n.job_type = s.next_job_type
        where s.after_job_type = t.job_type and n.job_category = t.job_category
    )
$$;

-- How long a document was in the queue that this completed job ended: the fast one since complete_upload, the AI queue since
-- its first AI job was enqueued. Null where it did not end one: another job of the run is still there, or the run is over.
create function chartloom.queue_seconds(p_job_id bigint) returns double precision
language sql stable security definer
set search_path = ''
as $$
    select extract(epoch from done.completed_at - case done.job_category
        when 'fast' then f.uploaded_at
        else (
            select min(h.created_at) from chartloom.job_history as h
            where h.shell_file_id = done.shell_file_id and h.job_category = done.job_category
                and h.payload ->> 'run_id' = done.payload ->> 'run_id'
        )
    end)::double precision
    from chartloom.job_archive as done
    join public.shell_files as f on f.id = done.shell_file_id
        and f.current_run_id = (done.payload ->> 'run_id')::uuid
    where done.id = p_job_id and done.status = 'completed' and not exists (
        select from chartloom.job_queue as q
        where q.shell_file_id = done.shell_file_id and q.job_category = done.job_category
            and q.payload ->> 'run_id' = done.payload ->> 'run_id'
    )
$$;

-- What rows alone know, for the sweeper's gauges. Zeros are rows, too: an alert can't tell "none" from "not measured" else.
-- A dead worker did not say goodbye; it counts for an hour.
create function chartloom.operator_gauges() returns table (gauge text, label text, value double precision)
language sql volatile security definer
set search_path = ''
as $$
    with services as (
        select distinct replace(worker_role, 'chartloom_', '') as service from chartloom.job_types
        union select 'sweeper'
    ),
    silences as (
        select s.service, chartloom.clock() - w.heartbeat_at as silent
        from services as s left join chartloom.workers as w on w.service = s.service
    )
    select 'workers_alive', service, count(*) filter (where silent <= interval '1 minute')
    from silences group by service
    union all
    select 'workers_dead', service,
        count(*) filter (where silent > interval '1 minute' and silent <= interval '1 hour')
    from silences group by service
    union all
    select 'recent_dead_letters', t.job_type, count(q.id)
    from chartloom.job_types as t
    left join chartloom.job_queue as q on q.job_type = t.job_type and q.status = 'dead_letter'
        and q.completed_at > chartloom.clock() - interval '1 hour'
    group by t.job_type
    union all
    select 'failed_audit_events', '', count(*) from public.failed_audit_events
$$;

-- Which documents took longest, for a dashboard: ids, times and counts, and the trace of each. Of the latest jobs, by their ids: a
-- day's would read the whole month of the archive.
create function chartloom.slowest_documents(p_jobs integer default 5000, p_limit integer default 50)
returns table (
    shell_file_id uuid,
    trace_id text,
    enqueued_at timestamptz,
    seconds double precision,
    retries bigint,
    leases_lost bigint,
    not_done text
)
language sql volatile security definer
set search_path = ''
as $$
    select h.shell_file_id, min(chartloom.trace_id(h.traceparent)), min(h.created_at),
        extract(epoch from coalesce(max(h.completed_at), chartloom.clock()) - min(h.created_at))::double precision,
        sum(h.retry_count), sum(h.lease_losses),
        string_agg(h.job_type || ' ' || h.status, ', ' order by h.id) filter (where h.status <> 'completed')
    from (select * from chartloom.job_history order by id desc limit p_jobs) as h
    where h.shell_file_id is not null
    group by h.shell_file_id, h.payload ->> 'run_id'
    order by 4 desc limit p_limit
$$;

revoke execute on all functions in schema chartloom from public;
grant execute on function chartloom.queue_ends(text[]), chartloom.queue_seconds(bigint) to chartloom_worker;
grant execute on function chartloom.operator_gauges() to chartloom_sweeper, chartloom_operator;
grant execute on function chartloom.slowest_documents(integer, integer) to chartloom_operator;
