-- The unexposed schema, and a role for each service. Users' rows are in `public`, which the API serves; everything that
-- moves a document is in `chartloom`, which it does not.

create schema if not exists chartloom;

do $$
declare
    v_role text;
begin
    -- A service signs in as its own role (`alter role chartloom_ocr login password …`). It owns nothing and holds no
    -- grant on any table: whatever it may do is a function that it may execute.
    foreach v_role in array array[
        'chartloom_worker', 'chartloom_operator',
        'chartloom_ocr', 'chartloom_ai', 'chartloom_persister', 'chartloom_sweeper'
    ] loop
        if not exists (select from pg_roles where rolname = v_role) then
            execute format('create role %I nologin', v_role);
            -- Who is frozen in the middle of a transaction holds its job's row, past which no sweep gets.
            execute format('alter role %I set idle_in_transaction_session_timeout = %L', v_role, '60s');
        end if;
    end loop;
end
$$;

grant chartloom_worker to chartloom_ocr, chartloom_ai, chartloom_persister, chartloom_sweeper;

grant usage on schema chartloom to chartloom_worker, chartloom_operator, service_role, authenticated;

create function chartloom.moved_clock() returns timestamptz
language plpgsql volatile
set search_path = ''
as $$
begin
    if session_user = (select nspowner::regrole::text from pg_catalog.pg_namespace where nspname = 'chartloom') then
        return current_setting('chartloom.clock')::timestamptz;
    end if;
    return clock_timestamp();
end
$$;

-- The one clock. Tests move it (`set chartloom.clock = '…'`), signed in as the owner; anybody else's setting is ignored.
-- PL/pgSQL here and in whatever every job passes: its plans are kept, a SQL function's are made at each call (0.3 ms for this).
create function chartloom.clock() returns timestamptz
language plpgsql volatile
set search_path = ''
as $$
begin
    -- One expression: each of them costs as much as all the rest.
    return case when coalesce(current_setting('chartloom.clock', true), '') = '' then clock_timestamp()
        else chartloom.moved_clock() end;
end
$$;

-- Who calls, seen from inside a SECURITY DEFINER function: the role of SET ROLE (as an API gateway uses it), else the login.
create function chartloom.caller_role() returns text
language plpgsql stable
set search_path = ''
as $$
begin
    return case current_setting('role') when 'none' then session_user::text else current_setting('role') end;
end
$$;

-- A W3C trace context (https://www.w3.org/TR/trace-context/), from random UUIDs so that no extension is needed.
create function chartloom.new_traceparent() returns text
language plpgsql volatile
set search_path = ''
as $$
begin
    return '00-' || replace(gen_random_uuid()::text, '-', '') || '-'
        || left(replace(gen_random_uuid()::text, '-', ''), 16) || '-01';
end
$$;

-- Null is valid: a context is made then. All zeros are not a context, by the same recommendation.
create function chartloom.is_traceparent(p_traceparent text) returns boolean
language plpgsql immutable
set search_path = ''
as $$
begin
    return p_traceparent is null or (
        p_traceparent ~ '^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$' and p_traceparent !~ '^00-0{32}|-0{16}-'
    );
end
$$;

create function chartloom.trace_id(p_traceparent text) returns text
language sql immutable
set search_path = ''
as $$ select split_part(p_traceparent, '-', 2) $$;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
