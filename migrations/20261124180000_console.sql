-- The console: users' own pages. Its role signs in and may become a user or an operator, for one transaction; besides it may sleep
-- until something changes, and ask which of the documents that its users watch did.

set local lock_timeout = '5s';
set local statement_timeout = '30s';

do $$
begin
    if not exists (select from pg_roles where rolname = 'chartloom_console') then
        -- NOINHERIT: whatever it does for a user, it does as that user or not at all.
        create role chartloom_console nologin noinherit;
        alter role chartloom_console set idle_in_transaction_session_timeout = '60s';
    end if;
    grant chartloom_operator to chartloom_console;
    begin
        grant authenticated to chartloom_console;
    exception when insufficient_privilege then
        -- Supabase's owner may grant it; that of a plain Postgres may since plain_postgres.sql of release 0.2.
        raise warning 'The console can''t serve users yet. As a superuser: grant authenticated to chartloom_console';
    end;
end
$$;

grant usage on schema chartloom to chartloom_console;
grant execute on function chartloom.fall_asleep(text, text[]), chartloom.wake_up(text) to chartloom_console;

-- Operators were let see job_history, but not what it is made of, as which it is read.
grant select on chartloom.job_queue, chartloom.job_archive to chartloom_operator;
create policy operators_read on chartloom.job_queue for select to chartloom_operator using (true);
create policy operators_read on chartloom.job_archive for select to chartloom_operator using (true);

-- How far documents are: a row a job type of the current run, for whoever may read the document.
create function chartloom.document_stages(p_shell_file_ids uuid[])
returns table (
    shell_file_id uuid,
    job_type text,
    first_job_id bigint,
    jobs bigint,
    completed bigint,
    status text,
    attempts integer,
    progress real,
    error_code text,
    worked_seconds double precision
)
language plpgsql stable security definer
set search_path = ''
as $$
#variable_conflict use_column
begin
    return query
    select f.id, h.job_type, min(h.id), count(*), count(*) filter (where h.status = 'completed'),
        (array['dead_letter', 'processing', 'failed', 'pending', 'cancelled', 'completed'])[min(
            array_position(array['dead_letter', 'processing', 'failed', 'pending', 'cancelled', 'completed'], h.status)
        )],
        max(h.retry_count + h.lease_losses + 1),
        (sum(case h.status when 'completed' then 1 else coalesce(h.progress, 0) end) / count(*))::real,
        max(h.error ->> 'code'),
        extract(epoch from max(coalesce(h.completed_at, clock_timestamp())) - min(h.started_at))::double precision
    from public.shell_files as f
    cross join lateral (
        select q.id, q.job_type, q.status, q.retry_count, q.lease_losses, q.error, q.started_at, q.completed_at,
            q.progress
        from chartloom.job_queue as q
        where q.shell_file_id = f.id and q.payload ->> 'run_id' = f.current_run_id::text
        union all
        select a.id, a.job_type, a.status, a.retry_count, a.lease_losses, a.error, a.started_at, a.completed_at, null
        from chartloom.job_archive as a
        where a.shell_file_id = f.id and a.payload ->> 'run_id' = f.current_run_id::text
    ) as h
    where f.id = any(p_shell_file_ids) and f.patient_id = any(array(select chartloom.accessible_profiles('read')))
    group by f.id, h.job_type;
end
$$;

-- The jobs of a document's current run with what ended each failed attempt, for whoever may read the document: what
-- `chartloom trace` shows an operator, without the names of machines.
create function chartloom.document_jobs(p_shell_file_id uuid)
returns table (
    id bigint,
    job_type text,
    job_category text,
    status text,
    created_at timestamptz,
    started_at timestamptz,
    completed_at timestamptz,
    errors jsonb
)
language plpgsql stable security definer
set search_path = ''
as $$
#variable_conflict use_column
begin
    return query
    select h.id, h.job_type, h.job_category, h.status, h.created_at, h.started_at, h.completed_at,
        coalesce((
            select jsonb_agg(jsonb_build_object(
                'kind', e.kind, 'code', e.code, 'started_at', e.started_at, 'occurred_at', e.occurred_at
            ) order by e.id)
            from chartloom.processing_errors as e where e.job_id = h.id
        ), '[]')
    from public.shell_files as f
    join chartloom.job_history as h
        on h.shell_file_id = f.id and h.payload ->> 'run_id' = f.current_run_id::text
    where f.id = p_shell_file_id and f.patient_id = any(array(select chartloom.accessible_profiles('read')))
    order by h.id;
end
$$;

-- Something to compare: the mark of a document is another one when it or its work has moved, the mark of a user when one of
-- their profiles has a new document. One statement for all who watch; what they are told of it, the users' own queries decide.
create function chartloom.watched_marks(p_user_ids uuid[], p_shell_file_ids uuid[])
returns table (id uuid, mark text)
language plpgsql volatile security definer
set search_path = ''
as $$
#variable_conflict use_column
begin
    return query
    select f.id, concat_ws(' ', f.status, f.current_run_id, (
        select string_agg(concat_ws(':', q.id, q.status, q.retry_count, round(q.progress::numeric, 2)), ' ' order by q.id)
        from chartloom.job_queue as q where q.shell_file_id = f.id
    ))
    from public.shell_files as f where f.id = any(p_shell_file_ids);
    return query
    select u.user_id, max(newest.created_at)::text
    from (
        select p.owner_user_id as user_id, p.id as profile_id
        from public.user_profiles as p where p.owner_user_id = any(p_user_ids)
        union all
        select a.grantee_user_id, a.profile_id
        from public.profile_access as a where a.grantee_user_id = any(p_user_ids)
    ) as u
    cross join lateral (
        select f.created_at from public.shell_files as f
        where f.patient_id = u.profile_id order by f.created_at desc limit 1
    ) as newest
    group by u.user_id;
end
$$;

-- What each model found and what people made of it, in numbers alone.
create function chartloom.model_comparison()
returns table (
    provider text,
    model text,
    prompt_version text,
    documents bigint,
    findings bigint,
    words_differ bigint,
    accepted bigint,
    corrected bigint,
    dismissed bigint,
    last_used timestamptz
)
language sql stable security definer
set search_path = ''
as $$
    select e.provider, e.model, e.prompt_version, count(distinct e.shell_file_id), count(*),
        count(*) filter (where e.alignment = 'fuzzy'),
        count(*) filter (where e.review = 'accepted'), count(*) filter (where e.review = 'corrected'),
        count(*) filter (where e.review = 'dismissed'), max(e.created_at)
    from public.patient_clinical_events as e
    where e.superseded_by_run_id is null
    group by e.provider, e.model, e.prompt_version
    order by max(e.created_at) desc
$$;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
grant execute on function chartloom.document_stages(uuid[]), chartloom.document_jobs(uuid) to authenticated;
grant execute on function chartloom.watched_marks(uuid[], uuid[]) to chartloom_console;
grant execute on function chartloom.model_comparison() to chartloom_operator;
