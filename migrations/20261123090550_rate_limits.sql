-- A provider's limits, shared by all instances: reserved before a call, settled after it. A sliding window, not a bucket: a
-- bucket that is full lets twice the limit through in one minute.

create table chartloom.rate_limits (
    limit_key text primary key check (length(limit_key) between 1 and 200),
    requests_per_minute integer check (requests_per_minute > 0),
    tokens_per_minute integer check (tokens_per_minute > 0),
    parked_until timestamptz
);
comment on table chartloom.rate_limits is 'One row a provider and model. A key without a row is not limited.';

create table chartloom.rate_grants (
    id bigint generated always as identity primary key,
    limit_key text not null references chartloom.rate_limits (limit_key) on delete cascade,
    granted_at timestamptz not null,
    tokens integer not null check (tokens >= 0)
);
create index rate_grants_window on chartloom.rate_grants (limit_key, granted_at);

alter table chartloom.rate_limits enable row level security;
alter table chartloom.rate_grants enable row level security;

-- Reserves one call. wait_seconds 0: go, and settle grant_id afterwards (null where the key is not limited). Else: no call now;
-- snooze the job for so long. The window is a second longer than a minute, since a call leaves after its reservation, and the
-- provider counts by its own clock.
create function chartloom.reserve_rate(p_limit_key text, p_tokens integer default 0)
returns table (grant_id bigint, wait_seconds double precision)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_now constant timestamptz := chartloom.clock();
    v_since constant timestamptz := v_now - interval '61 seconds';
    v_limit chartloom.rate_limits;
    v_free_at timestamptz;
begin
    if coalesce(p_tokens < 0, true) then
        raise exception 'tokens must be 0 or more' using errcode = 'CL005';
    end if;
    -- The row lock makes reservations of one key take turns; they are short.
    select * into v_limit from chartloom.rate_limits where limit_key = p_limit_key for update;
    if not found then
        return query select null::bigint, 0::double precision;
        return;
    end if;
    if p_tokens > v_limit.tokens_per_minute then
        raise exception 'tokens: % is more than the limit of a whole minute (%)', p_tokens, v_limit.tokens_per_minute
            using errcode = 'CL005';
    end if;
    delete from chartloom.rate_grants where limit_key = p_limit_key and granted_at <= v_since;
    -- When enough of what counts now has left the window: the newest grant that has to leave decides.
    select max(leaves.granted_at) + interval '61 seconds' into v_free_at
    from (
        select granted_at,
            count(*) over newest_first as calls,
            sum(tokens) over newest_first as spent
        from chartloom.rate_grants where limit_key = p_limit_key
        window newest_first as (order by granted_at desc, id desc)
    ) as leaves
    where leaves.calls >= v_limit.requests_per_minute or leaves.spent + p_tokens > v_limit.tokens_per_minute;
    v_free_at := greatest(v_free_at, v_limit.parked_until);
    if v_free_at > v_now then
        return query select null::bigint, extract(epoch from v_free_at - v_now)::double precision;
        return;
    end if;
    return query
    with granted as (
        insert into chartloom.rate_grants (limit_key, granted_at, tokens) values (p_limit_key, v_now, p_tokens)
        returning id
    )
    select granted.id, 0::double precision from granted;
end
$$;

-- What the call really cost, once it is known.
create function chartloom.settle_rate(p_grant_id bigint, p_tokens integer) returns void
language sql volatile security definer
set search_path = ''
as $$ update chartloom.rate_grants set tokens = p_tokens where id = p_grant_id $$;

-- One 429 speaks for all instances: nobody calls before then. A shorter wait never cuts a longer one.
create function chartloom.park_rate(p_limit_key text, p_seconds double precision) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    if coalesce(p_seconds not between 0 and 86400, true) then
        raise exception 'seconds must be between 0 and 86400' using errcode = 'CL005';
    end if;
    insert into chartloom.rate_limits as l (limit_key, parked_until)
    values (p_limit_key, chartloom.clock() + make_interval(secs => p_seconds))
    on conflict (limit_key) do update set parked_until = greatest(l.parked_until, excluded.parked_until);
end
$$;

create function chartloom.set_rate_limit(
    p_limit_key text, p_requests_per_minute integer, p_tokens_per_minute integer
) returns void
language sql volatile security definer
set search_path = ''
as $$
    insert into chartloom.rate_limits (limit_key, requests_per_minute, tokens_per_minute)
    values (p_limit_key, p_requests_per_minute, p_tokens_per_minute)
    on conflict (limit_key) do update
    set requests_per_minute = excluded.requests_per_minute, tokens_per_minute = excluded.tokens_per_minute
$$;

revoke execute on all functions in schema chartloom from public;
grant execute on function
chartloom.reserve_rate(text, integer), chartloom.settle_rate(bigint, integer),
chartloom.park_rate(text, double precision)
to chartloom_ai, chartloom_ocr;
grant execute on function chartloom.set_rate_limit(text, integer, integer) to chartloom_operator, service_role;
