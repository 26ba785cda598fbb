-- Claiming: what is due becomes ready, what is ready is given out, under caps and fairly.

-- What waited for a retry or for its time, and is due, becomes ready. Any worker does this as part of its claim.
create function chartloom.promote_due_jobs(p_limit integer default 100) returns integer
language plpgsql volatile security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_now constant timestamptz := chartloom.clock();
    v_job record;
    v_count integer := 0;
begin
    for v_job in
        select id, job_type, priority, fairness_key from chartloom.job_queue
        where not is_ready and status in ('pending', 'failed') and scheduled_at <= v_now
        order by scheduled_at limit p_limit for update skip locked
    loop
        update chartloom.job_queue
        set status = 'pending', is_ready = true,
            fair_tag = chartloom.next_fair_tag(v_job.job_type, v_job.priority, v_job.fairness_key)
        where id = v_job.id;
        perform chartloom.wake(v_job.job_type, 1);
        v_count := v_count + 1;
    end loop;
    return v_count;
end
$$;

create function chartloom.assert_may_work(p_job_types text[]) returns void
language plpgsql stable
set search_path = ''
as $$
declare
    v_refused text;
begin
    select wanted.job_type into v_refused
    from unnest(p_job_types) as wanted (job_type)
    left join chartloom.job_types as t on t.job_type = wanted.job_type
    where t.job_type is null
        -- current_user is the owner here (the caller is SECURITY DEFINER): the owner may, to prove the contract.
        or (
            chartloom.caller_role() <> current_user
            and not pg_has_role(chartloom.caller_role(), t.worker_role, 'MEMBER')
        )
    limit 1;
    if found then
        raise exception 'role "%" may not work jobs of type "%"', chartloom.caller_role(), v_refused
            using errcode = 'CL006';
    end if;
end
$$;

-- How many jobs of a capped type may still start; the claim holds the type's lock. What counts is live leases, not rows in `processing`: a dead worker's place is free when its lease ends.
create function chartloom.free_places(p_type chartloom.job_types, p_wanted integer) returns integer
language plpgsql volatile
set search_path = ''
as $$
declare
    v_live integer;
begin
    if p_type.max_processing is null then
        return p_wanted;
    end if;
    select count(*) into v_live from chartloom.job_queue
    where job_type = p_type.job_type and status = 'processing' and lease_expires_at > chartloom.clock();
    return greatest(least(p_wanted, p_type.max_processing - v_live), 0);
end
$$;

-- The next jobs of one type and priority, locked: where they are in the table, which holds while they are locked and spares
-- the way through the primary key. With a cap per key it looks at a bounded number from the head of the queue;
-- fair queueing has put the other keys there.
create function chartloom.pick_jobs(
    p_type chartloom.job_types,
    p_priority smallint,
    p_from_tag bigint,
    p_limit integer,
    out o_picked tid[],
    out o_shell_file_ids uuid[],
    out o_last_tag bigint
)
language plpgsql volatile
set search_path = ''
as $$
begin
    if p_type.max_processing_per_key is null then
        select array_agg(picked.ctid), array_agg(picked.shell_file_id) filter (where picked.shell_file_id is not null),
            max(picked.fair_tag)
        into o_picked, o_shell_file_ids, o_last_tag from (
            select q.ctid, q.shell_file_id, q.fair_tag from chartloom.job_queue as q
            where q.is_ready and q.job_type = p_type.job_type and q.priority = p_priority and q.fair_tag >= p_from_tag
            order by q.fair_tag, q.id
            limit p_limit for update skip locked
        ) as picked;
        return;
    end if;
    select array_agg(picked.ctid), array_agg(picked.shell_file_id) filter (where picked.shell_file_id is not null),
        max(picked.fair_tag)
    into o_picked, o_shell_file_ids, o_last_tag from (
        select q.ctid, q.shell_file_id, q.fair_tag from chartloom.job_queue as q
        where q.is_ready and q.id in (
            select c.id from (
                select h.id, h.fairness_key,
                    row_number() over (partition by h.fairness_key order by h.fair_tag, h.id) as place
                from (
                    select r.id, r.fairness_key, r.fair_tag from chartloom.job_queue as r
                    where r.is_ready and r.job_type = p_type.job_type and r.priority = p_priority
                        and r.fair_tag >= p_from_tag
                    order by r.fair_tag, r.id limit p_limit * 4 + 100
                ) as h
            ) as c
            where c.place + (
                select count(*) from chartloom.job_queue as l
                where l.job_type = p_type.job_type and l.fairness_key = c.fairness_key and l.status = 'processing'
                    and l.lease_expires_at > chartloom.clock()
            ) <= p_type.max_processing_per_key
        )
        order by q.fair_tag, q.id
        limit p_limit for update skip locked
    ) as picked;
