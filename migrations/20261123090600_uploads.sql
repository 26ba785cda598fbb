-- The way in for users, called with their own token. Record first, then the file, then "it is there": a client that dies in
-- between leaves a row that says so, and may repeat every call. docs/decisions/0003 says why this is SQL, no Edge Function.

-- A refusal is returned, not raised: raised, it would take its own audit event back.
create function chartloom.refusal(p_code text, p_message text) returns jsonb
language sql immutable
set search_path = ''
as $$ select jsonb_build_object('error', jsonb_build_object('code', p_code, 'message', p_message)) $$;

create function chartloom.create_upload(
    p_patient_id uuid,
    p_file_name text,
    p_sha256 text,
    p_size_bytes bigint,
    p_mime_type text,
    p_traceparent text
) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_path constant text := p_patient_id::text || '/' || p_sha256;
    v_traceparent constant text := coalesce(p_traceparent, chartloom.new_traceparent());
    v_file public.shell_files;
begin
    if p_patient_id is null or not chartloom.has_profile_access(p_patient_id, 'write') then
        if exists (select from public.user_profiles where id = p_patient_id) then
            perform chartloom.log_access('denied', 'shell_files', p_patient_id, '{}');
        end if;
        return chartloom.refusal('42501', 'patient_id: you may not add documents to this profile');
    end if;
    if coalesce(length(p_file_name) not between 1 and 255, true) then
        raise exception 'file_name must have 1 to 255 characters' using errcode = 'CL005';
    end if;
    if coalesce(p_sha256 !~ '^[0-9a-f]{64}$', true) then
        raise exception 'sha256 must be 64 lower-case hexadecimal digits' using errcode = 'CL005';
    end if;
    if p_size_bytes is null or p_size_bytes < 0 then
        raise exception 'size_bytes must be 0 or more' using errcode = 'CL005';
    end if;
    if length(p_mime_type) > 255 then
        raise exception 'mime_type must have at most 255 characters' using errcode = 'CL005';
    end if;
    if not chartloom.is_traceparent(p_traceparent) then
        raise exception 'traceparent must be a W3C trace context of version 00' using errcode = 'CL005';
    end if;
    perform set_config('chartloom.trace_id', chartloom.trace_id(v_traceparent), true);
    insert into public.shell_files (
        patient_id, file_name, mime_type, size_bytes, sha256, storage_path, traceparent, created_at
    )
    values (
        p_patient_id, p_file_name, p_mime_type, p_size_bytes, p_sha256, v_path,
        v_traceparent, chartloom.clock()
    )
    on conflict (storage_path) do nothing
    returning * into v_file;
    if not found then
        -- The same bytes again. What was never completed, or failed, starts anew with this upload, in its trace.
        update public.shell_files
        set file_name = p_file_name, size_bytes = p_size_bytes, mime_type = p_mime_type,
            traceparent = coalesce(p_traceparent, traceparent)
        where storage_path = v_path and status in ('uploading', 'failed', 'cancelled')
        returning * into v_file;
        if not found then
            select * into v_file from public.shell_files where storage_path = v_path;
        end if;
    end if;
    return jsonb_build_object(
        'shell_file_id', v_file.id,
        'storage_path', v_file.storage_path,
        'status', v_file.status,
        'trace_id', chartloom.trace_id(v_file.traceparent)
    );
end
$$;

create function chartloom.complete_upload(p_shell_file_id uuid) returns jsonb
language plpgsql volatile security definer
set search_path = ''
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
    select * into v_file from public.shell_files where id = p_shell_file_id for update;
    if v_file.status in ('uploading', 'failed', 'cancelled') then
        update public.shell_files
        set status = 'queued', uploaded_at = chartloom.clock(), processing_error = null,
            current_run_id = gen_random_uuid()
        where id = p_shell_file_id
        returning * into v_file;
        insert into chartloom.document_runs (id, shell_file_id, ocr_run_id)
        values (v_file.current_run_id, v_file.id, v_file.current_run_id);
        v_job_id := chartloom.enqueue_job_v3(
            'ocr', 'fast',
            jsonb_build_object('shell_file_id', v_file.id, 'run_id', v_file.current_run_id),
            p_idempotency_key => 'run:' || v_file.current_run_id::text,
            p_traceparent => v_file.traceparent
        );
    else
        select job_id into v_job_id
        from chartloom.idempotency_keys where idempotency_key = 'run:' || v_file.current_run_id::text;
    end if;
    return jsonb_build_object(
        'shell_file_id', v_file.id,
        'job_id', v_job_id,
        'status', v_file.status,
        'trace_id', chartloom.trace_id(v_file.traceparent)
    );
end
$$;

-- What the API exposes: thin, and with the caller's own rights. A refusal gets its HTTP status from response.status
-- (https://docs.postgrest.org/en/stable/references/transactions.html#response-status).
create function chartloom.answer(p_answer jsonb, p_status_if_refused text) returns jsonb
language plpgsql volatile security invoker
set search_path = ''
as $$
begin
    if p_answer ? 'error' then
        perform set_config('response.status', p_status_if_refused, true);
    end if;
    return p_answer;
end
$$;

create function public.create_upload(
    p_patient_id uuid,
    p_file_name text,
    p_sha256 text,
    p_size_bytes bigint,
    p_mime_type text default null,
    p_traceparent text default null
) returns jsonb
language sql volatile security invoker
set search_path = ''
as $$
    select chartloom.answer(
        chartloom.create_upload(p_patient_id, p_file_name, p_sha256, p_size_bytes, p_mime_type, p_traceparent), '403'
    )
$$;

create function public.complete_upload(p_shell_file_id uuid) returns jsonb
language sql volatile security invoker
set search_path = ''
as $$ select chartloom.answer(chartloom.complete_upload(p_shell_file_id), '404') $$;

revoke execute on function
public.create_upload(uuid, text, text, bigint, text, text), public.complete_upload(uuid) from public, anon;
grant execute on function
public.create_upload(uuid, text, text, bigint, text, text),
public.complete_upload(uuid),
chartloom.create_upload(uuid, text, text, bigint, text, text),
chartloom.complete_upload(uuid),
chartloom.answer(jsonb, text)
to authenticated;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
