-- The ends of an attempt that its holder decides: completed, handed to children, failed, handed back.

-- Moves a job out of the hot table.
create function chartloom.archive_job(
    p_job chartloom.job_queue, p_status text, p_result jsonb, p_now timestamptz
) returns void
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
        p_job.scheduled_at, p_job.created_at, p_job.started_at, p_now, p_job.retry_count,
        p_job.max_retries, p_job.lease_losses, p_job.worker_id, p_result, null, p_job.idempotency_key,
        p_job.traceparent, p_job.shell_file_id, p_job.patient_id, p_job.group_id
    );
end
$$;

-- Completes a job and enqueues what follows it: the next steps, the join of its group; or its document is completed. Returns
-- the ids of the jobs that follow. Call it in the transaction that wrote the result.
--
-- A hand-off is this function's whole cost, so the way of most jobs is one statement (what archive_job and insert_job do)
-- and few expressions: PL/pgSQL makes each of them ready anew in every transaction, which takes 4 µs.
create function chartloom.complete_job(
    p_job_id bigint,
    p_lease_token uuid,
    p_result jsonb default null,
    p_traceparent text default null
) returns bigint[]
language plpgsql volatile security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_now constant timestamptz := chartloom.clock();
    v_next_ids bigint[];
    v_is_all boolean;
    v_job chartloom.job_archive;
    v_group chartloom.job_groups;
    v_join chartloom.job_types;
begin
    with done as (
        delete from chartloom.job_queue where id = p_job_id and lease_token = p_lease_token returning *
    ),
    kept as (
        insert into chartloom.job_archive (
            id, job_type, job_category, payload, status, priority, fairness_key, scheduled_at, created_at, started_at,
            completed_at, retry_count, max_retries, lease_losses, worker_id, result, idempotency_key, traceparent,
            shell_file_id, patient_id, group_id
        )
        select d.id, d.job_type, d.job_category, d.payload, 'completed', d.priority, d.fairness_key, d.scheduled_at,
            d.created_at, d.started_at, v_now, d.retry_count, d.max_retries, d.lease_losses, d.worker_id, p_result,
            d.idempotency_key, d.traceparent, d.shell_file_id, d.patient_id, d.group_id
        from done as d
    ),
    following as (
        insert into chartloom.job_queue (
            job_type, job_category, payload, is_ready, priority, fairness_key, fair_tag, scheduled_at, created_at,
            max_retries, backoff_base_seconds, backoff_cap_seconds, traceparent, shell_file_id, patient_id
        )
        select t.job_type, t.job_category, d.payload, true, d.priority, d.fairness_key,
            coalesce((
                select max(q.fair_tag) + 1 from chartloom.job_queue as q
                where q.is_ready and q.job_type = t.job_type and q.priority = d.priority
                    and q.fairness_key = d.fairness_key and q.fair_tag >= coalesce(h.head_tag, 0)
            ), h.head_tag, 0),
            v_now, v_now, t.max_retries, t.backoff_base_seconds, t.backoff_cap_seconds,
            coalesce(p_traceparent, d.traceparent), d.shell_file_id, d.patient_id
        from done as d
        join chartloom.pipeline_steps as s on s.after_job_type = d.job_type
        join chartloom.job_types as t on t.job_type = s.next_job_type
        left join chartloom.queue_heads as h on h.job_type = t.job_type and h.priority = d.priority
        where d.payload <> '{"noop": true}'
        returning id
    )
    select array(select id from following), d.group_id is null and not exists (select from chartloom.sleepers)
    into v_next_ids, v_is_all from done as d;
    if v_is_all and v_next_ids <> '{}' then
        return v_next_ids;
    end if;
    if v_is_all is null then
        perform chartloom.refuse_lease(p_job_id);
    end if;
    select * into v_job from chartloom.job_archive where id = p_job_id and completed_at = v_now;
    if v_job.payload <> '{"noop": true}' then
        if v_job.group_id is not null then
            -- The row lock orders the children: exactly one of them sees zero.
            update chartloom.job_groups set remaining = remaining - 1 where id = v_job.group_id returning * into v_group;
            if v_group.remaining = 0 then
                select * into v_join from chartloom.job_types where job_type = v_group.join_job_type;
                v_next_ids := v_next_ids || chartloom.insert_job(
                    v_join, v_group.join_payload, v_job.priority, null, null, v_job.fairness_key,
                    coalesce(p_traceparent, v_job.traceparent), null, v_job.shell_file_id, v_job.patient_id
                );
            end if;
        elsif v_next_ids = '{}' and v_job.shell_file_id is not null then
            update public.shell_files set status = 'completed', completed_at = v_now, processing_error = null
            where id = v_job.shell_file_id and current_run_id = (v_job.payload ->> 'run_id')::uuid;
        end if;
    end if;
    perform chartloom.wake(q.job_type, 1) from chartloom.job_queue as q where q.id = any(v_next_ids);
    if not found then
        -- Nothing was enqueued whose wake-up observers would share.
        perform chartloom.wake('changes', 0);
    end if;
    return v_next_ids;
