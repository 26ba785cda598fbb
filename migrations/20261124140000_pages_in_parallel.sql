-- A long document is read by many: the job that opens it hands its pages to children, and what follows it follows the last of them.
-- Each page is kept as it is read, so that whoever comes after a crash reads only what is missing.

set local lock_timeout = '5s';
set local statement_timeout = '30s';

-- Only complete_job reads it, which is replaced below.
-- squawk-ignore ban-drop-not-null
alter table chartloom.job_groups alter column join_job_type drop not null;
alter table chartloom.job_groups add column follows_job_type text;
comment on column chartloom.job_groups.follows_job_type is 'In place of a join: whatever pipeline_steps has after this type, which is the parent''s, follows the last child.';
-- The table is as small as the work; nothing of before can break it.
alter table chartloom.job_groups add constraint follows_something
check (num_nonnulls(join_job_type, follows_job_type) = 1) not valid;

-- squawk-ignore prefer-bigint-over-int
alter table chartloom.document_runs add column page_count integer check (page_count >= 1);
comment on column chartloom.document_runs.page_count is 'How many pages the document has, once somebody has opened it: ocr_pages of the run fill up to it.';

alter table public.ocr_pages add column image_path text;
comment on column public.ocr_pages.image_path is 'Where the upright page image is in storage, for review; null where none was kept.';

insert into chartloom.job_types (job_type, job_category, worker_role, payload_schema, max_run_seconds) values
(
    'ocr_pages', 'fast', 'chartloom_ocr',
    '{"shell_file_id": "uuid", "run_id": "uuid", "first_page": "integer", "last_page": "integer"}', 900
);

-- -- Fan-out and what follows ---------------------------------------------------------------------------------------------

