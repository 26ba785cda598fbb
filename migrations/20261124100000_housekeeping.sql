-- What the sweeper puts right every few minutes: uploads and files that don't fit each other, documents that nobody works on,
-- what is older than its retention. Bounded, and past what another holds: any number of sweepers at once, none of them a leader.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

-- Not concurrently, which no transaction can: writes wait while each table is read once.
-- Documents on their way are few among all. The price: a change of status is no longer a HOT update, twice a document.
-- squawk-ignore require-concurrent-index-creation
create index shell_files_unfinished on public.shell_files (created_at, id)
where status in ('uploading', 'queued', 'processing');
-- Keys come in the order of time and never change, so a few pages of index lead to the old ones; an enqueue does not feel it.
-- squawk-ignore require-concurrent-index-creation
create index idempotency_keys_age on chartloom.idempotency_keys using brin (created_at) with (pages_per_range = 16);

-- -- Uploads --------------------------------------------------------------------------------------------------------------

-- A new run of a document whose file is there. The caller holds the document's row.
create function chartloom.begin_run(p_shell_file_id uuid) returns bigint
language plpgsql volatile
set search_path = ''
as $$
declare
    v_file public.shell_files;
begin
    update public.shell_files
    set status = 'queued', uploaded_at = chartloom.clock(), processing_error = null, current_run_id = gen_random_uuid()
    where id = p_shell_file_id
    returning * into v_file;
    insert into chartloom.document_runs (id, shell_file_id, ocr_run_id)
    values (v_file.current_run_id, v_file.id, v_file.current_run_id);
    return chartloom.enqueue_job_v3(
        'ocr', 'fast',
        jsonb_build_object('shell_file_id', v_file.id, 'run_id', v_file.current_run_id),
        p_idempotency_key => 'run:' || v_file.current_run_id::text,
        p_traceparent => v_file.traceparent
    );
end
$$;

-- As before; how a run begins is said once.
create or replace function chartloom.complete_upload(p_shell_file_id uuid) returns jsonb
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
        v_job_id := chartloom.begin_run(p_shell_file_id);
        v_file.status := 'queued';
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

-- Ends a document that no job is to end, with the reason for its owner and for operators.
create function chartloom.fail_document(
    p_file public.shell_files, p_code text, p_message text, p_stage text
) returns void
language plpgsql volatile
set search_path = ''
as $$
begin
    update public.shell_files
    set status = 'failed',
        processing_error = jsonb_build_object('code', p_code, 'message', p_message, 'stage', p_stage)
    where id = p_file.id;
    insert into chartloom.processing_errors (occurred_at, level, kind, code, message, shell_file_id, trace_id)
    values (
        chartloom.clock(), 'file', 'terminal', p_code, p_message, p_file.id, chartloom.trace_id(p_file.traceparent)
    );
    perform chartloom.wake('changes', 0);
end
$$;

-- Uploads that were announced so long ago and never completed, from one id on.
create function chartloom.stale_uploads(p_grace_seconds double precision, p_after uuid, p_limit integer default 100)
returns table (shell_file_id uuid, storage_path text, size_bytes bigint, sha256 text)
language sql volatile security definer
set search_path = ''
as $$
    select f.id, f.storage_path, f.size_bytes, f.sha256 from public.shell_files as f
    where f.status = 'uploading' and f.created_at <= chartloom.clock() - make_interval(secs => p_grace_seconds)
        and f.id > p_after
        and not exists (select from chartloom.erasures as e where e.patient_id = f.patient_id)
    order by f.id limit p_limit
$$;

-- Ends one of them by what is in storage: 'whole' (size and SHA-256 are those announced) is completed on the client's behalf,
-- 'different' and 'nothing' fail, so that the owner is told and may upload again. Returns the new status, or null where the
-- client came back in between, or another sweeper was first.
create function chartloom.settle_upload(
    p_shell_file_id uuid, p_found text, p_grace_seconds double precision
) returns text
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_file public.shell_files;
begin
    if coalesce(p_found not in ('whole', 'different', 'nothing'), true) then
        raise exception 'found must be whole, different or nothing' using errcode = 'CL005';
    end if;
    select * into v_file from public.shell_files
    where id = p_shell_file_id and status = 'uploading'
        and created_at <= chartloom.clock() - make_interval(secs => p_grace_seconds)
    for update skip locked;
    if not found or exists (select from chartloom.erasures where patient_id = v_file.patient_id) then
        return null;
    end if;
    perform set_config('chartloom.trace_id', chartloom.trace_id(v_file.traceparent), true);
    if p_found = 'whole' then
        perform chartloom.begin_run(v_file.id);
        return 'queued';
    elsif p_found = 'different' then
        perform chartloom.fail_document(
            v_file, 'checksum_mismatch', 'The stored file is not the one announced: upload it again.', 'upload'
        );
    else
        perform chartloom.fail_document(
            v_file, 'upload_never_arrived', 'The upload never arrived: upload it again.', 'upload'
        );
    end if;
    return 'failed';