end
$$;

-- Completes many at once, each by its own lease. One that was lost or cancelled is told so and does not hinder the others.
create function chartloom.complete_jobs(p_job_ids bigint[], p_lease_tokens uuid[], p_results jsonb[] default null)
returns table (job_id bigint, state text)
language plpgsql volatile security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := chartloom.clock();
    v_done bigint[];
    v_left bigint[];
    v_groups bigint[];
    v_documents uuid[];
    v_job record;
begin
    with gone as (
        delete from chartloom.job_queue as q
        -- In the order of the ids, so that two batches meet in the same order.
        using (
            select * from unnest(p_job_ids, p_lease_tokens, p_results) as h (id, token, result) order by h.id
        ) as held
        -- any(): whichever side a plan begins with, it reads these rows alone.
        where q.id = held.id and q.lease_token = held.token and q.id = any(p_job_ids) and (
            q.payload = '{"noop": true}'
            or q.group_id is null and q.shell_file_id is null
            and q.job_type not in (select after_job_type from chartloom.pipeline_steps)
        )
        returning q.*, held.result
    ),
    kept as (
        insert into chartloom.job_archive (
            id, job_type, job_category, payload, status, priority, fairness_key, scheduled_at, created_at, started_at,
            completed_at, retry_count, max_retries, lease_losses, worker_id, result, idempotency_key, traceparent,
            shell_file_id, patient_id, group_id
        )
        select g.id, g.job_type, g.job_category, g.payload, 'completed', g.priority, g.fairness_key, g.scheduled_at,
            g.created_at, g.started_at, v_now, g.retry_count, g.max_retries, g.lease_losses, g.worker_id, g.result,
            g.idempotency_key, g.traceparent, g.shell_file_id, g.patient_id, g.group_id
        from gone as g
    )
    select coalesce(array_agg(g.id), '{}') into v_done from gone as g;
    perform chartloom.wake('changes', 0);
    if cardinality(v_done) = cardinality(p_job_ids) then
        return;
    end if;
    -- What something follows goes one by one, when all that they share is locked in the one order: jobs, groups, documents.
    select array_agg(held.id), array_agg(held.group_id), array_agg(held.shell_file_id)
    into v_left, v_groups, v_documents from (
        select q.id, q.group_id, q.shell_file_id from chartloom.job_queue as q
        where q.id = any(p_job_ids) and q.lease_token = any(p_lease_tokens)
        order by q.id for update
    ) as held;
    perform from chartloom.job_groups where id = any(v_groups) order by id for update;
    perform from public.shell_files where id = any(v_documents) order by id for no key update;
    for v_job in
        select h.id, h.token, h.result from unnest(p_job_ids, p_lease_tokens, p_results) as h (id, token, result)
        where h.id = any(v_left) order by h.id
    loop
        perform chartloom.complete_job(v_job.id, v_job.token, v_job.result);
        v_done := v_done || v_job.id;
    end loop;
    return query
    select missing.id,
        case
            when exists (select from chartloom.job_archive as a where a.id = missing.id and a.status = 'cancelled')
                then 'cancelled'
            else 'lost'
        end
    from unnest(p_job_ids) as missing (id)
    where missing.id <> all(v_done);
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
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_job chartloom.job_queue;
    v_child chartloom.job_types;
    v_group_id bigint;
    v_payload jsonb;
    v_payloads jsonb[] := array[]::jsonb[];
begin
    select * into v_child from chartloom.job_types where job_type = p_child_job_type;
    if not found then
        raise exception 'child_job_type "%" is not known', p_child_job_type using errcode = 'CL003';
    end if;
    if not exists (select from chartloom.job_types where job_type = p_join_job_type) then
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
    perform chartloom.archive_job(v_job, 'completed', p_result, chartloom.clock());
    insert into chartloom.job_groups (parent_job_id, join_job_type, join_payload, remaining, created_at)
    values (p_job_id, p_join_job_type, v_job.payload, jsonb_array_length(p_child_payloads), chartloom.clock())
    returning id into v_group_id;
    for v_payload in select * from jsonb_array_elements(p_child_payloads) loop
        perform chartloom.validate_payload(p_child_job_type, v_child.payload_schema, v_payload);
        v_payloads := v_payloads || v_payload;
    end loop;
    return query select unnest(chartloom.insert_jobs(
        v_child, v_payloads, v_job.priority, null, null,
        array_fill(v_job.fairness_key, array[cardinality(v_payloads)]),
        array_fill(coalesce(p_traceparent, v_job.traceparent), array[cardinality(v_payloads)]), null,
        array_fill(v_job.shell_file_id, array[cardinality(v_payloads)]),
        array_fill(v_job.patient_id, array[cardinality(v_payloads)]), v_group_id
    ));
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
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_bitmapscan = off
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
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_bitmapscan = off
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

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
