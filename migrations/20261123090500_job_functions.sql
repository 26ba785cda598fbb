-- The job contract. No role may write job_queue; these functions are the only way, and the one place that knows the legal
-- transitions (docs/job-contract.md has them as a figure):
--
--   pending ─claim→ processing ─complete→ completed
--      ▲  ▲            ├─fail, transient→ failed ─due→ pending
--      │  └─release────┤
--      └─lease expired─┴─fail, terminal or spent→ dead_letter ─redrive→ pending
--   pending | failed | processing ─cancel→ cancelled
--
-- Completed and cancelled jobs move to job_archive in the same transaction.
--
-- Errors of their own: CL001 lease lost · CL002 job cancelled · CL003 unknown job type or category · CL004 payload refused
-- · CL005 argument out of range · CL006 not allowed to this role · CL007 no such document, upload or job.

-- ── enqueue ───────────────────────────────────────────────────────────────────────────────────────────────────────────

create function chartloom.validate_payload(p_job_type text, p_schema jsonb, p_payload jsonb) returns void
language plpgsql immutable
set search_path = ''
as $$
declare
    v_field text;
    v_type text;
    v_value jsonb;
    v_valid boolean;
begin
    if p_payload is null or jsonb_typeof(p_payload) <> 'object' then
        raise exception 'payload of %: must be a JSON object', p_job_type using errcode = 'CL004';
    end if;
    -- Every type takes a no-op, so that an operator can prove the contract without touching a document.
    if p_payload = '{"noop": true}' then
        return;
    end if;
    for v_field, v_type in select * from jsonb_each_text(p_schema) loop
        v_value := p_payload -> v_field;
        if v_value is null then
            raise exception 'payload of %: field "%" is missing', p_job_type, v_field using errcode = 'CL004';
        end if;
        v_valid := case v_type
            when 'uuid' then
                jsonb_typeof(v_value) = 'string'
                and (v_value #>> '{}') ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
            when 'text' then jsonb_typeof(v_value) = 'string'
            when 'integer' then jsonb_typeof(v_value) = 'number' and (v_value #>> '{}') ~ '^-?[0-9]{1,15}$'
            when 'boolean' then jsonb_typeof(v_value) = 'boolean'
        end;
        if v_valid is distinct from true then
            raise exception 'payload of %: field "%" must be of type %', p_job_type, v_field, v_type
                using errcode = 'CL004';
        end if;
    end loop;
    select key into v_field from jsonb_object_keys(p_payload) as key where not p_schema ? key limit 1;
    if found then
        raise exception 'payload of %: field "%" is not known', p_job_type, v_field using errcode = 'CL004';
    end if;
end
$$;

-- Wakes whoever sleeps: at most one worker a job, and every observer (console, sweeper) once until it has looked.
-- With nobody asleep this is one probe of an empty index and no NOTIFY: a NOTIFY in a writing transaction serialises every
-- commit of the cluster (20,040 → 5,469 commits/s, measured). The race that is left (this reads "awake", the worker falls
-- asleep, then this commits) is bounded by the worker's poll.
create function chartloom.wake(p_job_type text, p_jobs integer) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_woken integer;
begin
    if not exists (select from chartloom.sleepers where topic in (p_job_type, 'changes')) then
        return;
    end if;
    -- SKIP LOCKED: a sleeper that another transaction is waking right now is not worth waiting for.
    with workers as (
        select topic, channel from chartloom.sleepers where topic = p_job_type limit p_jobs for update skip locked
    ),
    observers as (
        select topic, channel from chartloom.sleepers where topic = 'changes' for update skip locked
    ),
    woken as (
        delete from chartloom.sleepers as s
        using (select * from workers union all select * from observers) as picked
        where s.topic = picked.topic and s.channel = picked.channel
        returning s.channel
    )
    select count(pg_notify(channel, '')) into v_woken from woken;
end
$$;

-- Start-time fair queueing: a patient's next job starts where their last one ends, or now, which is the virtual time at the
-- head of the queue. So 500 jobs of one patient line up behind one another, not before everybody else.
create function chartloom.next_fair_tag(p_job_type text, p_priority smallint, p_fairness_key text) returns bigint
language plpgsql volatile
set search_path = ''
as $$
declare
    v_head bigint;
    v_last bigint;
begin
    select head_tag into v_head from chartloom.queue_heads where job_type = p_job_type and priority = p_priority;
    v_head := coalesce(v_head, 0);
    select fair_tag into v_last from chartloom.job_queue
    where is_ready and job_type = p_job_type and priority = p_priority and fairness_key = p_fairness_key
        and fair_tag >= v_head
    order by fair_tag desc limit 1;
    return coalesce(v_last + 1, v_head);
end
$$;

-- The one way into job_queue for a single job. Its callers have checked the payload.
create function chartloom.insert_job(
    p_type chartloom.job_types,
    p_payload jsonb,
    p_priority smallint,
    p_scheduled_at timestamptz,
    p_idempotency_key text,
    p_fairness_key text,
    p_traceparent text,
    p_max_retries integer,
    p_shell_file_id uuid,
    p_patient_id uuid
) returns bigint
language plpgsql volatile
set search_path = ''
as $$
declare
    v_now constant timestamptz := chartloom.clock();
    v_ready constant boolean := coalesce(p_scheduled_at <= v_now, true);
    v_fairness_key constant text := coalesce(p_fairness_key, p_patient_id::text, '');
    v_id bigint;
begin
    insert into chartloom.job_queue (
        job_type, job_category, payload, is_ready, priority, fairness_key, fair_tag, scheduled_at, created_at,
        max_retries, backoff_base_seconds, backoff_cap_seconds, idempotency_key, traceparent, shell_file_id, patient_id
    )
    values (
        p_type.job_type, p_type.job_category, p_payload, v_ready, p_priority, v_fairness_key,
        case when v_ready then chartloom.next_fair_tag(p_type.job_type, p_priority, v_fairness_key) else 0 end,
        coalesce(p_scheduled_at, v_now), v_now,
        coalesce(p_max_retries, p_type.max_retries), p_type.backoff_base_seconds, p_type.backoff_cap_seconds,
        p_idempotency_key, coalesce(p_traceparent, chartloom.new_traceparent()), p_shell_file_id, p_patient_id
    )
    returning id into v_id;
    if v_ready then
        perform chartloom.wake(p_type.job_type, 1);
    end if;
    return v_id;
end
$$;

create function chartloom.enqueue_job_v3(
    p_job_type text,
    p_job_category text,
    p_payload jsonb,
    p_priority integer default 0,
    p_scheduled_at timestamptz default null,
    p_idempotency_key text default null,
    p_fairness_key text default null,
    p_traceparent text default null,
    p_max_retries integer default null
) returns bigint
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_type chartloom.job_types;
    v_shell_file_id uuid;
    v_patient_id uuid;
    v_id bigint;
begin
    select * into v_type from chartloom.job_types where job_type = p_job_type;
    if not found then
        raise exception 'job_type "%" is not known', p_job_type
            using errcode = 'CL003', hint = 'select job_type from chartloom.job_types lists those that are.';
    end if;
    if p_job_category is distinct from v_type.job_category then
        raise exception 'job_category "%" does not fit: jobs of type "%" are "%"',
            p_job_category, p_job_type, v_type.job_category using errcode = 'CL003';
    end if;
    if p_priority is null or p_priority not between -100 and 100 then
        raise exception 'priority must be between -100 and 100' using errcode = 'CL005';
    end if;
    if p_max_retries not between 0 and 100 then
        raise exception 'max_retries must be between 0 and 100' using errcode = 'CL005';
    end if;
    if length(p_idempotency_key) not between 1 and 200 then
        raise exception 'idempotency_key must have 1 to 200 characters' using errcode = 'CL005';
    end if;
    if not chartloom.is_traceparent(p_traceparent) then
        raise exception 'traceparent must be a W3C trace context of version 00' using errcode = 'CL005';
    end if;
    perform chartloom.validate_payload(p_job_type, v_type.payload_schema, p_payload);

    if p_idempotency_key is not null then
        select job_id into v_id from chartloom.idempotency_keys where idempotency_key = p_idempotency_key;
        if found then
            return v_id;
        end if;
    end if;
    if p_payload ? 'shell_file_id' then
        v_shell_file_id := (p_payload ->> 'shell_file_id')::uuid;
        select patient_id into v_patient_id from public.shell_files where id = v_shell_file_id;
        if not found then
            raise exception 'payload of %: shell_file_id names no document', p_job_type using errcode = 'CL007';
        end if;
        if not exists (
            select from chartloom.document_runs
            where id = (p_payload ->> 'run_id')::uuid and shell_file_id = v_shell_file_id
        ) then
            raise exception 'payload of %: run_id names no run of this document', p_job_type using errcode = 'CL007';
        end if;
    end if;

    v_id := chartloom.insert_job(
        v_type, p_payload, p_priority::smallint, p_scheduled_at, p_idempotency_key, p_fairness_key,
        p_traceparent, p_max_retries, v_shell_file_id, v_patient_id
    );
    if p_idempotency_key is not null then
        insert into chartloom.idempotency_keys (idempotency_key, job_id) values (p_idempotency_key, v_id)
        on conflict (idempotency_key) do nothing;
        if not found then
            -- Another caller with the same key committed in between: theirs stands, ours never was.
            delete from chartloom.job_queue where id = v_id;
            select job_id into v_id from chartloom.idempotency_keys where idempotency_key = p_idempotency_key;
        end if;
    end if;
    return v_id;
end
$$;

-- ── claim ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- What waited for a retry or for its time, and is due, becomes ready. Any worker does this as part of its claim.
create function chartloom.promote_due_jobs(p_limit integer default 100) returns integer
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_job record;
    v_count integer := 0;
begin
    for v_job in
        select id, job_type, priority, fairness_key from chartloom.job_queue
        where not is_ready and status in ('pending', 'failed') and scheduled_at <= chartloom.clock()
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

-- How many jobs of a capped type may still start. Locks the type: claimers of a capped type take turns, else two would count
-- the same free place. What counts is live leases, not rows in `processing`: a dead worker's place is free when its lease ends.
create function chartloom.free_places(p_type chartloom.job_types, p_wanted integer) returns integer
language plpgsql volatile
set search_path = ''
as $$
declare
    v_live integer;
begin
    if p_type.max_processing is null and p_type.max_processing_per_key is null then
        return p_wanted;
    end if;
    perform from chartloom.job_types where job_type = p_type.job_type for no key update;
    if p_type.max_processing is null then
        return p_wanted;
    end if;
    select count(*) into v_live from chartloom.job_queue
    where job_type = p_type.job_type and status = 'processing' and lease_expires_at > chartloom.clock();
    return greatest(least(p_wanted, p_type.max_processing - v_live), 0);
end
$$;

-- The next jobs of one type and priority, locked. With a cap per key it looks at a bounded number from the head of the queue;
-- fair queueing has put the other keys there.
create function chartloom.pick_jobs(p_type chartloom.job_types, p_priority smallint, p_from_tag bigint, p_limit integer)
returns bigint[]
language plpgsql volatile
set search_path = ''
as $$
declare
    v_ids bigint[];
begin
    if p_type.max_processing_per_key is null then
        select array_agg(picked.id) into v_ids from (
            select q.id from chartloom.job_queue as q
            where q.is_ready and q.job_type = p_type.job_type and q.priority = p_priority and q.fair_tag >= p_from_tag
            order by q.fair_tag, q.id
            limit p_limit for update skip locked
        ) as picked;
        return v_ids;
    end if;
    select array_agg(picked.id) into v_ids from (
        select q.id from chartloom.job_queue as q
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
    return v_ids;
end
$$;

-- Claims up to p_limit jobs, the types in the order given. Within a type: priority, then fair between patients, then age.
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
as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := chartloom.clock();
    v_name text;
    v_type chartloom.job_types;
    v_head chartloom.queue_heads;
    v_room integer := p_limit;
    v_places integer;
    v_ids bigint[];
    v_known smallint[];
    v_whole boolean;
begin
    if coalesce(p_limit not between 1 and 1000 or p_lease_seconds not between 1 and 3600, true) then
        raise exception 'limit must be between 1 and 1000, lease between 1 and 3600 seconds' using errcode = 'CL005';
    end if;
    perform chartloom.assert_may_work(p_job_types);
    if exists (
        select from chartloom.job_queue
        where not is_ready and status in ('pending', 'failed') and scheduled_at <= v_now
    ) then
        perform chartloom.promote_due_jobs();
    end if;
    foreach v_name in array p_job_types loop
        exit when v_room = 0;
        select * into v_type from chartloom.job_types where job_type = v_name;
        v_places := chartloom.free_places(v_type, v_room);
        continue when v_places = 0;
        v_known := '{}';
        loop
            select * into v_head from chartloom.queue_heads
            where job_type = v_name and priority <> all(v_known) order by priority desc limit 1;
            if not found then
                -- Came short: is there a priority that nobody has met yet?
                exit when not chartloom.ensure_heads(v_name);
                continue;
            end if;
            v_known := v_known || v_head.priority;
            -- Once a second somebody reads from the very start: a job may have been committed late, with an old tag.
            v_whole := v_head.scanned_at <= v_now - interval '1 second';
            v_ids := chartloom.pick_jobs(
                v_type, v_head.priority, case when v_whole then 0 else v_head.head_tag end, v_places
            );
            if v_ids is not null then
                v_places := v_places - cardinality(v_ids);
                v_room := v_room - cardinality(v_ids);
                return query
                with claimed as (
                    update chartloom.job_queue as q
                    set status = 'processing', is_ready = false, worker_id = p_worker_id,
                        lease_token = gen_random_uuid(), started_at = v_now, heartbeat_at = v_now,
                        lease_expires_at = v_now + make_interval(secs => p_lease_seconds),
                        run_deadline_at = v_now + make_interval(secs => v_type.max_run_seconds)
                    where q.id = any(v_ids)
                    returning q.*
                ),
                opened as (
                    update public.shell_files as f set status = 'processing'
                    from claimed as c where f.id = c.shell_file_id and f.status = 'queued'
                )
                select c.id, c.job_type, c.payload, c.lease_token, c.retry_count + 1, c.scheduled_at,
                    c.run_deadline_at, c.traceparent, c.shell_file_id
                from claimed as c;
            end if;
            if v_whole then
                perform chartloom.advance_head(v_head, v_now);
                -- Also while there is more than enough to do: a new, higher priority must not wait for a short claim.
                perform chartloom.ensure_heads(v_name);
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

-- Moves the head up to the smallest tag that still waits; with none waiting, to the largest that is being worked on.
create function chartloom.advance_head(p_head chartloom.queue_heads, p_now timestamptz) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_tag bigint;
begin
    -- One process a second does this; whoever comes second has nothing to wait for.
    perform from chartloom.queue_heads
    where job_type = p_head.job_type and priority = p_head.priority and scanned_at = p_head.scanned_at
    for update skip locked;
    if not found then
        return;
    end if;
    select fair_tag into v_tag from chartloom.job_queue
    where is_ready and job_type = p_head.job_type and priority = p_head.priority
    order by fair_tag limit 1;
    if not found then
        select max(fair_tag) into v_tag from chartloom.job_queue
        where job_type = p_head.job_type and status = 'processing' and priority = p_head.priority;
    end if;
    update chartloom.queue_heads
    set scanned_at = p_now, head_tag = greatest(head_tag, coalesce(v_tag, head_tag))
    where job_type = p_head.job_type and priority = p_head.priority;
end
$$;

-- ── while it runs ─────────────────────────────────────────────────────────────────────────────────────────────────────

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
    p_details jsonb default '{}'
) returns table (job_id bigint, lease_token uuid, state text)
language plpgsql volatile security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := chartloom.clock();
begin
    insert into chartloom.workers as w (worker_id, service, version, started_at, heartbeat_at, details)
    values (p_worker_id, p_service, p_version, v_now, v_now, p_details)
    on conflict (worker_id) do update set heartbeat_at = v_now, details = excluded.details;

    return query
    with held as (
        select * from unnest(p_job_ids, p_lease_tokens) as h (id, token)
    ),
    locked as (
        -- A row that is locked is being settled, swept or cancelled at this moment: waiting for it could close a circle.
        select q.id from chartloom.job_queue as q
        where q.id = any(p_job_ids) and q.lease_token = any(p_lease_tokens)
        for no key update of q skip locked
    ),
    renewed as (
        update chartloom.job_queue as q
        set heartbeat_at = v_now,
            lease_expires_at = least(v_now + make_interval(secs => p_lease_seconds), q.run_deadline_at)
        from locked where q.id = locked.id
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
    left join chartloom.job_queue as q on q.id = h.id
    left join chartloom.job_archive as a on a.id = h.id and q.id is null;
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

-- ── the five ends of an attempt ───────────────────────────────────────────────────────────────────────────────────────

-- Everything that a finished job leaves behind, beside itself: the next steps, the join of its group, its document's status.
create function chartloom.follow_up(p_job chartloom.job_queue, p_traceparent text)
returns table (job_id bigint, job_type text)
language plpgsql volatile
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_next chartloom.job_types;
    v_group chartloom.job_groups;
    v_is_last boolean := true;
begin
    if p_job.payload = '{"noop": true}' then
        perform chartloom.wake('changes', 0);
        return;
    end if;
    if p_job.group_id is not null then
        -- The row lock orders the children: exactly one of them sees zero.
        update chartloom.job_groups set remaining = remaining - 1 where id = p_job.group_id returning * into v_group;
        v_is_last := false;
        if v_group.remaining = 0 then
            select * into v_next from chartloom.job_types where job_type = v_group.join_job_type;
            job_type := v_next.job_type;
            job_id := chartloom.insert_job(
                v_next, v_group.join_payload, p_job.priority, null, null, p_job.fairness_key,
                coalesce(p_traceparent, p_job.traceparent), null, p_job.shell_file_id, p_job.patient_id
            );
            return next;
        end if;
    end if;
    for v_next in
        select t.* from chartloom.pipeline_steps as s
        join chartloom.job_types as t on t.job_type = s.next_job_type
        where s.after_job_type = p_job.job_type
        order by t.job_type
    loop
        v_is_last := false;
        job_type := v_next.job_type;
        job_id := chartloom.insert_job(
            v_next, p_job.payload, p_job.priority, null, null, p_job.fairness_key,
            coalesce(p_traceparent, p_job.traceparent), null, p_job.shell_file_id, p_job.patient_id
        );
        return next;
    end loop;
    if v_is_last and p_job.shell_file_id is not null then
        update public.shell_files set status = 'completed', completed_at = chartloom.clock(), processing_error = null
        where id = p_job.shell_file_id and current_run_id = (p_job.payload ->> 'run_id')::uuid;
    end if;
    if job_id is null then
        -- Nothing was enqueued whose wake-up observers would share.
        perform chartloom.wake('changes', 0);
    end if;
end
$$;

-- Moves a job out of the hot table.
create function chartloom.archive_job(p_job chartloom.job_queue, p_status text, p_result jsonb) returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    insert into chartloom.job_archive (
        id, job_type, job_category, payload, status, priority, fairness_key, scheduled_at, created_at, started_at,
        completed_at, retry_count, max_retries, lease_losses, worker_id, result, error, idempotency_key, traceparent,
        shell_file_id, patient_id, group_id
    )
    values (
        p_job.id, p_job.job_type, p_job.job_category, p_job.payload, p_status, p_job.priority, p_job.fairness_key,
        p_job.scheduled_at, p_job.created_at, p_job.started_at, chartloom.clock(), p_job.retry_count,
        p_job.max_retries, p_job.lease_losses, p_job.worker_id, p_result, null, p_job.idempotency_key,
        p_job.traceparent, p_job.shell_file_id, p_job.patient_id, p_job.group_id
    );
end
$$;

-- Completes a job and enqueues what follows it. Call it in the transaction that wrote the result.
create function chartloom.complete_job(
    p_job_id bigint,
    p_lease_token uuid,
    p_result jsonb default null,
    p_traceparent text default null
) returns table (job_id bigint, job_type text)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_job chartloom.job_queue;
begin
    delete from chartloom.job_queue where id = p_job_id and lease_token = p_lease_token returning * into v_job;
    if not found then
        perform chartloom.refuse_lease(p_job_id);
    end if;
    perform chartloom.archive_job(v_job, 'completed', p_result);
    return query select * from chartloom.follow_up(v_job, p_traceparent);
end
$$;

-- Completes many at once, each by its own lease: for jobs whose result is all in p_results (a JSON array, in the order of the
-- ids). One that was lost or cancelled is told so and does not hinder the others.
create function chartloom.complete_jobs(p_job_ids bigint[], p_lease_tokens uuid[], p_results jsonb default null)
returns table (job_id bigint, state text)
language plpgsql volatile security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := chartloom.clock();
    v_done bigint[];
    v_followed chartloom.job_queue[];
    v_job chartloom.job_queue;
begin
    with gone as (
        -- id = any(…) reads the primary key in order, so two batches meet in the same order.
        delete from chartloom.job_queue as q
        where q.id = any(p_job_ids) and q.lease_token = any(p_lease_tokens)
        returning q as job, q.id, q.payload
    ),
    kept as (
        insert into chartloom.job_archive (
            id, job_type, job_category, payload, status, priority, fairness_key, scheduled_at, created_at, started_at,
            completed_at, retry_count, max_retries, lease_losses, worker_id, result, idempotency_key, traceparent,
            shell_file_id, patient_id, group_id
        )
        select (g.job).id, (g.job).job_type, (g.job).job_category, (g.job).payload, 'completed', (g.job).priority,
            (g.job).fairness_key, (g.job).scheduled_at, (g.job).created_at, (g.job).started_at, v_now,
            (g.job).retry_count, (g.job).max_retries, (g.job).lease_losses, (g.job).worker_id,
            p_results -> (array_position(p_job_ids, (g.job).id) - 1), (g.job).idempotency_key, (g.job).traceparent,
            (g.job).shell_file_id, (g.job).patient_id, (g.job).group_id
        from gone as g
    )
    select array_agg(g.id), array_agg(g.job) filter (where g.payload <> '{"noop": true}') into v_done, v_followed
    from gone as g;
    foreach v_job in array coalesce(v_followed, '{}') loop
        perform chartloom.follow_up(v_job, null);
    end loop;
    perform chartloom.wake('changes', 0);
    if cardinality(v_done) = cardinality(p_job_ids) then
        return;
    end if;
    return query
    select missing.id,
        case
            when exists (select from chartloom.job_archive as a where a.id = missing.id and a.status = 'cancelled')
                then 'cancelled'
            else 'lost'
        end
    from unnest(p_job_ids) as missing (id)
    where missing.id <> all(coalesce(v_done, '{}'));
end
$$;

-- Completes a job by handing its work to children, and enqueues the join when the last of them is done: exactly once, also
-- when they finish at the same moment. A child that ends as a dead letter holds the join back until it is redriven.
create function chartloom.fan_out_job(
    p_job_id bigint,
    p_lease_token uuid,
    p_child_job_type text,
    p_child_payloads jsonb,
    p_join_job_type text,
    p_result jsonb default null,
    p_traceparent text default null
) returns setof bigint
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_job chartloom.job_queue;
    v_child chartloom.job_types;
    v_join chartloom.job_types;
    v_group_id bigint;
    v_payload jsonb;
    v_id bigint;
begin
    select * into v_child from chartloom.job_types where job_type = p_child_job_type;
    if not found then
        raise exception 'child_job_type "%" is not known', p_child_job_type using errcode = 'CL003';
    end if;
    select * into v_join from chartloom.job_types where job_type = p_join_job_type;
    if not found then
        raise exception 'join_job_type "%" is not known', p_join_job_type using errcode = 'CL003';
    end if;
    if jsonb_typeof(p_child_payloads) is distinct from 'array'
        or jsonb_array_length(p_child_payloads) not between 1 and 10000 then
        raise exception 'child_payloads must be an array of 1 to 10000 payloads' using errcode = 'CL005';
    end if;
    delete from chartloom.job_queue where id = p_job_id and lease_token = p_lease_token returning * into v_job;
    if not found then
        perform chartloom.refuse_lease(p_job_id);
    end if;
    perform chartloom.archive_job(v_job, 'completed', p_result);
    insert into chartloom.job_groups (parent_job_id, join_job_type, join_payload, remaining, created_at)
    values (p_job_id, p_join_job_type, v_job.payload, jsonb_array_length(p_child_payloads), chartloom.clock())
    returning id into v_group_id;
    for v_payload in select * from jsonb_array_elements(p_child_payloads) loop
        perform chartloom.validate_payload(p_child_job_type, v_child.payload_schema, v_payload);
        v_id := chartloom.insert_job(
            v_child, v_payload, v_job.priority, null, null, v_job.fairness_key,
            coalesce(p_traceparent, v_job.traceparent), null, v_job.shell_file_id, v_job.patient_id
        );
        update chartloom.job_queue set group_id = v_group_id where id = v_id;
        return next v_id;
    end loop;
end
$$;

-- Ends an attempt in error. Transient errors wait for a retry (exponential, full jitter, by the row's own policy) until
-- retries are spent; terminal ones, and the last, go to dead letter, and a document's owner is told.
-- Returns the new status: failed or dead_letter.
create function chartloom.fail_job(
    p_job_id bigint,
    p_lease_token uuid,
    p_code text,
    p_message text,
    p_is_transient boolean
) returns text
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_job chartloom.job_queue := chartloom.hold_lease(p_job_id, p_lease_token);
    v_retries constant boolean := p_is_transient and v_job.retry_count < v_job.max_retries;
begin
    perform chartloom.record_error(
        v_job, case when p_is_transient then 'transient' else 'terminal' end, p_code, p_message
    );
    if v_retries then
        update chartloom.job_queue
        set status = 'failed', retry_count = retry_count + 1,
            error = jsonb_build_object('code', p_code, 'message', p_message),
            -- The exponent is bounded before power() can overflow; the cap bounds the rest.
            scheduled_at = chartloom.clock() + make_interval(
                secs => random() * least(backoff_cap_seconds, backoff_base_seconds * power(2, least(retry_count, 30)))
            ),
            lease_token = null, lease_expires_at = null, run_deadline_at = null
        where id = p_job_id;
        perform chartloom.wake('changes', 0);
        return 'failed';
    end if;
    perform chartloom.bury_job(v_job, p_code, p_message);
    return 'dead_letter';
end
$$;

create function chartloom.bury_job(p_job chartloom.job_queue, p_code text, p_message text) returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    update chartloom.job_queue
    set status = 'dead_letter', is_ready = false, completed_at = chartloom.clock(),
        error = jsonb_build_object('code', p_code, 'message', p_message),
        lease_token = null, lease_expires_at = null, run_deadline_at = null
    where id = p_job.id;
    update public.shell_files
    set status = 'failed',
        processing_error = jsonb_build_object('code', p_code, 'message', p_message, 'stage', p_job.job_type)
    where id = p_job.shell_file_id and current_run_id = (p_job.payload ->> 'run_id')::uuid;
    perform chartloom.wake('changes', 0);
end
$$;

-- Hands a job back without spending an attempt: at a shutdown (no delay), or because the other side asked for patience.
create function chartloom.release_job(
    p_job_id bigint,
    p_lease_token uuid,
    p_delay_seconds double precision default 0,
    p_code text default 'released',
    p_message text default 'Handed back.'
) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_job chartloom.job_queue := chartloom.hold_lease(p_job_id, p_lease_token);
    v_now constant timestamptz := chartloom.clock();
begin
    if p_delay_seconds is null or p_delay_seconds not between 0 and 86400 then
        raise exception 'delay_seconds must be between 0 and 86400' using errcode = 'CL005';
    end if;
    if p_delay_seconds > 0 then
        perform chartloom.record_error(v_job, 'snoozed', p_code, p_message);
        if v_job.created_at + make_interval(secs => (
            select max_age_seconds from chartloom.job_types where job_type = v_job.job_type
        )) < v_now then
            perform chartloom.bury_job(v_job, 'put_off_too_long', 'It was put off until its time ran out: ' || p_message);
            return;
        end if;
    end if;
    update chartloom.job_queue
    set status = 'pending', is_ready = p_delay_seconds = 0,
        scheduled_at = v_now + make_interval(secs => p_delay_seconds),
        fair_tag = chartloom.next_fair_tag(job_type, priority, fairness_key),
        lease_token = null, lease_expires_at = null, run_deadline_at = null
    where id = p_job_id;
    perform chartloom.wake(v_job.job_type, 1);
end
$$;

-- Takes jobs from workers that stopped renewing them. Any process may call it, any number at once; none waits for another.
create function chartloom.sweep_expired_leases(p_limit integer default 100)
returns table (job_id bigint, job_type text, worker_id text, new_status text, overdue_seconds double precision)
language plpgsql volatile security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := chartloom.clock();
    v_job chartloom.job_queue;
begin
    for v_job in
        select * from chartloom.job_queue
        where status = 'processing' and lease_expires_at <= v_now
        order by id limit p_limit for update skip locked
    loop
        perform chartloom.record_error(
            v_job, 'lease_lost', 'lease_expired', 'The worker stopped renewing its lease: killed, paused or cut off.'
        );
        if v_job.lease_losses >= (
            select max_lease_losses from chartloom.job_types as t where t.job_type = v_job.job_type
        ) then
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

-- Ends every live job of a document, dead letters included. Again and again: while it waited for a job that was completing,
-- that job's successor came to be, which the statement could not see.
create function chartloom.cancel_live_jobs(p_shell_file_id uuid) returns integer
language plpgsql volatile
set search_path = ''
as $$
declare
    v_job chartloom.job_queue;
    v_count integer := 0;
begin
    while exists (select from chartloom.job_queue where shell_file_id = p_shell_file_id) loop
        for v_job in
            select * from chartloom.job_queue where shell_file_id = p_shell_file_id order by id for update
        loop
            perform chartloom.record_error(v_job, 'cancelled', 'document_cancelled', 'The document was cancelled.');
            perform chartloom.archive_job(v_job, 'cancelled', null);
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

-- ── sleeping and watching ─────────────────────────────────────────────────────────────────────────────────────────────

-- Opens the gate of a process that is about to sleep. Look once more after this commits: what came before it was not
-- announced. False if it was open already. topics: job types, or 'changes' for an observer.
create function chartloom.fall_asleep(p_channel text, p_topics text[]) returns boolean
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    insert into chartloom.sleepers (topic, channel)
    select topic, p_channel from unnest(p_topics) as topic
    where topic = 'changes' or topic in (select job_type from chartloom.job_types)
    on conflict do nothing;
    return found;
end
$$;

create function chartloom.wake_up(p_channel text) returns void
language sql volatile security definer
set search_path = ''
as $$ delete from chartloom.sleepers where channel = p_channel $$;

create function chartloom.forget_worker(p_worker_id text, p_channel text) returns void
language sql volatile security definer
set search_path = ''
as $$
    delete from chartloom.sleepers where channel = p_channel;
    delete from chartloom.workers where worker_id = p_worker_id
$$;

-- What follows a type, for the name of the span that sends it.
create function chartloom.follow_ups(p_job_types text[]) returns table (after_job_type text, next_job_type text)
language sql stable security definer
set search_path = ''
as $$
    select after_job_type, next_job_type from chartloom.pipeline_steps where after_job_type = any(p_job_types)
$$;

-- When something is due next: the first lease to expire, the first retry. Null when nothing is.
create function chartloom.next_deadline() returns timestamptz
language sql volatile security definer
set search_path = ''
as $$
    select least(
        (select min(lease_expires_at) from chartloom.job_queue where status = 'processing'),
        (
            select scheduled_at from chartloom.job_queue
            where not is_ready and status in ('pending', 'failed') order by scheduled_at limit 1
        )
    )
$$;

create function chartloom.queue_depths()
returns table (job_type text, status text, jobs bigint, oldest_ready_seconds double precision)
language sql volatile security definer
set search_path = ''
as $$
    select job_type, status, count(*),
        extract(epoch from chartloom.clock() - min(scheduled_at) filter (where is_ready))::double precision
    from chartloom.job_queue
    where status in ('pending', 'processing', 'failed', 'dead_letter')
    group by job_type, status
    order by job_type, status
$$;

-- ── who may ───────────────────────────────────────────────────────────────────────────────────────────────────────────

grant execute on function
chartloom.claim_jobs(text, text[], integer, integer),
chartloom.heartbeat_jobs(text, text, text, bigint[], uuid[], integer, jsonb),
chartloom.complete_job(bigint, uuid, jsonb, text),
chartloom.complete_jobs(bigint[], uuid[], jsonb),
chartloom.fan_out_job(bigint, uuid, text, jsonb, text, jsonb, text),
chartloom.fail_job(bigint, uuid, text, text, boolean),
chartloom.release_job(bigint, uuid, double precision, text, text),
chartloom.fall_asleep(text, text[]),
chartloom.wake_up(text),
chartloom.forget_worker(text, text),
chartloom.follow_ups(text[])
to chartloom_worker;

grant execute on function
chartloom.sweep_expired_leases(integer),
chartloom.promote_due_jobs(integer),
chartloom.next_deadline(),
chartloom.queue_depths()
to chartloom_sweeper, chartloom_operator;

grant execute on function
chartloom.enqueue_job_v3(text, text, jsonb, integer, timestamptz, text, text, text, integer),
chartloom.redrive_jobs(bigint[], double precision),
chartloom.cancel_document_jobs(uuid)
to chartloom_operator, service_role;

grant select on chartloom.job_history, chartloom.processing_errors, chartloom.workers, chartloom.job_types,
chartloom.pipeline_steps to chartloom_operator;
create policy operators_read on chartloom.processing_errors for select to chartloom_operator using (true);
create policy operators_read on chartloom.workers for select to chartloom_operator using (true);
create policy operators_read on chartloom.job_types for select to chartloom_operator using (true);
create policy operators_read on chartloom.pipeline_steps for select to chartloom_operator using (true);

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