end
$$;

-- -- Files and rows -------------------------------------------------------------------------------------------------------

create table chartloom.storage_findings (
    storage_path text primary key,
    kind text not null check (kind in ('file_missing', 'row_missing')),
    shell_file_id uuid,
    patient_id uuid,
    size_bytes bigint,
    found_at timestamptz not null,
    seen_at timestamptz not null
);
comment on table chartloom.storage_findings is 'Documents whose file is gone, and files of no document: since when it was seen, and when last. Nothing is done about it before the grace is over.';
alter table chartloom.storage_findings enable row level security;
grant select on chartloom.storage_findings to chartloom_operator;
create policy operators_read on chartloom.storage_findings for select to chartloom_operator using (true);

-- Documents whose file should be there, from one id on. One that is on its way meets its file in OCR, which says what is wrong.
create function chartloom.stored_documents(p_after uuid, p_limit integer default 1000)
returns table (shell_file_id uuid, storage_path text)
language sql volatile security definer
set search_path = ''
as $$
    select f.id, f.storage_path from public.shell_files as f
    where f.id > p_after
        and (f.status = 'completed' or f.status = 'failed' and f.processing_error ->> 'stage' = 'storage')
        and not exists (select from chartloom.erasures as e where e.patient_id = f.patient_id)
    order by f.id limit p_limit
$$;

-- What a look at their files found. Missing for longer than the grace: the document fails, and its owner may upload the same
-- bytes again; its clinical rows stay. Back again: so is the document.
create function chartloom.settle_stored_documents(
    p_missing uuid[], p_present uuid[], p_grace_seconds double precision
) returns table (shell_file_id uuid, outcome text)
language plpgsql volatile security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := chartloom.clock();
    v_file public.shell_files;
begin
    insert into chartloom.storage_findings as s (
        storage_path, kind, shell_file_id, patient_id, size_bytes, found_at, seen_at
    )
    select f.storage_path, 'file_missing', f.id, f.patient_id, f.size_bytes, v_now, v_now
    from public.shell_files as f where f.id = any(p_missing)
    -- In one order, so that two sweepers meet in the same order.
    order by f.storage_path
    on conflict (storage_path) do update
    set kind = 'file_missing', shell_file_id = excluded.shell_file_id, patient_id = excluded.patient_id, seen_at = v_now,
        found_at = case when s.kind = 'file_missing' then s.found_at else v_now end;
    for v_file in
        select f.* from public.shell_files as f
        join chartloom.storage_findings as s on s.storage_path = f.storage_path
        where f.id = any(p_missing) and f.status = 'completed' and s.kind = 'file_missing'
            and s.found_at <= v_now - make_interval(secs => p_grace_seconds)
        order by f.id for no key update of f skip locked
    loop
        perform chartloom.fail_document(
            v_file, 'stored_file_missing', 'The uploaded file is not in storage: upload it again.', 'storage'
        );
        shell_file_id := v_file.id;
        outcome := 'failed';
        return next;
    end loop;
    delete from chartloom.storage_findings where storage_path in (
        select s.storage_path from chartloom.storage_findings as s
        where s.shell_file_id = any(p_present) and s.kind = 'file_missing'
        order by s.storage_path for update skip locked
    );
    return query
    update public.shell_files as f set status = 'completed', processing_error = null
    where f.id in (
        select b.id from public.shell_files as b
        where b.id = any(p_present) and b.status = 'failed' and b.processing_error ->> 'stage' = 'storage'
        order by b.id for no key update skip locked
    )
    returning f.id, 'found_again';
end
$$;

