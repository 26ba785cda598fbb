-- Who did what to whose rows: ids and names of tables and columns, never a value, so that erasing a record leaves it intact.
--
-- Nobody can forget it: chartloom.audit_table puts triggers on a table, and a change whose audit can't be written does not
-- happen. Nobody can bend it unseen: a patient's events are a chain of hashes (docs/decisions/0010). A chain a patient, not one
-- for all, which would make every commit wait for every other.

create table public.audit_log (
    patient_id uuid not null,
    seq bigint not null,
    occurred_at timestamptz not null,
    action text not null check (action in ('insert', 'update', 'delete', 'read', 'denied', 'erase', 'export')),
    table_name text not null,
    row_ids text[] not null,
    column_names text[],
    actor_user_id uuid,
    actor_role text not null,
    job_id bigint,
    trace_id text,
    previous_hash bytea not null,
    hash bytea not null,
    primary key (patient_id, seq)
);
comment on table public.audit_log is 'One event a statement and patient. Append-only; chartloom.verify_audit finds what was changed, deleted or re-ordered.';
comment on column public.audit_log.row_ids is 'All rows that the statement touched.';
comment on column public.audit_log.column_names is 'Of an update: what changed.';

create table chartloom.audit_chains (
    patient_id uuid primary key,
    length bigint not null,
    last_hash bytea not null
)
with (fillfactor = 50);
comment on table chartloom.audit_chains is 'The end of each patient''s chain: whoever appends holds its row, and a deleted last event shows.';

create table public.failed_audit_events (
    id bigint generated always as identity primary key,
    failed_at timestamptz not null default clock_timestamp(),
    patient_id uuid not null,
    action text not null,
    table_name text not null,
    row_ids text[] not null,
    actor_user_id uuid,
    actor_role text not null,
    sqlstate text not null
);
comment on table public.failed_audit_events is 'Reads and denials whose event could not be written. They happened all the same, so the sweeper tries again.';

create function chartloom.audit_hash(p_event public.audit_log) returns bytea
language plpgsql immutable
set search_path = ''
as $$
begin
    return sha256(p_event.previous_hash || convert_to(jsonb_build_array(
        p_event.patient_id, p_event.seq, (extract(epoch from p_event.occurred_at) * 1000000)::bigint, p_event.action,
        p_event.table_name, p_event.row_ids, p_event.column_names, p_event.actor_user_id, p_event.actor_role,
        p_event.job_id, p_event.trace_id
    )::text, 'UTF8'));
end
$$;

