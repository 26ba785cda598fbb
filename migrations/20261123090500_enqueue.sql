-- The job contract. No role may write job_queue; the functions of this file and of those up to job_grants are the only way,
-- and they alone know the legal transitions (docs/job-contract.md has them as a figure):
--
--   pending ─claim→ processing ─complete→ completed
--      ▲  ▲            ├─fail, transient→ failed ─due→ pending
--      │  └─release────┤
--      └─lease expired─┴─fail, terminal or spent→ dead_letter ─redrive→ pending
--   pending | failed | processing ─cancel→ cancelled
--
-- Completed and cancelled jobs move to job_archive in the same transaction.
--
-- The functions that every job passes plan once a session (a plan for each call took longer than the statement) and never by
-- a scan of the whole table or of a range of it: a plan that was made while the queue was empty must serve it with a million
-- jobs, too.
--
-- Errors of their own: CL001 lease lost · CL002 job cancelled · CL003 unknown job type or category · CL004 payload refused
-- · CL005 argument out of range · CL006 not allowed to this role · CL007 no such document, upload or job.

create function chartloom.is_of_type(p_value jsonb, p_type text) returns boolean
language plpgsql immutable
set search_path = ''
as $$
begin
    return coalesce(case p_type
        when 'uuid' then
            jsonb_typeof(p_value) = 'string'
            and (p_value #>> '{}') ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
        when 'text' then jsonb_typeof(p_value) = 'string'
        when 'integer' then jsonb_typeof(p_value) = 'number' and (p_value #>> '{}') ~ '^-?[0-9]{1,15}$'
        when 'boolean' then jsonb_typeof(p_value) = 'boolean'
    end, false);
end
$$;

create function chartloom.validate_payload(p_job_type text, p_schema jsonb, p_payload jsonb) returns void
language plpgsql immutable
set search_path = ''
as $$
declare
    v_field text;
    v_type text;
    v_value jsonb;
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
        if not chartloom.is_of_type(v_value, v_type) then
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
    if not exists (select from chartloom.sleepers) then
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
begin
    -- One statement: two took twice the 14 µs.
    return (
        select coalesce(l.fair_tag + 1, h.head_tag)
        from (
            select coalesce((
                select head_tag from chartloom.queue_heads where job_type = p_job_type and priority = p_priority
            ), 0) as head_tag
        ) as h
        left join lateral (
            select q.fair_tag from chartloom.job_queue as q
            where q.is_ready and q.job_type = p_job_type and q.priority = p_priority
                and q.fairness_key = p_fairness_key and q.fair_tag >= h.head_tag
            order by q.fair_tag desc limit 1
        ) as l on true
    );
end
$$;

-- One job into job_queue; its callers have checked what they bring. Kept apart from insert_jobs, which takes twice the time
-- for one.
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

-- Jobs of one type into job_queue, hundreds or thousands in one statement; its callers have checked what they bring. Each array
-- is as long as the payloads, or null. Returns the ids in the order of the payloads.
create function chartloom.insert_jobs(
    p_type chartloom.job_types,
    p_payloads jsonb[],
    p_priority smallint,
    p_scheduled_at timestamptz,
    p_idempotency_keys text[],
    p_fairness_keys text[],
    p_traceparents text[],
    p_max_retries integer,
    p_shell_file_ids uuid[],
    p_patient_ids uuid[],
    p_group_id bigint
) returns bigint[]
language plpgsql volatile
set search_path = ''
as $$
declare
    v_now constant timestamptz := chartloom.clock();
    v_ready constant boolean := coalesce(p_scheduled_at <= v_now, true);
    v_seed constant text := gen_random_uuid();
    v_span constant text := right(chartloom.new_traceparent(), 20);
    v_places integer[];
    v_ids bigint[];
begin
    if p_fairness_keys is not null or p_patient_ids is not null then
        -- Each job's place among those of its line. Where all are of one line, that is their order, and costs nothing.
        select array_agg(l.place order by l.position) into v_places from (
            select u.position, row_number() over (
                partition by coalesce(u.fairness_key, u.patient_id::text) order by u.position
            ) as place
            from unnest(p_fairness_keys, p_patient_ids) with ordinality as u (fairness_key, patient_id, position)
        ) as l;
    end if;
    with new as (
        select nextval('chartloom.job_queue_id_seq') as id, u.payload, u.idempotency_key,
            coalesce(u.fairness_key, u.patient_id::text, '') as fairness_key,
            -- A trace of its own for each, from one random number: a UUID each took 1 µs of a job's 13. A span's id has to be
            -- unique in its trace only.
            coalesce(u.traceparent, '00-' || md5(v_seed || u.position) || v_span) as traceparent,
            u.shell_file_id, u.patient_id, coalesce(u.place, u.position) as place
        from unnest(
            p_payloads, p_idempotency_keys, p_fairness_keys, p_traceparents, p_shell_file_ids, p_patient_ids, v_places
        ) with ordinality
            as u (payload, idempotency_key, fairness_key, traceparent, shell_file_id, patient_id, place, position)
    ),
    lines as (
        select k.fairness_key, chartloom.next_fair_tag(p_type.job_type, p_priority, k.fairness_key) as next_tag
        from (select distinct fairness_key from new where v_ready) as k
    ),
    inserted as (
        insert into chartloom.job_queue (
            id, job_type, job_category, payload, is_ready, priority, fairness_key, fair_tag, scheduled_at, created_at,
            max_retries, backoff_base_seconds, backoff_cap_seconds, idempotency_key, traceparent, shell_file_id,
            patient_id, group_id
        )
        overriding system value
        select n.id, p_type.job_type, p_type.job_category, n.payload, v_ready, p_priority, n.fairness_key,
            coalesce(l.next_tag + n.place - 1, 0),
            coalesce(p_scheduled_at, v_now), v_now, coalesce(p_max_retries, p_type.max_retries),
            p_type.backoff_base_seconds, p_type.backoff_cap_seconds, n.idempotency_key, n.traceparent,
            n.shell_file_id, n.patient_id, p_group_id
        from new as n left join lines as l on l.fairness_key = n.fairness_key
        returning id
    )
    select array_agg(id order by id) into v_ids from inserted;
    if v_ready then
        perform chartloom.wake(p_type.job_type, cardinality(v_ids));
    end if;
    return v_ids;
end
$$;

-- What both ways to enqueue check of their common arguments. Returns the type.
create function chartloom.check_enqueue(
    p_job_type text, p_job_category text, p_priority integer, p_max_retries integer
) returns chartloom.job_types
language plpgsql stable
set search_path = ''
as $$
declare
    v_type chartloom.job_types;
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
    return v_type;
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
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_type constant chartloom.job_types :=
        chartloom.check_enqueue(p_job_type, p_job_category, p_priority, p_max_retries);
    v_shell_file_id uuid;
    v_patient_id uuid;
    v_id bigint;
begin
    if length(p_idempotency_key) not between 1 and 200 then
        raise exception 'idempotency_key must have 1 to 200 characters' using errcode = 'CL005';
    end if;
    if p_traceparent is not null and not chartloom.is_traceparent(p_traceparent) then
        raise exception 'traceparent must be a W3C trace context of version 00' using errcode = 'CL005';
    end if;
    if p_payload is distinct from '{"noop": true}' then
        perform chartloom.validate_payload(p_job_type, v_type.payload_schema, p_payload);
    end if;
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


-- Many jobs of one type at once, all or none. The arrays, where given, are as long as the payloads. Returns the ids in their
-- order; a payload whose idempotency key is known gets the id of the job that has it.
create function chartloom.enqueue_jobs_v3(
    p_job_type text,
    p_job_category text,
    p_payloads jsonb[],
    p_priority integer default 0,
    p_scheduled_at timestamptz default null,
    p_idempotency_keys text[] default null,
    p_fairness_keys text[] default null,
    p_traceparents text[] default null,
    p_max_retries integer default null
) returns bigint[]
language plpgsql volatile security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_type constant chartloom.job_types :=
        chartloom.check_enqueue(p_job_type, p_job_category, p_priority, p_max_retries);
    v_count constant integer := cardinality(p_payloads);
    v_fields constant text[] := array(select jsonb_object_keys(v_type.payload_schema));
    v_payload jsonb;
    v_ids bigint[];
    v_shell_file_ids uuid[];
    v_patient_ids uuid[];
begin
    if coalesce(v_count not between 1 and 10000, true) then
        raise exception 'payloads must be an array of 1 to 10000' using errcode = 'CL005';
    end if;
    if cardinality(p_idempotency_keys) <> v_count or cardinality(p_fairness_keys) <> v_count
        or cardinality(p_traceparents) <> v_count then
        raise exception 'idempotency_keys, fairness_keys and traceparents must be as many as the payloads'
            using errcode = 'CL005';
    end if;
    if p_traceparents is not null and exists (
        select from unnest(p_traceparents) as t (traceparent) where not chartloom.is_traceparent(t.traceparent)
    ) then
        raise exception 'traceparent must be a W3C trace context of version 00' using errcode = 'CL005';
    end if;
    if p_idempotency_keys is not null then
        -- One at a time: with a key, what counts is that a repeated call finds the first one's job.
        for v_place in 1..v_count loop
            v_ids[v_place] := chartloom.enqueue_job_v3(
                p_job_type, p_job_category, p_payloads[v_place], p_priority, p_scheduled_at,
                p_idempotency_keys[v_place], p_fairness_keys[v_place], p_traceparents[v_place], p_max_retries
            );
        end loop;
        return v_ids;
    end if;
    -- All at once; only where something is wrong, one by one, for the error that names it.
    if exists (
        select from unnest(p_payloads) as p (payload)
        where p.payload is distinct from '{"noop": true}' and case
            when jsonb_typeof(p.payload) is distinct from 'object' then true
            when p.payload - v_fields <> '{}' or not p.payload ?& v_fields then true
            when v_fields = '{}' then false
            else exists (
                select from jsonb_each_text(v_type.payload_schema) as f (name, type)
                where not chartloom.is_of_type(p.payload -> f.name, f.type)
            )
        end
    ) then
        foreach v_payload in array p_payloads loop
            perform chartloom.validate_payload(p_job_type, v_type.payload_schema, v_payload);
        end loop;
    end if;
    if v_type.payload_schema ? 'shell_file_id' then
        select array_agg(r.shell_file_id order by p.place), array_agg(f.patient_id order by p.place)
        into v_shell_file_ids, v_patient_ids
        from unnest(p_payloads) with ordinality as p (payload, place)
        left join chartloom.document_runs as r
            on r.id = (p.payload ->> 'run_id')::uuid and r.shell_file_id = (p.payload ->> 'shell_file_id')::uuid
        left join public.shell_files as f on f.id = r.shell_file_id;
        if exists (
            select from unnest(p_payloads, v_shell_file_ids) as p (payload, shell_file_id)
            where p.payload ? 'shell_file_id' and p.shell_file_id is null
        ) then
            raise exception 'payload of %: shell_file_id names no document, or run_id no run of it', p_job_type
                using errcode = 'CL007';
        end if;
    end if;
    return chartloom.insert_jobs(
        v_type, p_payloads, p_priority::smallint, p_scheduled_at, null, p_fairness_keys, p_traceparents,
        p_max_retries, v_shell_file_ids, v_patient_ids, null
    );
end
$$;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
