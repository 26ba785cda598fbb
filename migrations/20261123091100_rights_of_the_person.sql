-- Everything about one patient, to take along or to be forgotten. What that is comes from the catalogue, so that no table that
-- is made later is left behind.
--
-- An erasure is steps that may each be repeated, since rows and files can't go in one transaction:
--   begin_erasure   remembers the patient's id, which no document is added to from then on; ends their jobs
--   erase_rows      deletes the rows, remembers where the files are
--   (the caller)    deletes the files
--   finish_erasure  forgets where they were
-- Killed anywhere, the same call again goes on from there. What stays: ids and times here, and the audit, which has no values.

create table chartloom.erasures (
    patient_id uuid primary key,
    requested_by uuid,
    requested_at timestamptz not null,
    storage_paths text[] not null default '{}',
    rows_erased_at timestamptz,
    files_erased_at timestamptz
);
comment on table chartloom.erasures is 'Patients who were, or are being, erased. Without files_erased_at it is not done: erase again.';
comment on column chartloom.erasures.storage_paths is 'Files that are still to be deleted, of rows that are gone.';
alter table chartloom.erasures enable row level security;

-- An erased id stays closed: its audit and whatever a late upload left in storage are not for a new holder. Documents and
-- their runs, too, from begin_erasure on: else an app that keeps uploading keeps the erasure from its end.
create function chartloom.refuse_erased() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_patient_id uuid;
begin
    if tg_table_name = 'user_profiles' then
        v_patient_id := new.id;
    elsif tg_table_name = 'shell_files' then
        v_patient_id := new.patient_id;
    else
        select patient_id into v_patient_id from public.shell_files where id = new.shell_file_id;
    end if;
    if exists (select from chartloom.erasures where patient_id = v_patient_id) then
        raise exception 'patient %: it was erased, or is being erased', v_patient_id using errcode = 'CL007';
    end if;
    return new;
end
$$;
create trigger refuse_erased before insert on public.user_profiles
for each row execute function chartloom.refuse_erased();
create trigger refuse_erased before insert on public.shell_files
for each row execute function chartloom.refuse_erased();
create trigger refuse_erased before insert on chartloom.document_runs
for each row execute function chartloom.refuse_erased();

-- Every table with rows of patients, how to find them ($1 the patient, $2 their documents, $3 their jobs), and its turn in a
-- deletion: whoever refers to a table goes before it.
create function chartloom.patient_tables() returns table (relation regclass, condition text, turn integer)
language sql stable
set search_path = ''
as $$
    with recursive held as (
        select c.oid, string_agg(
            case
                when a.attname = 'shell_file_id' then 'shell_file_id = any($2)'
                when a.attname in ('job_id', 'parent_job_id') then format('%I = any($3)', a.attname)
                else format('%I = $1', a.attname)
            end,
            ' or '
        ) as condition
        from pg_catalog.pg_class as c
        join pg_catalog.pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relkind in ('r', 'p') and not c.relispartition
            and c.relnamespace in ('public'::regnamespace, 'chartloom'::regnamespace)
            and (
                a.attname in ('patient_id', 'profile_id', 'shell_file_id', 'job_id', 'parent_job_id')
                or c.oid = 'public.user_profiles'::regclass and a.attname = 'id'
            )
        group by c.oid
    ),
    referred as (
        select distinct conrelid, confrelid from pg_catalog.pg_constraint where contype = 'f' and conrelid <> confrelid
    ),
    turns as (
        select oid, 0 as turn from held
        union all
        -- Bounded, should tables ever refer to each other.
        select r.confrelid, t.turn + 1 from turns as t join referred as r on r.conrelid = t.oid where t.turn < 20
    )
    select h.oid::regclass, h.condition, max(t.turn)
    from held as h join turns as t on t.oid = h.oid
    group by h.oid, h.condition
$$;

create function chartloom.owns_profile(p_patient_id uuid) returns boolean
language sql stable
set search_path = ''
as $$
    select exists (
        select from public.user_profiles where id = p_patient_id and owner_user_id = auth.uid()
    ) or exists (
        select from chartloom.erasures where patient_id = p_patient_id and requested_by = auth.uid()
    )
$$;

-- All rows of a patient; none to whom they are not (a delegate may read a record, not take all of it away).
create function chartloom.export_rows(p_patient_id uuid) returns table (table_name text, contents jsonb)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_files constant uuid[] := array(select id from public.shell_files where patient_id = p_patient_id);
    v_jobs constant bigint[] := array(select id from chartloom.job_history where patient_id = p_patient_id);
    v_table record;