-- Of files in storage, those that no document has: noted, and whether the grace is over since they were noted first. A path
-- is one document's (shell_files.storage_path is unique), so that the same path twice can't be. An erasure that is under way
-- sees to its own files.
create function chartloom.note_unknown_files(p_paths text[], p_sizes bigint[], p_grace_seconds double precision)
returns table (storage_path text, is_expired boolean)
language plpgsql volatile security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := chartloom.clock();
begin
    return query
    with stored as (
        select u.path, u.size_bytes,
            case
                when u.path ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/'
                    then split_part(u.path, '/', 1)::uuid
            end as patient_id
        from unnest(p_paths, p_sizes) as u (path, size_bytes)
    )
    insert into chartloom.storage_findings as s (storage_path, kind, patient_id, size_bytes, found_at, seen_at)
    select t.path, 'row_missing', t.patient_id, t.size_bytes, v_now, v_now from stored as t
    where not exists (select from public.shell_files as f where f.storage_path = t.path)
        and not exists (
            select from chartloom.erasures as e where e.patient_id = t.patient_id and e.files_erased_at is null
        )
    order by t.path
    on conflict (storage_path) do update
    set kind = 'row_missing', shell_file_id = null, size_bytes = excluded.size_bytes, seen_at = v_now,
        found_at = case when s.kind = 'row_missing' then s.found_at else v_now end
    returning s.storage_path, s.found_at <= v_now - make_interval(secs => p_grace_seconds);
    delete from chartloom.storage_findings where storage_path in (
        select s.storage_path from chartloom.storage_findings as s
        join public.shell_files as f on f.storage_path = s.storage_path
        where s.storage_path = any(p_paths) and s.kind = 'row_missing'
        order by s.storage_path for update of s skip locked
    );
end
$$;

-- Whether a file that was noted may be deleted now; the caller does so in this transaction. Until its end no document of the
-- patient can be announced: create_upload waits for the profile, by its foreign key. So no upload of the same bytes is lost.
create function chartloom.release_unknown_file(p_storage_path text, p_grace_seconds double precision) returns boolean
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_finding chartloom.storage_findings;
begin
    select * into v_finding from chartloom.storage_findings
    where storage_path = p_storage_path and kind = 'row_missing'
        and found_at <= chartloom.clock() - make_interval(secs => p_grace_seconds)
    for update skip locked;
    if not found then
        return false;
    end if;
    perform from public.user_profiles where id = v_finding.patient_id for update skip locked;
    if not found and exists (select from public.user_profiles where id = v_finding.patient_id) then
        return false;
    end if;
    if exists (select from public.shell_files where storage_path = p_storage_path) then
        return false;
    end if;
    delete from chartloom.storage_findings where storage_path = p_storage_path;
    if v_finding.patient_id is not null then
        perform chartloom.log_audit_event('delete', 'storage', v_finding.patient_id, '{}');
    end if;
    return true;
end
$$;

-- -- Documents that no job is working on ----------------------------------------------------------------------------------

-- Documents on their way whose current run has no job, live or dead, and has had none for so long. It can't happen by the
-- contract; it does when somebody deletes rows, or restores some. What is missing is enqueued again; where that can't be told,
-- the document fails. Results are written once for a run, so nothing is doubled.
create function chartloom.resume_documents(p_grace_seconds double precision default 900, p_limit integer default 100)
returns table (shell_file_id uuid, outcome text, job_id bigint)
language plpgsql volatile security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_since constant timestamptz := chartloom.clock() - make_interval(secs => p_grace_seconds);
    v_file public.shell_files;
    v_run chartloom.document_runs;
    v_done text[];
    v_last chartloom.job_archive;
    v_next chartloom.job_types;
    v_payload jsonb;
    v_fans_out boolean;
