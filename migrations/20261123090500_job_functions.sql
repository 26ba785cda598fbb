-- The job contract. No role may write job_queue; these functions are the only way, and the one place that knows the legal
-- transitions (docs/job-contract.md has them as a figure):
--
--   pending ─claim→ processing ─complete→ completed
--      ▲  ▲            ├─fail, transient→ failed ─due→ pending
--      │  └─release────┤
--      └─lease expired─┴─fail, terminal or spent→ dead_letter ─redrive→ pending
--   pending | failed | processing ─cancel→ cancelled
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

-- Start-time fair queueing: a patient's next job starts where their last one ends, or now. "Now" (the virtual time) is the
-- start tag at the head of the queue. So 500 jobs of one patient line up behind one another, not before everybody else.
create function chartloom.next_fair_tag(p_job_type text, p_priority smallint, p_fairness_key text) returns bigint
language sql volatile
set search_path = ''
as $$
    select greatest(
        coalesce((
            select fair_tag from chartloom.job_queue
            where is_ready and job_type = p_job_type and priority = p_priority
            order by fair_tag limit 1
        ), 0),
        coalesce((
            select fair_tag + 1 from chartloom.job_queue
            where is_ready and job_type = p_job_type and priority = p_priority and fairness_key = p_fairness_key
            order by fair_tag desc limit 1
        ), 0)
    )
$$;

-- The one INSERT into job_queue. Its callers have checked the payload.
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
        max_retries, backoff_base_seconds, backoff_cap_seconds, max_lease_losses, max_run_seconds,
        idempotency_key, traceparent, shell_file_id, patient_id
    )
    values (
        p_type.job_type, p_type.job_category, p_payload, v_ready, p_priority, v_fairness_key,
        case when v_ready then chartloom.next_fair_tag(p_type.job_type, p_priority, v_fairness_key) else 0 end,
        coalesce(p_scheduled_at, v_now), v_now,
        coalesce(p_max_retries, p_type.max_retries), p_type.backoff_base_seconds, p_type.backoff_cap_seconds,
        p_type.max_lease_losses, p_type.max_run_seconds,
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
    if p_traceparent !~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' then
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
    v_type text;
    v_room integer := p_limit;
    v_claimed integer;
begin
    if p_limit not between 1 and 1000 or p_lease_seconds not between 1 and 3600 then
        raise exception 'limit must be between 1 and 1000, lease between 1 and 3600 seconds' using errcode = 'CL005';
    end if;
    perform chartloom.assert_may_work(p_job_types);
    if exists (
        select from chartloom.job_queue
        where not is_ready and status in ('pending', 'failed') and scheduled_at <= v_now
    ) then
        perform chartloom.promote_due_jobs();
    end if;
    foreach v_type in array p_job_types loop
        exit when v_room = 0;
        return query
        with picked as materialized (
            select q.id from chartloom.job_queue as q
            where q.is_ready and q.job_type = v_type
            order by q.priority desc, q.fair_tag, q.id
            limit v_room for update skip locked
        ),
        claimed as (
            update chartloom.job_queue as q
            set status = 'processing', is_ready = false, worker_id = p_worker_id,
                lease_token = gen_random_uuid(), started_at = v_now, heartbeat_at = v_now,
                lease_expires_at = v_now + make_interval(secs => p_lease_seconds),
                run_deadline_at = v_now + make_interval(secs => q.max_run_seconds)
            from picked where q.id = picked.id
            returning q.*
        ),
        opened as (
            update public.shell_files as f set status = 'processing'
            from claimed as c where f.id = c.shell_file_id and f.status = 'queued'
        )
        select c.id, c.job_type, c.payload, c.lease_token, c.retry_count + 1, c.scheduled_at, c.run_deadline_at,
            c.traceparent, c.shell_file_id
        from claimed as c;
        get diagnostics v_claimed = row_count;
        v_room := v_room - v_claimed;
    end loop;
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
    if v_job.status = 'cancelled' then
        raise exception 'job % was cancelled', p_job_id using errcode = 'CL002';
    end if;
    if v_job.lease_token is distinct from p_lease_token or p_lease_token is null then
        raise exception 'the lease of job % is lost', p_job_id
            using errcode = 'CL001', hint = 'Stop the work: another attempt has the job, or it is over.';
    end if;
    return v_job;
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
) returns table (job_id bigint, state text)
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
        -- In id order, as the sweep locks: two batches can wait for one another, never in a circle.
        select q.id from chartloom.job_queue as q join held as h on q.id = h.id and q.lease_token = h.token
        order by q.id for no key update of q
    ),
    renewed as (
        update chartloom.job_queue as q
        set heartbeat_at = v_now,
            lease_expires_at = least(v_now + make_interval(secs => p_lease_seconds), q.run_deadline_at)
        from locked join held as h on h.id = locked.id
        where q.id = locked.id and q.lease_token = h.token
        returning q.id, q.run_deadline_at
    )
    select h.id,
        case
            when r.run_deadline_at <= v_now then 'overdue'
            when r.id is not null then 'held'
            when q.status = 'cancelled' then 'cancelled'
            else 'lost'
        end
    from held as h
    left join renewed as r on r.id = h.id
    left join chartloom.job_queue as q on q.id = h.id;
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
#variable_conflict use_column
declare
    v_now constant timestamptz := chartloom.clock();
    v_job chartloom.job_queue;
    v_next chartloom.job_types;
    v_is_noop boolean;
    v_is_last boolean := true;