end
$$;

-- For a transaction that a crash may forget: a claim that was lost leaves its job pending, to be claimed anew, and its holder
-- with a token that nothing accepts; a lost heartbeat is followed by the next. Waiting for the disk would be half of what a
-- pick-up takes. What was written before in the same transaction keeps its wait.
create function chartloom.commit_without_waiting() returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    if pg_current_xact_id_if_assigned() is null then
        perform set_config('synchronous_commit', 'off', true);
    end if;
end
$$;

-- Claims up to p_limit jobs, in a transaction of its own (its commit does not wait for the disk), the types in the order given. Within a type: priority, then fair between patients, then age.
create function chartloom.claim_jobs(
    p_worker_id text,
    p_job_types text[],
    p_limit integer,
    p_lease_seconds integer default 60
) returns table (
    job_id bigint,
    job_type text,
    payload jsonb,
    lease_token uuid,
    attempt integer,
    scheduled_at timestamptz,
    run_deadline_at timestamptz,
    traceparent text,
    shell_file_id uuid
)
language plpgsql volatile security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := chartloom.clock();
    v_name text;
    v_type chartloom.job_types;
    v_head chartloom.queue_heads;
    v_room integer := p_limit;
    v_places integer;
    v_picked tid[];
    v_last_tag bigint;
    v_began timestamptz;
    v_scan_seconds double precision;
    v_shell_file_ids uuid[];
    v_known smallint[];
    v_whole boolean;