begin
    for v_file in
        select f.* from public.shell_files as f
        where f.status in ('queued', 'processing') and f.uploaded_at <= v_since
            and not exists (
                select from chartloom.job_queue as q where q.shell_file_id = f.id
                    and coalesce((q.payload ->> 'run_id')::uuid, f.current_run_id) = f.current_run_id
            )
            and not exists (
                select from chartloom.job_archive as a where a.shell_file_id = f.id and a.completed_at > v_since
            )
            and not exists (select from chartloom.erasures as e where e.patient_id = f.patient_id)
        order by f.created_at limit p_limit for update of f skip locked
    loop
        -- Once more, now that no run can begin.
        continue when exists (
            select from chartloom.job_queue where shell_file_id = v_file.id
                and coalesce((payload ->> 'run_id')::uuid, v_file.current_run_id) = v_file.current_run_id
        );
        perform set_config('chartloom.trace_id', chartloom.trace_id(v_file.traceparent), true);
        select * into v_run from chartloom.document_runs where id = v_file.current_run_id;
        v_payload := jsonb_build_object('shell_file_id', v_file.id, 'run_id', v_run.id);
        v_done := array(
            select distinct a.job_type from chartloom.job_archive as a
            where a.shell_file_id = v_file.id and a.status = 'completed' and a.payload = v_payload
        );
        select * into v_last from chartloom.job_archive as a
        where a.shell_file_id = v_file.id and a.status = 'completed' and a.payload = v_payload
        order by a.completed_at desc, a.id desc limit 1;
        -- Children that are lost can't be told from those that are done.
        v_fans_out := exists (
            select from chartloom.job_groups as g join chartloom.job_archive as a on a.id = g.parent_job_id
            where a.shell_file_id = v_file.id and a.payload = v_payload and g.remaining > 0
        );
        shell_file_id := v_file.id;
        outcome := null;
        job_id := null;
        for v_next in
            select t.* from chartloom.job_types as t
            where not v_fans_out and t.payload_schema = '{"shell_file_id": "uuid", "run_id": "uuid"}'
                and t.job_type <> all(v_done) and case
                when v_done <> '{}' then t.job_type in (
                    select s.next_job_type from chartloom.pipeline_steps as s where s.after_job_type = any(v_done)
                )
                -- A run that reads the pages of an earlier one begins after OCR.
                when v_run.ocr_run_id <> v_run.id then t.job_type in (
                    select s.next_job_type from chartloom.pipeline_steps as s where s.after_job_type = 'ocr'
                ) and not exists (select from public.ai_pass_results as r where r.run_id = v_run.id)
                else t.job_type = 'ocr' and not exists (select from public.ocr_pages as p where p.run_id = v_run.id)
            end
        loop
            outcome := 'enqueued';
            job_id := chartloom.enqueue_job_v3(
                v_next.job_type, v_next.job_category, v_payload, coalesce(v_last.priority, 0),
                p_fairness_key => v_last.fairness_key, p_traceparent => coalesce(v_last.traceparent, v_file.traceparent)
            );
            insert into chartloom.processing_errors (
                occurred_at, level, kind, code, message, job_id, job_type, shell_file_id, trace_id
            )
            values (
                chartloom.clock(), 'job', 'transient', 'job_missing',
                'No job was working on this document: its next step was enqueued again.',
                job_id, v_next.job_type, v_file.id, chartloom.trace_id(v_file.traceparent)
            );
            return next;
        end loop;
        continue when outcome is not null;
        if v_done <> '{}' and not v_fans_out and not exists (
            select from chartloom.pipeline_steps as s
            where s.after_job_type = any(v_done) and s.next_job_type <> all(v_done)
        ) then
            update public.shell_files set status = 'completed', completed_at = v_last.completed_at where id = v_file.id;
            outcome := 'completed';
        else
            perform chartloom.fail_document(
                v_file, 'work_lost', 'The work on this document was lost: upload it again.', 'sweep'
            );
            outcome := 'failed';
        end if;
        return next;
    end loop;
end
$$;

-- -- Retention ------------------------------------------------------------------------------------------------------------

alter table chartloom.sleepers add column renewed_at timestamptz not null default now();
comment on column chartloom.sleepers.renewed_at is 'A sleeper looks for its own row at each poll, of 5 minutes at most: one that has not for 10 is gone.';

create or replace function chartloom.fall_asleep(p_channel text, p_topics text[]) returns boolean
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_now constant timestamptz := chartloom.clock();
    v_opened boolean;
begin
    insert into chartloom.sleepers (topic, channel, renewed_at)
    select topic, p_channel, v_now from unnest(p_topics) as topic
    where topic = 'changes' or topic in (select job_type from chartloom.job_types)
    on conflict do nothing;
    v_opened := found;
    update chartloom.sleepers set renewed_at = v_now
    where channel = p_channel and renewed_at <= v_now - interval '1 minute';
    return v_opened;