-- Appends to the patient's chain, in the caller's transaction. Job and trace are those that hold_lease and the upload
-- functions left in the transaction's settings.
create function chartloom.log_audit_event(
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
    insert into chartloom.audit_chains as c (patient_id, length, last_hash) values (p_patient_id, 0, '')
    on conflict (patient_id) do update set length = c.length
    returning c.length + 1, c.last_hash into v_event.seq, v_event.previous_hash;
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

-- What happened without a change: a read through the API, a denial. It must not fail because its event does, so a failed
-- event is kept apart and tried again.
create function chartloom.log_access(p_action text, p_table_name text, p_patient_id uuid, p_row_ids text[]) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform chartloom.log_audit_event(p_action, p_table_name, p_patient_id, p_row_ids);
exception when others then
    insert into public.failed_audit_events (
        patient_id, action, table_name, row_ids, actor_user_id, actor_role, sqlstate
    )
    values (p_patient_id, p_action, p_table_name, p_row_ids, auth.uid(), chartloom.caller_role(), sqlstate);
end
$$;

-- Any number of sweepers at once. Returns how many were written now.
create function chartloom.retry_audit_events(p_limit integer default 100) returns integer
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_failed public.failed_audit_events;
    v_count integer := 0;
begin
    for v_failed in
        select * from public.failed_audit_events order by failed_at limit p_limit for update skip locked
    loop
        begin
            perform chartloom.log_audit_event(
                v_failed.action, v_failed.table_name, v_failed.patient_id, v_failed.row_ids,
                p_actor_user_id => v_failed.actor_user_id, p_actor_role => v_failed.actor_role
            );
            delete from public.failed_audit_events where id = v_failed.id;
            v_count := v_count + 1;
        exception when others then
            update public.failed_audit_events set failed_at = clock_timestamp() where id = v_failed.id;
        end;
    end loop;
    return v_count;
end
$$;

-- What does not fit: one row a finding, none if all is well. Of one patient, or of all.
create function chartloom.verify_audit(p_patient_id uuid default null)
returns table (patient_id uuid, seq bigint, problem text)
language sql stable security definer
set search_path = ''
as $$
    with events as (
        select a as event, a.patient_id, a.seq, a.hash, a.previous_hash,
            row_number() over chain as place, lag(a.hash, 1, ''::bytea) over chain as hash_before
        from public.audit_log as a
        where p_patient_id is null or a.patient_id = p_patient_id
        window chain as (partition by a.patient_id order by a.seq)
    ),
    ends as (
        select e.patient_id, max(e.seq) as length, (array_agg(e.hash order by e.seq desc))[1] as last_hash
        from events as e group by e.patient_id
    )
    select e.patient_id, e.seq,
        case
            when e.seq <> e.place then 'events before it are missing'
            when e.hash <> chartloom.audit_hash(e.event) then 'it was changed'
            else 'it does not follow the one before'
        end
    from events as e
    where e.seq <> e.place or e.previous_hash <> e.hash_before or e.hash <> chartloom.audit_hash(e.event)
    union all
    select coalesce(c.patient_id, n.patient_id), coalesce(n.length, 0),
        case when c.patient_id is null then 'the chain has no end' else 'the last events are missing or were added to' end
    from ends as n full join chartloom.audit_chains as c on c.patient_id = n.patient_id
    where (p_patient_id is null or coalesce(c.patient_id, n.patient_id) = p_patient_id)
        and (c.length, c.last_hash) is distinct from (n.length, n.last_hash)
$$;

-- After a statement on an audited table. Arguments: the patient's column, an expression for a row's id, and the columns that
-- are no part of the record (a document's way through the queue), whose change alone is no event.
create function chartloom.audit_statement() returns trigger
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
        -- Of a document that is new, persist_findings supersedes nothing: this look is kept, the next is planned each time.
        if not exists (select from new_rows) then
            return null;
        end if;
        execute
            'select array_agg(distinct n.key order by n.key) from '
            '(select row_number() over () as place, to_jsonb(r) as j from new_rows as r) as a '
            'join (select row_number() over () as place, to_jsonb(r) as j from old_rows as r) as b using (place), '
            'jsonb_each(a.j) as n where n.value is distinct from b.j -> n.key and n.key <> all($1)'
        into v_columns using v_ignored;
        if v_columns is null then
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

create function chartloom.refuse_change() returns trigger
language plpgsql volatile
set search_path = ''
as $$
begin
    raise exception '% of %: not allowed', lower(tg_op), tg_table_name using errcode = '42501';
end
$$;

create trigger append_only before update or delete or truncate on public.audit_log
for each statement execute function chartloom.refuse_change();

-- Audits every write to a table. Its owner alone could take the triggers away again.
create function chartloom.audit_table(
    p_table regclass, p_patient_column text, p_row_id text, p_ignored_columns text default ''
) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_call constant text := format(
        'for each statement execute function chartloom.audit_statement(%L, %L, %L)',
        p_patient_column, p_row_id, p_ignored_columns
    );
begin
    execute format('create trigger audit_insert after insert on %s referencing new table as new_rows %s', p_table, v_call);
    execute format('create trigger audit_delete after delete on %s referencing old table as old_rows %s', p_table, v_call);
    execute format(
        'create trigger audit_update after update on %s referencing old table as old_rows new table as new_rows %s',
        p_table, v_call
    );
    execute format(
        'create trigger no_truncate before truncate on %s for each statement execute function chartloom.refuse_change()',
        p_table
    );
end
$$;

select chartloom.audit_table('public.user_profiles', 'id', 'id::text');
select chartloom.audit_table('public.profile_access', 'profile_id', 'grantee_user_id::text');

alter table public.audit_log enable row level security;
alter table public.failed_audit_events enable row level security;
alter table chartloom.audit_chains enable row level security;

create policy read_accessible on public.audit_log for select to authenticated
using (patient_id = any (array(select chartloom.accessible_profiles('read'))));
revoke all on public.audit_log, public.failed_audit_events from anon, authenticated, service_role;
grant select on public.audit_log to authenticated, service_role;

grant execute on function chartloom.verify_audit(uuid) to chartloom_operator, service_role;
grant execute on function chartloom.retry_audit_events(integer) to chartloom_sweeper, chartloom_operator;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