begin
    if not exists (select from public.user_profiles where id = p_patient_id) then
        return;
    end if;
    if not (chartloom.owns_profile(p_patient_id) or chartloom.acts_as_operator()) then
        perform chartloom.log_access('denied', 'user_profiles', p_patient_id, array[p_patient_id::text]);
        return;
    end if;
    perform chartloom.log_access('export', 'user_profiles', p_patient_id, array[p_patient_id::text]);
    for v_table in select * from chartloom.patient_tables() loop
        -- A lease token is a key to a job, no fact about anybody.
        return query execute format(
            'select %L, to_jsonb(t) - ''lease_token'' from %s as t where %s',
            (select relname from pg_catalog.pg_class where oid = v_table.relation), v_table.relation, v_table.condition
        ) using p_patient_id, v_files, v_jobs;
    end loop;
end
$$;

-- May be repeated, also when all is done. Returns how many jobs it ended, or a refusal.
create function chartloom.begin_erasure(p_patient_id uuid) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_exists constant boolean := exists (select from public.user_profiles where id = p_patient_id);
    v_jobs integer;
begin
    if not (chartloom.owns_profile(p_patient_id) or chartloom.acts_as_operator())
        or not (v_exists or exists (select from chartloom.erasures where patient_id = p_patient_id)) then
        if v_exists then
            perform chartloom.log_access('denied', 'user_profiles', p_patient_id, array[p_patient_id::text]);
        end if;
        return chartloom.refusal('CL007', 'patient_id: no such patient');
    end if;
    insert into chartloom.erasures (patient_id, requested_by, requested_at)
    values (p_patient_id, auth.uid(), chartloom.clock())
    on conflict (patient_id) do update set files_erased_at = null;
    -- Jobs before documents, in the order of the workers: who holds a job waits for its document, never the other way round.
    select coalesce(sum(chartloom.cancel_live_jobs(id)), 0) into v_jobs
    from public.shell_files where patient_id = p_patient_id;
    perform chartloom.wake('changes', 0);
    return jsonb_build_object('jobs_cancelled', v_jobs);
end
$$;

-- False, and nothing is changed, where an upload that was under way has brought a new job: begin again.
create function chartloom.erase_rows(p_patient_id uuid) returns boolean
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_files uuid[];
    v_jobs bigint[];
    v_table record;
begin
    if not (chartloom.owns_profile(p_patient_id) or chartloom.acts_as_operator()) then
        raise exception 'patient_id: no such patient' using errcode = 'CL007';
    end if;
    perform from chartloom.erasures where patient_id = p_patient_id for update;
    if not found then
        raise exception 'begin_erasure comes first' using errcode = 'CL005';
    end if;
    -- complete_upload holds the document, create_upload (by its foreign key) the profile: whoever came first is waited for,
    -- whoever comes later finds nothing. Documents again, for one that was made before the profile was locked.
    perform from public.shell_files where patient_id = p_patient_id for update;
    perform from public.user_profiles where id = p_patient_id for update;
    perform from public.shell_files where patient_id = p_patient_id for update;
    v_files := array(select id from public.shell_files where patient_id = p_patient_id);
    if exists (select from chartloom.job_queue where shell_file_id = any(v_files)) then
        return false;
    end if;
    v_jobs := array(select id from chartloom.job_history where patient_id = p_patient_id);

    update chartloom.erasures
    set rows_erased_at = chartloom.clock(), storage_paths = array(
        select unnest(storage_paths) union select storage_path from public.shell_files where patient_id = p_patient_id
    )
    where patient_id = p_patient_id;
    if exists (select from public.user_profiles where id = p_patient_id) then
        perform chartloom.log_audit_event('erase', 'user_profiles', p_patient_id, array[p_patient_id::text]);
    end if;
    for v_table in
        select * from chartloom.patient_tables()
        where relation not in (
            'public.audit_log', 'public.failed_audit_events', 'chartloom.audit_chains', 'chartloom.erasures'
        )
        order by turn
    loop
        execute format('delete from %s where %s', v_table.relation, v_table.condition)
        using p_patient_id, v_files, v_jobs;
    end loop;
    return true;
end
$$;

create function chartloom.files_to_erase(p_patient_id uuid) returns text[]
language plpgsql stable security definer
set search_path = ''
as $$
begin
    if chartloom.owns_profile(p_patient_id) or chartloom.acts_as_operator() then
        return (select storage_paths from chartloom.erasures where patient_id = p_patient_id);
    end if;
    return null;
end
$$;

-- The caller has deleted the files.
create function chartloom.finish_erasure(p_patient_id uuid) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_files constant text[] := chartloom.files_to_erase(p_patient_id);
begin
    update chartloom.erasures set storage_paths = '{}', files_erased_at = chartloom.clock()
    where patient_id = p_patient_id and rows_erased_at is not null and v_files is not null;
    if not found then
        raise exception 'erase_rows comes first' using errcode = 'CL005';
    end if;
    if cardinality(v_files) > 0 then
        perform chartloom.log_audit_event('erase', 'storage', p_patient_id, '{}');
    end if;
end
$$;

grant execute on function
chartloom.export_rows(uuid),
chartloom.begin_erasure(uuid),
chartloom.erase_rows(uuid),
chartloom.files_to_erase(uuid),
chartloom.finish_erasure(uuid)
to authenticated, service_role, chartloom_operator;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