end
$$;

-- What is past its time, so many rows of each kind at most. Tables that number their rows are read from the oldest, so that
-- no more than the limit is looked at.
create function chartloom.delete_expired(p_retention_days integer default 90, p_limit integer default 1000)
returns table (kind text, deleted integer)
language plpgsql volatile security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_now constant timestamptz := chartloom.clock();
    v_before constant timestamptz := v_now - make_interval(days => p_retention_days);
begin
    if coalesce(p_retention_days < 1 or p_limit not between 1 and 100000, true) then
        raise exception 'retention_days must be 1 or more, limit between 1 and 100000' using errcode = 'CL005';
    end if;
    kind := 'archived_jobs';
    delete from chartloom.job_archive_default where completed_at < v_before and ctid = any(array(
        select oldest.ctid from chartloom.job_archive_default as oldest order by oldest.id limit p_limit
        for update skip locked
    ));
    get diagnostics deleted = row_count;
    return next;

    kind := 'idempotency_keys';
    delete from chartloom.idempotency_keys where idempotency_key = any(array(
        select k.idempotency_key from chartloom.idempotency_keys as k
        where k.created_at < v_before and not exists (select from chartloom.job_queue as q where q.id = k.job_id)
        limit p_limit for update of k skip locked
    ));
    get diagnostics deleted = row_count;
    return next;

    -- A dead letter among the children may be redriven, and then the join has to follow.
    kind := 'job_groups';
    delete from chartloom.job_groups where id = any(array(
        select g.id from chartloom.job_groups as g
        where g.created_at < v_before and not exists (select from chartloom.job_queue as q where q.group_id = g.id)
        limit p_limit for update of g skip locked
    ));
    get diagnostics deleted = row_count;
    return next;

    kind := 'processing_errors';
    delete from chartloom.processing_errors where occurred_at < v_before and id = any(array(
        select oldest.id from chartloom.processing_errors as oldest order by oldest.id limit p_limit
        for update skip locked
    ));
    get diagnostics deleted = row_count;
    return next;

    -- A worker beats every few seconds; a day later nobody asks what became of it.
    kind := 'workers';
    delete from chartloom.workers where worker_id = any(array(
        select w.worker_id from chartloom.workers as w where w.heartbeat_at < v_now - interval '1 day'
        limit p_limit for update skip locked
    ));
    get diagnostics deleted = row_count;
    return next;

    -- Each would eat a wake-up.
    kind := 'sleepers';
    delete from chartloom.sleepers where (topic, channel) in (
        select s.topic, s.channel from chartloom.sleepers as s where s.renewed_at < v_now - interval '10 minutes'
        limit p_limit for update skip locked
    );
    get diagnostics deleted = row_count;
    return next;

    -- The window is 61 seconds, and a call is settled in minutes.
    kind := 'rate_grants';
    delete from chartloom.rate_grants where granted_at < v_now - interval '1 hour' and id = any(array(
        select oldest.id from chartloom.rate_grants as oldest order by oldest.id limit p_limit for update skip locked
    ));
    get diagnostics deleted = row_count;
    return next;

    kind := 'storage_findings';
    delete from chartloom.storage_findings where storage_path = any(array(
        select s.storage_path from chartloom.storage_findings as s where s.seen_at < v_before
        limit p_limit for update skip locked
    ));
    get diagnostics deleted = row_count;
    return next;
end
$$;

-- The next step towards a partition of job_archive for the month that begins then (UTC). Returns what was done:
--   attached  it is there from now on                 there  it has been there
--   fenced, validated  call again                     left   its rows stay in the default partition
--   busy      somebody is in the way; later
-- Attaching reads the default partition while completions wait for it. Where that is large (it has what completed before there
-- were partitions) a constraint says beforehand that nothing of the month is in it, and is validated while everybody writes.
-- docs/decisions/0011 says why it is so many steps.
create function chartloom.make_archive_partition(p_month date) returns text
language plpgsql volatile security definer
set search_path = ''
set lock_timeout = '200ms'
as $$
declare
    v_from constant timestamptz := date_trunc('month', p_month::timestamp) at time zone 'UTC';
    v_to constant timestamptz := (date_trunc('month', p_month::timestamp) + interval '1 month') at time zone 'UTC';
    v_name constant text := 'job_archive_' || to_char(p_month, 'YYYYMM');
    v_fence constant text := 'nothing_of_' || to_char(p_month, 'YYYYMM');
    v_is_small constant boolean := pg_relation_size('chartloom.job_archive_default') <= 16 * 1024 * 1024;
    v_is_validated boolean;
