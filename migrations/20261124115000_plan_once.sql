-- What complete_upload spent on plans. The audit of an update names columns, so its statements were planned at each call: two
-- fifths of the time. A trigger's function is compiled once a trigger, so one row's columns can be found by a plan that is kept.

set local lock_timeout = '5s';
set local statement_timeout = '30s';

-- As before, but for the update of one row.
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
        select count(*) into v_count from new_rows;
        if v_count = 0 then
            -- Of a document that is new, persist_findings supersedes nothing.
            return null;
        elsif v_count = 1 then
            select to_jsonb(n), to_jsonb(o) into v_new, v_old from new_rows as n, old_rows as o;
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

-- A function in SQL is parsed and planned at each call where it can't be inlined, in PL/pgSQL once a session: these four were
-- a quarter of complete_upload.
create or replace function chartloom.trace_id(p_traceparent text) returns text
language plpgsql immutable
set search_path = ''
as $$
begin
    return split_part(p_traceparent, '-', 2);
end
$$;

create or replace function chartloom.has_profile_access(p_profile_id uuid, p_level text default 'read') returns boolean
language plpgsql stable security definer
set search_path = ''
as $$
begin
    return exists (
        select from chartloom.accessible_profiles(p_level) as profile_id where profile_id = p_profile_id
    );
end
$$;

create or replace function public.create_upload(
    p_patient_id uuid,
    p_file_name text,
    p_sha256 text,
    p_size_bytes bigint,
    p_mime_type text default null,
    p_traceparent text default null
) returns jsonb
language plpgsql volatile security invoker
set search_path = ''
as $$
begin
    return chartloom.answer(
        chartloom.create_upload(p_patient_id, p_file_name, p_sha256, p_size_bytes, p_mime_type, p_traceparent), '403'
    );
end
$$;

create or replace function public.complete_upload(p_shell_file_id uuid) returns jsonb
language plpgsql volatile security invoker
set search_path = ''
as $$
begin
    return chartloom.answer(chartloom.complete_upload(p_shell_file_id), '404');
end
$$;
