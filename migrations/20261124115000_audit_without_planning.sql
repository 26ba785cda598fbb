-- The audit of an update was half the time of complete_upload: its statement named columns, so it was planned at each call. A
-- trigger's function is compiled once a trigger, so a statement that finds the columns by name is planned once a session.

set local lock_timeout = '5s';
set local statement_timeout = '30s';

-- As before. Inserts keep the planned statement: of ocr_pages and ai_pass_results, whole rows as JSON are dearer than a plan.
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
begin
    if tg_op = 'UPDATE' then
        -- Of a document that is new, persist_findings supersedes nothing.
        if not exists (select from new_rows) then
            return null;
        end if;
        select array_agg(distinct n.key order by n.key) into v_columns
        from (select row_number() over () as place, to_jsonb(r) as j from new_rows as r) as a
        join (select row_number() over () as place, to_jsonb(r) as j from old_rows as r) as b using (place),
            jsonb_each(a.j) as n
        where n.value is distinct from b.j -> n.key and n.key <> all(v_ignored);
        if v_columns is null then
            return null;
        end if;
    end if;
    -- In the order of the patients, so that two statements meet in the same order.
    if tg_op = 'UPDATE' and tg_argv[1] ~ '^[a-z_]+::text$' then
        for v_patient_id, v_row_ids in
            select (r.j ->> tg_argv[0])::uuid as patient_id,
                array_agg(r.j ->> split_part(tg_argv[1], '::', 1) order by r.j ->> split_part(tg_argv[1], '::', 1))
            from (select to_jsonb(n) as j from new_rows as n) as r
            group by 1 order by 1
        loop
            perform chartloom.log_audit_event('update', tg_table_name, v_patient_id, v_row_ids, v_columns);
        end loop;
    else
        for v_patient_id, v_row_ids in execute format(
            'select %I, array_agg(%s order by %2$s) from %I group by 1 order by 1', tg_argv[0], tg_argv[1], v_rows
        ) loop
            perform chartloom.log_audit_event(lower(tg_op), tg_table_name, v_patient_id, v_row_ids, v_columns);
        end loop;
    end if;
    return null;
end
$$;