begin
    if not pg_try_advisory_xact_lock(hashtext('chartloom job_archive')) then
        return 'busy';
    end if;
    if exists (
        select from pg_catalog.pg_inherits
        where inhparent = 'chartloom.job_archive'::regclass and inhrelid = to_regclass('chartloom.' || v_name)
    ) then
        return 'there';
    end if;
    select convalidated into v_is_validated from pg_catalog.pg_constraint
    where conrelid = 'chartloom.job_archive_default'::regclass and conname = v_fence;
    if not v_is_small and not coalesce(v_is_validated, false) then
        if v_from < chartloom.clock() + interval '7 days' then
            -- A fence must never stand where jobs complete: the month would have nowhere to go.
            execute format('alter table chartloom.job_archive_default drop constraint if exists %I', v_fence);
            return 'left';
        elsif v_is_validated is null then
            execute format(
                'alter table chartloom.job_archive_default add constraint %I check (completed_at < %L or completed_at >= %L)'
                ' not valid', v_fence, v_from, v_to
            );
            return 'fenced';
        end if;
        execute format('alter table chartloom.job_archive_default validate constraint %I', v_fence);
        return 'validated';
    end if;
    if not coalesce(v_is_validated, false) then
        lock table chartloom.job_archive_default in access exclusive mode;
        if exists (
            select from chartloom.job_archive_default where completed_at >= v_from and completed_at < v_to
        ) then
            execute format('alter table chartloom.job_archive_default drop constraint if exists %I', v_fence);
            return 'left';
        end if;
    end if;
    execute format('create table chartloom.%I (like chartloom.job_archive including all)', v_name);
    execute format('alter table chartloom.%I enable row level security', v_name);
    execute format(
        'alter table chartloom.job_archive attach partition chartloom.%I for values from (%L) to (%L)',
        v_name, v_from, v_to
    );
    execute format('alter table chartloom.job_archive_default drop constraint if exists %I', v_fence);
    return 'attached';
exception
    when lock_not_available then
        return 'busy';
    when check_violation then
        -- Something of a month to come is there already: a clock was wrong.
        execute format('alter table chartloom.job_archive_default drop constraint if exists %I', v_fence);
        return 'left';
end
$$;

-- Drops one partition whose last job completed before the retention, the oldest. Returns its name, or null: none, or somebody
-- reads it.
create function chartloom.drop_archive_partition(p_retention_days integer default 90) returns text
language plpgsql volatile security definer
set search_path = ''
set lock_timeout = '200ms'
as $$
declare
    v_name text;
begin
    if coalesce(p_retention_days < 1, true) then
        raise exception 'retention_days must be 1 or more' using errcode = 'CL005';
    end if;
    if not pg_try_advisory_xact_lock(hashtext('chartloom job_archive')) then
        return null;
    end if;
    select c.relname into v_name
    from pg_catalog.pg_inherits as i join pg_catalog.pg_class as c on c.oid = i.inhrelid
    where i.inhparent = 'chartloom.job_archive'::regclass and c.relname ~ '^job_archive_[0-9]{6}$'
        and (to_date(right(c.relname, 6), 'YYYYMM')::timestamp + interval '1 month') at time zone 'UTC'
            <= chartloom.clock() - make_interval(days => p_retention_days)
    order by c.relname limit 1;
    if v_name is not null then
        execute format('drop table chartloom.%I', v_name);
    end if;
    return v_name;
exception when lock_not_available then
    return null;
end
$$;