begin
    update chartloom.job_queue
    set status = 'completed', completed_at = v_now, result = p_result, error = null,
        lease_token = null, lease_expires_at = null, run_deadline_at = null
    where id = p_job_id and lease_token = p_lease_token
    returning * into v_job;
    if not found then
        perform chartloom.hold_lease(p_job_id, p_lease_token);
    end if;
    v_is_noop := v_job.payload = '{"noop": true}';
    if not v_is_noop then
        for v_next in
            select t.* from chartloom.pipeline_steps as s
            join chartloom.job_types as t on t.job_type = s.next_job_type
            where s.after_job_type = v_job.job_type
            order by t.job_type
        loop
            v_is_last := false;
            job_type := v_next.job_type;
            job_id := chartloom.insert_job(
                v_next, v_job.payload, v_job.priority, null, null, v_job.fairness_key,
                coalesce(p_traceparent, v_job.traceparent), null, v_job.shell_file_id, v_job.patient_id
            );
            return next;
        end loop;
        if v_is_last and v_job.shell_file_id is not null then
            update public.shell_files set status = 'completed', completed_at = v_now, processing_error = null
            where id = v_job.shell_file_id;
        end if;
    end if;
    if v_is_noop or v_is_last then
        -- Nothing was enqueued whose wake-up observers would share.
        perform chartloom.wake('changes', 0);
    end if;
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
    where id = p_job.shell_file_id;
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
        if v_job.lease_losses >= v_job.max_lease_losses then
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

-- Cancels what a document still has to do; what runs is told by its next heartbeat and can write nothing more.
create function chartloom.cancel_document_jobs(p_shell_file_id uuid) returns integer
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_job chartloom.job_queue;
    v_count integer := 0;
begin
    for v_job in
        select * from chartloom.job_queue
        where shell_file_id = p_shell_file_id and status in ('pending', 'failed', 'processing')
        order by id for update
    loop
        perform chartloom.record_error(v_job, 'cancelled', 'document_cancelled', 'The document was cancelled.');
        update chartloom.job_queue
        set status = 'cancelled', is_ready = false, completed_at = chartloom.clock(),
            lease_token = null, lease_expires_at = null, run_deadline_at = null
        where id = v_job.id;
        v_count := v_count + 1;
    end loop;
    if v_count > 0 then
        update public.shell_files set status = 'cancelled' where id = p_shell_file_id;
        perform chartloom.wake('changes', 0);
    end if;
    return v_count;
end
$$;

-- Dead letters run again, with all their retries. Ids that are no dead letters are passed over; returns those that were.
create function chartloom.redrive_jobs(p_job_ids bigint[]) returns setof bigint
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_job chartloom.job_queue;
begin
    for v_job in
        select * from chartloom.job_queue
        where id = any(p_job_ids) and status = 'dead_letter'
        order by id for update skip locked
    loop
        update chartloom.job_queue
        set status = 'pending', is_ready = true, completed_at = null, error = null, retry_count = 0, lease_losses = 0,
            scheduled_at = chartloom.clock(),
            fair_tag = chartloom.next_fair_tag(v_job.job_type, v_job.priority, v_job.fairness_key)
        where id = v_job.id;
        update public.shell_files set status = 'processing', processing_error = null
        where id = v_job.shell_file_id and status = 'failed';
        perform chartloom.wake(v_job.job_type, 1);
        return next v_job.id;
    end loop;
end
$$;

-- ── sleeping and watching ─────────────────────────────────────────────────────────────────────────────────────────────

-- Opens the gate of a process that is about to sleep. Look once more after this commits: what came before it was not
-- announced. topics: job types, or 'changes' for an observer.
create function chartloom.fall_asleep(p_channel text, p_topics text[]) returns void
language sql volatile security definer
set search_path = ''
as $$
    insert into chartloom.sleepers (topic, channel)
    select topic, p_channel from unnest(p_topics) as topic
    on conflict do nothing
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
chartloom.redrive_jobs(bigint[]),
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