begin
    if coalesce(p_limit not between 1 and 1000 or p_lease_seconds not between 1 and 3600, true) then
        raise exception 'limit must be between 1 and 1000, lease between 1 and 3600 seconds' using errcode = 'CL005';
    end if;
    perform chartloom.commit_without_waiting();
    perform chartloom.assert_may_work(p_job_types);
    if exists (
        select from chartloom.job_queue
        where not is_ready and status in ('pending', 'failed') and scheduled_at <= v_now
    ) then
        perform chartloom.promote_due_jobs();
    end if;
    -- Claimers of a capped type take turns, else two would count the same free place: in one order, whatever theirs is.
    perform from chartloom.job_types as t
    where t.job_type = any(p_job_types) and (t.max_processing is not null or t.max_processing_per_key is not null)
    order by t.job_type for no key update;
    foreach v_name in array p_job_types loop
        exit when v_room = 0;
        select * into v_type from chartloom.job_types where job_type = v_name;
        v_places := chartloom.free_places(v_type, v_room);
        continue when v_places = 0;
        v_known := '{}';
        v_scan_seconds := 0;
        loop
            select * into v_head from chartloom.queue_heads
            where job_type = v_name and priority <> all(v_known) order by priority desc limit 1;
            if not found then
                -- Came short: is there a priority that nobody has met yet? Not at every claim where it takes long to look.
                exit when v_scan_seconds > 0.01 or not chartloom.ensure_heads(v_name);
                continue;
            end if;
            v_known := v_known || v_head.priority;
            v_scan_seconds := greatest(v_scan_seconds, v_head.scan_seconds);
            -- Once a second somebody reads from the very start: a job may have been committed late, with an old tag.
            v_whole := v_head.scanned_at <= v_now - make_interval(secs => greatest(1, 50 * v_head.scan_seconds));
            v_began := clock_timestamp();
            select * into v_picked, v_shell_file_ids, v_last_tag from chartloom.pick_jobs(
                v_type, v_head.priority, case when v_whole then 0 else v_head.head_tag end, v_places
            );
            if v_picked is not null then
                v_places := v_places - cardinality(v_picked);
                v_room := v_room - cardinality(v_picked);
                if v_shell_file_ids is not null then
                    update public.shell_files set status = 'processing'
                    where id = any(v_shell_file_ids) and status = 'queued';
                end if;
                return query
                update chartloom.job_queue as q
                set status = 'processing', is_ready = false, worker_id = p_worker_id,
                    lease_token = gen_random_uuid(), started_at = v_now, heartbeat_at = v_now, progress = null,
                    lease_expires_at = v_now + make_interval(secs => p_lease_seconds),
                    run_deadline_at = v_now + make_interval(secs => v_type.max_run_seconds)
                where q.ctid = any(v_picked)
                returning q.id, q.job_type, q.payload, q.lease_token, q.retry_count + 1, q.scheduled_at,
                    q.run_deadline_at, q.traceparent, q.shell_file_id;
            end if;
            if v_whole then
                perform chartloom.ensure_heads(v_name);
            end if;
            if v_whole or v_head.advanced_at <= v_now - interval '1 second' then
                perform chartloom.advance_head(
                    v_head, v_now, v_last_tag,
                    case when v_whole then extract(epoch from clock_timestamp() - v_began)::double precision end
                );
            end if;
            exit when v_places = 0;
        end loop;
    end loop;
end
$$;

-- A row for each priority that waits, found by skipping from one to the next in the ready index. Claims make them, not
-- enqueues: an enqueue that is long in committing would hold up every other.
create function chartloom.ensure_heads(p_job_type text) returns boolean
language plpgsql volatile
set search_path = ''
as $$
begin
    -- One at a time, and nobody waits: two that make the same rows in another order would wait for one another.
    if not pg_try_advisory_xact_lock(hashtext('chartloom queue_heads')) then
        return false;
    end if;
    insert into chartloom.queue_heads (job_type, priority)
    with recursive priorities as (
        (
            select priority from chartloom.job_queue where is_ready and job_type = p_job_type
            order by priority limit 1
        )
        union all
        select (
            select q.priority from chartloom.job_queue as q
            where q.is_ready and q.job_type = p_job_type and q.priority > p.priority
            order by q.priority limit 1
        )
        from priorities as p where p.priority is not null
    )
    select p_job_type, priority from priorities where priority is not null
    on conflict do nothing;
    return found;
end
$$;

-- Moves the head up to the smallest tag that still waits; with none waiting, to the last that was claimed.
create function chartloom.advance_head(
    p_head chartloom.queue_heads, p_now timestamptz, p_last_tag bigint, p_scan_seconds double precision
) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_tag bigint;
begin
    -- One process a second does this; whoever comes second has nothing to wait for.
    perform from chartloom.queue_heads
    where job_type = p_head.job_type and priority = p_head.priority and advanced_at = p_head.advanced_at
    for update skip locked;
    if not found then
        return;
    end if;
    select fair_tag into v_tag from chartloom.job_queue
    where is_ready and job_type = p_head.job_type and priority = p_head.priority and fair_tag >= p_head.head_tag
    order by fair_tag limit 1;
    update chartloom.queue_heads
    set advanced_at = p_now, head_tag = greatest(head_tag, coalesce(v_tag, p_last_tag)),
        scanned_at = case when p_scan_seconds is null then scanned_at else p_now end,
        scan_seconds = coalesce(p_scan_seconds, scan_seconds)
    where job_type = p_head.job_type and priority = p_head.priority;
end
$$;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
