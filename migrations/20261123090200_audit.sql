-- Who did what to whose rows. Ids and names of tables only, never a value, so that erasing a record leaves it intact.

create table public.audit_log (
    id bigint generated always as identity primary key,
    occurred_at timestamptz not null default clock_timestamp(),
    patient_id uuid not null,
    action text not null check (action in ('insert', 'update', 'delete', 'supersede', 'read', 'denied')),
    table_name text not null,
    row_id text,
    row_count integer not null default 1,
    actor_user_id uuid,
    actor_role text not null,
    job_id bigint,
    trace_id text
);
create index audit_log_patient on public.audit_log (patient_id, id);

create table public.failed_audit_events (
    id bigint generated always as identity primary key,
    failed_at timestamptz not null default clock_timestamp(),
    event jsonb not null,
    sqlstate text not null
);

-- Part of the caller's transaction: if the audit can't be written, the change does not happen either.
create function chartloom.log_audit_event(
    p_action text,
    p_table_name text,
    p_patient_id uuid,
    p_row_id text default null,
    p_row_count integer default 1,
    p_job_id bigint default null,
    p_trace_id text default null
) returns void
language sql security definer
set search_path = ''
as $$
    insert into public.audit_log (
        patient_id, action, table_name, row_id, row_count, actor_user_id, actor_role, job_id, trace_id
    )
    values (
        p_patient_id, p_action, p_table_name, p_row_id, p_row_count,
        (select auth.uid()), chartloom.caller_role(), p_job_id, p_trace_id
    )
$$;

alter table public.audit_log enable row level security;
alter table public.failed_audit_events enable row level security;

create policy read_accessible on public.audit_log for select to authenticated
using (patient_id in (select chartloom.accessible_profiles('read')));
revoke all on public.audit_log, public.failed_audit_events from anon, authenticated, service_role;
grant select on public.audit_log to authenticated, service_role;

-- For tables whose rows change one at a time: the trigger can't be forgotten. Bulk results are audited by the functions that
-- write them, one event a batch.
create function chartloom.audit_row() returns trigger
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_row constant jsonb := to_jsonb(case when tg_op = 'DELETE' then old else new end);
begin
    perform chartloom.log_audit_event(
        lower(tg_op), tg_table_name, (v_row ->> tg_argv[0])::uuid, v_row ->> tg_argv[1],
        p_trace_id => chartloom.trace_id(v_row ->> 'traceparent')
    );
    return null;
end
$$;

create trigger audit after insert or update or delete on public.user_profiles
for each row execute function chartloom.audit_row('id', 'id');
create trigger audit after insert or update or delete on public.profile_access
for each row execute function chartloom.audit_row('profile_id', 'grantee_user_id');

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
