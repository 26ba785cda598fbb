-- What complete_upload takes of a core is what a thousand of them in a second wait for.

set local lock_timeout = '5s';
set local statement_timeout = '30s';

-- As before, but the chain's end is locked, not written twice.
create or replace function chartloom.log_audit_event(
    p_action text,
    p_table_name text,
    p_patient_id uuid,
    p_row_ids text[],
    p_column_names text[] default null,
    p_actor_user_id uuid default auth.uid(),
    p_actor_role text default chartloom.caller_role()
) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_event public.audit_log;
begin
    loop
        select c.length + 1, c.last_hash into v_event.seq, v_event.previous_hash
        from chartloom.audit_chains as c where c.patient_id = p_patient_id for update;
        exit when found;
        insert into chartloom.audit_chains (patient_id, length, last_hash) values (p_patient_id, 0, '')
        on conflict (patient_id) do nothing;
    end loop;
    v_event.patient_id := p_patient_id;
    v_event.occurred_at := clock_timestamp();
    v_event.action := p_action;
    v_event.table_name := p_table_name;
    v_event.row_ids := p_row_ids;
    v_event.column_names := p_column_names;
    v_event.actor_user_id := p_actor_user_id;
    v_event.actor_role := p_actor_role;
    if pg_has_role(session_user, 'chartloom_worker', 'member') then
        v_event.job_id := nullif(current_setting('chartloom.job_id', true), '')::bigint;
    end if;
    v_event.trace_id := nullif(current_setting('chartloom.trace_id', true), '');
    v_event.hash := chartloom.audit_hash(v_event);
    insert into public.audit_log select v_event.*;
    update chartloom.audit_chains set length = v_event.seq, last_hash = v_event.hash where patient_id = p_patient_id;
end
$$;

-- As before, but the one row of an update is looked at as it is counted.
create or replace function chartloom.audit_statement() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_rows constant text := case tg_op when 'DELETE' then 'old_rows' else 'new_rows' end;
    v_ignored constant text[] := string_to_array(tg_argv[2], ',');
    v_patient_id uuid;
    v_row_ids text[];
    v_columns text[];
    v_count bigint;
    v_new jsonb;
    v_old jsonb;
begin
    if tg_op = 'UPDATE' then
        select count(*), (select to_jsonb(n) from new_rows as n limit 1), (select to_jsonb(o) from old_rows as o limit 1)
        into v_count, v_new, v_old from new_rows;
        if v_count = 0 then
            -- Of a document that is new, persist_findings supersedes nothing.
            return null;
        elsif v_count = 1 then
            select array_agg(c.key order by c.key) into v_columns
            from jsonb_each(v_new) as c
            where c.value is distinct from v_old -> c.key and c.key <> all(v_ignored);
        else
            select array_agg(distinct c.key order by c.key) into v_columns
            from (select row_number() over () as place, to_jsonb(r) as j from new_rows as r) as a
            join (select row_number() over () as place, to_jsonb(r) as j from old_rows as r) as b using (place),
                jsonb_each(a.j) as c
            where c.value is distinct from b.j -> c.key and c.key <> all(v_ignored);
        end if;
        if v_columns is null then
            return null;
        end if;
        if v_count = 1 and tg_argv[1] ~ '^[a-z_]+::text$' then
            perform chartloom.log_audit_event(
                'update', tg_table_name, (v_new ->> tg_argv[0])::uuid,
                array[v_new ->> split_part(tg_argv[1], '::', 1)], v_columns
            );
            return null;
        end if;
    end if;
    -- In the order of the patients, so that two statements meet in the same order.
    for v_patient_id, v_row_ids in execute format(
        'select %I, array_agg(%s order by %2$s) from %I group by 1 order by 1', tg_argv[0], tg_argv[1], v_rows
    ) loop
        perform chartloom.log_audit_event(lower(tg_op), tg_table_name, v_patient_id, v_row_ids, v_columns);
    end loop;
    return null;
end
$$;

-- As before, for a document that no run is on its way for: null otherwise. Its job is made of what is in hand: enqueue_job_v3 would
-- read and check all of it again, for a third of the time. Both plan once, as everything that each job passes.
create or replace function chartloom.begin_run(p_shell_file_id uuid) returns bigint
language plpgsql volatile
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_run_id constant uuid := gen_random_uuid();
    v_key constant text := 'run:' || v_run_id::text;
    v_file public.shell_files;
    v_type chartloom.job_types;
    v_job_id bigint;
begin
    update public.shell_files
    set status = 'queued', uploaded_at = chartloom.clock(), processing_error = null, current_run_id = v_run_id
    where id = p_shell_file_id and status in ('uploading', 'failed', 'cancelled')
    returning * into v_file;
    if not found then
        return null;
    end if;
    insert into chartloom.document_runs (id, shell_file_id, ocr_run_id) values (v_run_id, v_file.id, v_run_id);
    select * into v_type from chartloom.job_types where job_type = 'ocr';
    v_job_id := chartloom.insert_job(
        v_type, jsonb_build_object('shell_file_id', v_file.id, 'run_id', v_run_id), 0::smallint, null, v_key, null,
        v_file.traceparent, null, v_file.id, v_file.patient_id
    );
    insert into chartloom.idempotency_keys (idempotency_key, job_id) values (v_key, v_job_id);
    return v_job_id;
end
$$;

-- As before; begin_run itself looks whether there is anything to begin. Plans are made at a connection's first call, not at each of
-- the first five.
create or replace function chartloom.complete_upload(p_shell_file_id uuid) returns jsonb
language plpgsql volatile security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_file public.shell_files;
    v_job_id bigint;
begin
    select * into v_file from public.shell_files where id = p_shell_file_id;
    -- The same answer for "not there" and "not yours": an id must not be a way to ask what exists.
    if not found or not chartloom.has_profile_access(v_file.patient_id, 'write') then
        if v_file.id is not null then
            perform chartloom.log_access('denied', 'shell_files', v_file.patient_id, array[v_file.id::text]);
        end if;
        return chartloom.refusal('CL007', 'shell_file_id: no such upload');
    end if;
    perform set_config('chartloom.trace_id', chartloom.trace_id(v_file.traceparent), true);
    -- A repeated call changes nothing; after a failure, the owner's new upload of the same bytes is a new run. What the earlier
    -- run left is over: two runs of one document must not meet. Its jobs first, then the document, as everybody locks them.
    if v_file.status in ('failed', 'cancelled') then
        perform chartloom.cancel_live_jobs(p_shell_file_id, v_file.current_run_id);
    end if;
    v_job_id := chartloom.begin_run(p_shell_file_id);
    if v_job_id is not null then
        v_file.status := 'queued';
    else
        select f.status, k.job_id into v_file.status, v_job_id
        from public.shell_files as f
        left join chartloom.idempotency_keys as k on k.idempotency_key = 'run:' || f.current_run_id::text
        where f.id = p_shell_file_id;
    end if;
    return jsonb_build_object(
        'shell_file_id', v_file.id,
        'job_id', v_job_id,
        'status', v_file.status,
        'trace_id', chartloom.trace_id(v_file.traceparent)
    );
end
$$;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