-- As before, and: without a join type, what follows the job's own type follows the last of its children.
create or replace function chartloom.fan_out_job(
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
    if p_join_job_type is not null and not exists (
        select from chartloom.job_types where job_type = p_join_job_type
    ) then
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
    insert into chartloom.job_groups (
        parent_job_id, join_job_type, follows_job_type, join_payload, remaining, created_at
    )
    values (
        p_job_id, p_join_job_type, case when p_join_job_type is null then v_job.job_type end, v_job.payload,
        jsonb_array_length(p_child_payloads), chartloom.clock()
    )
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

-- As before, for groups without a join type as well.
create or replace function chartloom.complete_job(
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
                for v_join in
                    select t.* from chartloom.job_types as t
                    where t.job_type = any(v_group.join_job_type || array(
                        select s.next_job_type from chartloom.pipeline_steps as s
                        where s.after_job_type = v_group.follows_job_type
                    ))
                    order by t.job_type
                loop
                    v_next_ids := v_next_ids || chartloom.insert_job(
                        v_join, v_group.join_payload, v_job.priority, null, null, v_job.fairness_key,
                        coalesce(p_traceparent, v_job.traceparent), null, v_job.shell_file_id, v_job.patient_id
                    );
                end loop;
            end if;
        end if;
        if v_next_ids = '{}' and v_job.shell_file_id is not null and coalesce(v_group.remaining, 0) = 0 then
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

-- As before, but a document of which another part is still a dead letter stays failed.
create or replace function chartloom.redrive_jobs(p_job_ids bigint[], p_per_second double precision default null)
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
        update public.shell_files as f set status = 'processing', processing_error = null
        where f.id = v_job.shell_file_id and f.status in ('failed', 'quarantined')
            and f.current_run_id = (v_job.payload ->> 'run_id')::uuid
            and not exists (
                select from chartloom.job_queue as q
                where q.shell_file_id = f.id and q.status = 'dead_letter'
                    and q.payload ->> 'run_id' = v_job.payload ->> 'run_id'
            );
        perform chartloom.wake(v_job.job_type, 1);
        v_place := v_place + 1;
        return next v_job.id;
    end loop;
end
$$;

-- As before, and: a document that had been handed to children begins anew, since it reads only the pages that are missing.
create or replace function chartloom.resume_documents(p_grace_seconds double precision default 900, p_limit integer default 100)
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
    v_begins_anew boolean;
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
        -- Children that are lost can't be told from those that are done, but the pages that are missing can.
        delete from chartloom.job_groups as g using chartloom.job_archive as a
        where a.id = g.parent_job_id and a.shell_file_id = v_file.id and a.payload = v_payload and g.remaining > 0
            and a.job_type = 'ocr';
        v_begins_anew := found;
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
                and case
                when v_begins_anew then t.job_type = 'ocr'
                when t.job_type = any(v_done) then false
                when v_done <> '{}' then t.job_type in (
                    select s.next_job_type from chartloom.pipeline_steps as s where s.after_job_type = any(v_done)
                )
                -- A run that reads the pages of an earlier one begins after OCR.
                when v_run.ocr_run_id <> v_run.id then t.job_type in (
                    select s.next_job_type from chartloom.pipeline_steps as s where s.after_job_type = 'ocr'
                ) and not exists (select from public.ai_pass_results as r where r.run_id = v_run.id)
                else t.job_type = 'ocr'
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

-- -- Pages ----------------------------------------------------------------------------------------------------------------

-- The pages of the job's run that nobody has read yet, in order, of as many as the document turned out to have.
create function chartloom.missing_pages(p_job_id bigint, p_lease_token uuid, p_page_count integer) returns integer[]
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_job constant chartloom.job_queue := chartloom.hold_lease(p_job_id, p_lease_token);
    v_run_id constant uuid := (v_job.payload ->> 'run_id')::uuid;
begin
    if coalesce(p_page_count not between 1 and 100000, true) then
        raise exception 'page_count must be between 1 and 100000' using errcode = 'CL005';
    end if;
    update chartloom.document_runs set page_count = p_page_count
    where id = v_run_id and page_count is distinct from p_page_count;
    return array(
        select n.page from generate_series(1, p_page_count) as n (page)
        where not exists (select from public.ocr_pages as p where p.run_id = v_run_id and p.page = n.page)
        order by n.page
    );
end
$$;

-- As before, but any number of times for one job, and a page that is there already stays as it is: it was written by the lease of
-- then, and what followed may have read it. Returns how many of these pages are there now.
create or replace function chartloom.save_ocr_pages(p_job_id bigint, p_lease_token uuid, p_pages jsonb) returns integer
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_job constant chartloom.job_queue := chartloom.hold_lease(p_job_id, p_lease_token);
    v_run_id constant uuid := (v_job.payload ->> 'run_id')::uuid;
begin
    insert into public.ocr_pages (
        run_id, page, shell_file_id, patient_id, width, height, text, words, text_source, engine, engine_version,
        tables, corrections, timings, image_path
    )
    select v_run_id, p.page, v_job.shell_file_id, v_job.patient_id,
        p.width, p.height, p.text, p.words, p.text_source, p.engine, p.engine_version,
        coalesce(p.tables, '[]'), coalesce(p.corrections, '[]'), coalesce(p.timings, '{}'), p.image_path
    from jsonb_to_recordset(p_pages) as p (
        page integer, width integer, height integer, text text, words jsonb, text_source text,
        engine text, engine_version text, tables jsonb, corrections jsonb, timings jsonb, image_path text
    )
    on conflict (run_id, page) do nothing;
    return jsonb_array_length(p_pages);
end
$$;

-- -- Page images ----------------------------------------------------------------------------------------------------------

-- Nobody else's path, and always the same one for a page.
alter table public.ocr_pages add constraint image_path_is_its_own check (
    image_path = patient_id::text || '/pages/' || run_id::text || '/' || page::text || '.jpg'
) not valid;

-- Whether a stored file is the image of a page that the caller may see.
create function chartloom.is_page_image(p_path text) returns boolean
language plpgsql stable
set search_path = ''
as $$
begin
    if p_path !~ '^[0-9a-f-]{36}/pages/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/[0-9]{1,6}[.]jpg$' then
        return false;
    end if;
    return exists (
        select from public.ocr_pages
        where run_id = split_part(p_path, '/', 3)::uuid
            and page = split_part(split_part(p_path, '/', 4), '.', 1)::integer and image_path = p_path
    );
end
$$;

-- Whoever may read the page may read its image; nobody but the service puts one.
drop policy chartloom_read_accessible on storage.objects;
create policy chartloom_read_accessible on storage.objects for select to authenticated
using (
    bucket_id = 'records'
    and (
        name in (
            select f.storage_path from public.shell_files as f
            where f.storage_path = objects.name and f.patient_id in (select chartloom.accessible_profiles('read'))
        )
        or chartloom.is_page_image(name)
    )
);

-- As before; the image of a page is no unknown file.
create or replace function chartloom.note_unknown_files(p_paths text[], p_sizes bigint[], p_grace_seconds double precision)
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
        and not chartloom.is_page_image(t.path)
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
        where s.storage_path = any(p_paths) and s.kind = 'row_missing' and (
            exists (select from public.shell_files as f where f.storage_path = s.storage_path)
            or chartloom.is_page_image(s.storage_path)
        )
        order by s.storage_path for update of s skip locked
    );
end
$$;

-- As before, likewise.
create or replace function chartloom.release_unknown_file(p_storage_path text, p_grace_seconds double precision) returns boolean
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
    if exists (select from public.shell_files where storage_path = p_storage_path)
        or chartloom.is_page_image(p_storage_path) then
        return false;
    end if;
    delete from chartloom.storage_findings where storage_path = p_storage_path;
    if v_finding.patient_id is not null then
        perform chartloom.log_audit_event('delete', 'storage', v_finding.patient_id, '{}');
    end if;
    return true;
end
$$;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
grant execute on function chartloom.missing_pages(bigint, uuid, integer) to chartloom_ocr;
grant execute on function chartloom.is_page_image(text) to authenticated;