-- The light part of a sweep in one statement, for pg_cron: all that needs neither storage nor the network. One step of each.
create function chartloom.keep_house(p_retention_days integer default 90)
returns table (task text, outcome text, count bigint)
language plpgsql volatile security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_step text;
begin
    return query
    select 'leases', s.new_status, count(*) from chartloom.sweep_expired_leases() as s group by s.new_status;
    return query select 'due_jobs', 'promoted', chartloom.promote_due_jobs()::bigint;
    return query select 'audit', 'written', chartloom.retry_audit_events()::bigint;
    return query
    select 'documents', d.outcome, count(*) from chartloom.resume_documents() as d group by d.outcome;
    return query
    select 'retention', e.kind, e.deleted::bigint from chartloom.delete_expired(p_retention_days) as e;
    return query select 'sleepers', 'woken_for', chartloom.wake_for_ready_jobs()::bigint;
    -- Last, since its locks last until the end; one a call, for the same reason.
    task := 'archive';
    count := 1;
    if chartloom.drop_archive_partition(p_retention_days) is not null then
        outcome := 'dropped';
        return next;
        return;
    end if;
    for v_ahead in 0..2 loop
        v_step := chartloom.make_archive_partition(
            ((chartloom.clock() at time zone 'UTC') + make_interval(months => v_ahead))::date
        );
        if v_step not in ('there', 'left') then
            outcome := v_step;
            return next;
            return;
        end if;
    end loop;
end
$$;

-- -- Scaling --------------------------------------------------------------------------------------------------------------

create table chartloom.scaled_services (
    service_id text primary key check (length(service_id) between 1 and 200),
    decided_at timestamptz not null default '-infinity',
    not_before timestamptz not null default '-infinity',
    calm_since timestamptz
);
comment on table chartloom.scaled_services is 'When the sweepers last changed how many instances a service has: they share the cooldown, so that two don''t do twice what one would.';
alter table chartloom.scaled_services enable row level security;

-- 'up' where a job has been ready for too long, 'down' where none had to wait for a while, else null. Who is told so is the
-- only one until the cooldown is over.
create function chartloom.decide_scaling(
    p_service_id text,
    p_job_types text[],
    p_up_seconds double precision,
    p_down_seconds double precision,
    p_calm_seconds double precision,
    p_cooldown_seconds double precision
) returns text
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_now constant timestamptz := chartloom.clock();
    v_service chartloom.scaled_services;
    v_age double precision;
    v_calm_since timestamptz;
    v_direction text;
begin
    insert into chartloom.scaled_services (service_id) values (p_service_id) on conflict do nothing;
    select * into v_service from chartloom.scaled_services where service_id = p_service_id for update skip locked;
    if not found then
        return null;
    end if;
    select coalesce(extract(epoch from v_now - min(scheduled_at)), 0) into v_age
    from chartloom.job_queue where is_ready and job_type = any(p_job_types);
    v_calm_since := case when v_age < p_down_seconds then coalesce(v_service.calm_since, v_now) end;
    v_direction := case
        when v_service.not_before > v_now then null
        when v_service.decided_at > v_now - make_interval(secs => p_cooldown_seconds) then null
        when v_age >= p_up_seconds then 'up'
        when v_calm_since <= v_now - make_interval(secs => p_calm_seconds) then 'down'
    end;
    update chartloom.scaled_services
    set calm_since = case when v_direction is null then v_calm_since end,
        decided_at = case when v_direction is null then decided_at else v_now end
    where service_id = p_service_id;
    return v_direction;
end
$$;

-- The change was refused: nobody tries again before then.
create function chartloom.put_off_scaling(p_service_id text, p_seconds double precision) returns void
language sql volatile security definer
set search_path = ''
as $$
    update chartloom.scaled_services
    set decided_at = '-infinity', not_before = chartloom.clock() + make_interval(secs => p_seconds)
    where service_id = p_service_id
$$;

revoke execute on all functions in schema chartloom from public;
grant execute on function
chartloom.stale_uploads(double precision, uuid, integer),
chartloom.settle_upload(uuid, text, double precision),
chartloom.stored_documents(uuid, integer),
chartloom.settle_stored_documents(uuid[], uuid[], double precision),
chartloom.note_unknown_files(text[], bigint[], double precision),
chartloom.release_unknown_file(text, double precision),
chartloom.resume_documents(double precision, integer),
chartloom.delete_expired(integer, integer),
chartloom.make_archive_partition(date),
chartloom.drop_archive_partition(integer),
chartloom.keep_house(integer),
chartloom.decide_scaling(text, text[], double precision, double precision, double precision, double precision),
chartloom.put_off_scaling(text, double precision)
to chartloom_sweeper, chartloom_operator;
