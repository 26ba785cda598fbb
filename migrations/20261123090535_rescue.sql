-- The ends that others decide: a lease that expired, a document that was cancelled, a dead letter that comes back.

-- Takes jobs from workers that stopped renewing them. Any process may call it, any number at once; none waits for another.
create function chartloom.sweep_expired_leases(p_limit integer default 100)
returns table (job_id bigint, job_type text, worker_id text, new_status text, overdue_seconds double precision)
language plpgsql volatile security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := chartloom.clock();
    v_jobs chartloom.job_queue[];
    v_documents uuid[];
    v_is_last boolean;
    v_job chartloom.job_queue;
begin
    select array_agg(expired.job) into v_jobs from (
        select q as job from chartloom.job_queue as q
        where status = 'processing' and lease_expires_at <= v_now
        order by id limit p_limit for update skip locked
    ) as expired;
    -- Who is buried takes its document's row with it. What another holds is left for a later sweep: it may be a frozen process.
    select array_agg(f.id) into v_documents from (
        select id from public.shell_files
        where id in (select shell_file_id from unnest(v_jobs)) for no key update skip locked
    ) as f;
    foreach v_job in array coalesce(v_jobs, '{}') loop
        v_is_last := v_job.lease_losses >= (
            select max_lease_losses from chartloom.job_types as t where t.job_type = v_job.job_type
        );
        continue when v_is_last and v_job.shell_file_id is not null
            and v_job.shell_file_id <> all(coalesce(v_documents, '{}'));
        perform chartloom.record_error(
            v_job, 'lease_lost', 'lease_expired', 'The worker stopped renewing its lease: killed, paused or cut off.'
        );
        if v_is_last then
            perform chartloom.bury_job(
                v_job, 'lease_lost_too_often',
                'Every worker that tried this stopped before it was done. Look for a crash or a lack of memory, then redrive.'
            );
            new_status := 'dead_letter';
        else
            update chartloom.job_queue
            set status = 'pending', is_ready = true, lease_losses = lease_losses + 1,
                fair_tag = chartloom.next_fair_tag(v_job.job_type, v_job.priority, v_job.fairness_key),
                lease_token = null, lease_expires_at = null, run_deadline_at = null
            where id = v_job.id;
            perform chartloom.wake(v_job.job_type, 1);
            new_status := 'pending';
        end if;
        job_id := v_job.id;
        job_type := v_job.job_type;
        worker_id := v_job.worker_id;
        overdue_seconds := extract(epoch from v_now - v_job.lease_expires_at);
        return next;
    end loop;
end
$$;

-- Ends every live job of a document, or of one run of it, dead letters included. Again and again: while it waited for a job that was completing,
-- that job's successor came to be, which the statement could not see.
create function chartloom.cancel_live_jobs(p_shell_file_id uuid, p_run_id uuid default null) returns integer
language plpgsql volatile
set search_path = ''
as $$
declare
    v_job chartloom.job_queue;
    v_count integer := 0;
begin
    while exists (
        select from chartloom.job_queue
        where shell_file_id = p_shell_file_id
            and (p_run_id is null or coalesce((payload ->> 'run_id')::uuid, p_run_id) = p_run_id)
    ) loop
        for v_job in
            select * from chartloom.job_queue
            where shell_file_id = p_shell_file_id
                and (p_run_id is null or coalesce((payload ->> 'run_id')::uuid, p_run_id) = p_run_id)
            order by id for update
        loop
            perform chartloom.record_error(v_job, 'cancelled', 'document_cancelled', 'The document was cancelled.');
            perform chartloom.archive_job(v_job, 'cancelled', null, chartloom.clock());
            delete from chartloom.job_queue where id = v_job.id;
            v_count := v_count + 1;
        end loop;
    end loop;
    return v_count;
end
$$;

-- Cancels what a document still has to do; what runs is told by its next heartbeat and can write nothing more.
create function chartloom.cancel_document_jobs(p_shell_file_id uuid) returns integer
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_count constant integer := chartloom.cancel_live_jobs(p_shell_file_id);
begin
    if v_count > 0 then
        update public.shell_files set status = 'cancelled' where id = p_shell_file_id;
        perform chartloom.wake('changes', 0);
    end if;
    return v_count;
end
$$;

-- Dead letters run again, with all their retries: at once, or so many a second. Ids that are no dead letters are passed over;
-- returns those that were.
create function chartloom.redrive_jobs(p_job_ids bigint[], p_per_second double precision default null)
returns setof bigint
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_now constant timestamptz := chartloom.clock();
    v_job chartloom.job_queue;
    v_place integer := 0;
    v_wait double precision := 0;
begin
    if p_per_second not between 0.001 and 100000 then
        raise exception 'per_second must be between 0.001 and 100000' using errcode = 'CL005';
    end if;
    for v_job in
        select * from chartloom.job_queue
        where id = any(p_job_ids) and status = 'dead_letter'
        order by id for update skip locked
    loop
        v_wait := coalesce(v_place / p_per_second, 0);
        -- created_at, too: how long it may be put off is counted anew.
        update chartloom.job_queue
        set status = 'pending', is_ready = v_wait = 0, completed_at = null, error = null, retry_count = 0,
            lease_losses = 0, created_at = v_now, scheduled_at = v_now + make_interval(secs => v_wait),
            fair_tag = chartloom.next_fair_tag(v_job.job_type, v_job.priority, v_job.fairness_key)
        where id = v_job.id;
        update public.shell_files set status = 'processing', processing_error = null
        where id = v_job.shell_file_id and status = 'failed' and current_run_id = (v_job.payload ->> 'run_id')::uuid;
        perform chartloom.wake(v_job.job_type, 1);
        v_place := v_place + 1;
        return next v_job.id;
    end loop;
end
$$;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
