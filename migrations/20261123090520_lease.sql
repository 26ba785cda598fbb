-- Holding a job: the lease that every change names, its renewal, and the record of what went wrong.

-- Locks the job for its holder, or raises: CL001 (somebody else has it, or it is over), CL002 (it was cancelled).
create function chartloom.hold_lease(p_job_id bigint, p_lease_token uuid) returns chartloom.job_queue
language plpgsql volatile
set search_path = ''
as $$
declare
    v_job chartloom.job_queue;
begin
    select * into v_job from chartloom.job_queue where id = p_job_id for update;
    if v_job.lease_token is distinct from p_lease_token or p_lease_token is null then
        perform chartloom.refuse_lease(p_job_id);
    end if;
    -- For the audit of what the holder writes in this transaction.
    perform set_config('chartloom.job_id', p_job_id::text, true);
    perform set_config('chartloom.trace_id', chartloom.trace_id(v_job.traceparent), true);
    return v_job;
end
$$;

create function chartloom.refuse_lease(p_job_id bigint) returns void
language plpgsql stable
set search_path = ''
as $$
begin
    if exists (select from chartloom.job_archive where id = p_job_id and status = 'cancelled') then
        raise exception 'job % was cancelled', p_job_id using errcode = 'CL002';
    end if;
    raise exception 'the lease of job % is lost', p_job_id
        using errcode = 'CL001', hint = 'Stop the work: another attempt has the job, or it is over.';
end
$$;

-- One statement for all that a worker holds. Says of each whether the lease is still held; one that is past its run
-- deadline is not renewed. Also the worker's own sign of life.
create function chartloom.heartbeat_jobs(
    p_worker_id text,
    p_service text,
    p_version text,
    p_job_ids bigint[],
    p_lease_tokens uuid[],
    p_lease_seconds integer default 60,
    p_details jsonb default '{}',
    p_progress real[] default null
) returns table (job_id bigint, lease_token uuid, state text)
language plpgsql volatile security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := chartloom.clock();
begin
    perform chartloom.commit_without_waiting();
    insert into chartloom.workers as w (worker_id, service, version, started_at, heartbeat_at, details)
    values (p_worker_id, p_service, p_version, v_now, v_now, p_details)
    on conflict (worker_id) do update set heartbeat_at = v_now, details = excluded.details;

    return query
    with held as (
        select * from unnest(p_job_ids, p_lease_tokens, p_progress) as h (id, token, progress)
    ),
    locked as (
        -- A row that is locked is being settled, swept or cancelled at this moment: waiting for it could close a circle.
        select q.id from chartloom.job_queue as q
        where q.id = any(p_job_ids) and q.lease_token = any(p_lease_tokens)
        for no key update of q skip locked
    ),
    renewed as (
        update chartloom.job_queue as q
        set heartbeat_at = v_now, progress = held.progress,
            lease_expires_at = least(v_now + make_interval(secs => p_lease_seconds), q.run_deadline_at)
        from locked join held using (id)
        where q.id = locked.id and q.lease_token = held.token
        returning q.id, q.lease_token, q.run_deadline_at
    )
    select h.id, h.token,
        case
            when r.run_deadline_at <= v_now then 'overdue'
            when r.id is not null or q.lease_token = h.token then 'held'
            when q.id is null and a.status = 'cancelled' then 'cancelled'
            else 'lost'
        end
    from held as h
    left join renewed as r on r.id = h.id and r.lease_token = h.token
    -- any(): whichever side a plan begins with, it reads these rows alone.
    left join chartloom.job_queue as q on q.id = h.id and q.id = any(p_job_ids)
    left join chartloom.job_archive as a on a.id = h.id and a.id = any(p_job_ids) and q.id is null;
end
$$;

create function chartloom.record_error(
    p_job chartloom.job_queue, p_kind text, p_code text, p_message text
) returns void
language sql volatile
set search_path = ''
as $$
    insert into chartloom.processing_errors (
        occurred_at, level, kind, code, message, job_id, job_type, attempt, shell_file_id, worker_id, trace_id
    )
    values (
        chartloom.clock(),
        case when p_kind = 'terminal' and p_job.shell_file_id is not null then 'file' else 'job' end,
        p_kind, p_code, p_message, p_job.id, p_job.job_type, p_job.retry_count + 1, p_job.shell_file_id,
        p_job.worker_id, chartloom.trace_id(p_job.traceparent)
    )
$$;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
