-- A provider's limits, in slots: a call is given the moment at which it may leave, a little ahead, and whoever has to wait longer
-- is given a place in a line. So the callers come back one after another, not all at the first free moment, and the limit is
-- used up while work is waiting. What counts is summed up by the quarter of a second: a look at 250 rows, whatever the limit.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

alter table chartloom.rate_limits add column line_until timestamptz;
comment on column chartloom.rate_limits.line_until is 'When the last of those who were put off comes back.';

create table chartloom.rate_slots (
    limit_key text not null references chartloom.rate_limits (limit_key) on delete cascade,
    slot_at timestamptz not null,
    requests bigint not null,
    tokens bigint not null,
    primary key (limit_key, slot_at)
)
with (fillfactor = 50);
comment on table chartloom.rate_slots is 'What may leave, or left, in each quarter of a second: chartloom.rate_grants, summed up.';
alter table chartloom.rate_slots enable row level security;

-- Calls of 0.1.0 that still count.
insert into chartloom.rate_slots (limit_key, slot_at, requests, tokens)
select limit_key, date_bin('250 milliseconds', granted_at, 'epoch'), count(*), sum(tokens)
from chartloom.rate_grants where granted_at > chartloom.clock() - interval '62 seconds'
group by 1, 2;

-- Takes a call's place. With a grant: it may leave in wait_seconds, which are at most the caller's patience; settle_rate tells
-- afterwards what it cost. With none and nothing to wait for: the key is not limited. With none and a wait: come back then.
-- A grant that the caller could not use in time is given back with the next question.
--
-- A slot counts for 61.5 seconds: a call may arrive more than a second after it might have left, and no minute at the other side
-- sees more than the limit. A burst is spread over a quarter of the minute: endpoints count in shorter windows, too.
create function chartloom.reserve_rate_slot(
    p_limit_key text, p_tokens integer, p_patience_seconds double precision, p_unused_grant_id bigint default null
) returns table (grant_id bigint, wait_seconds double precision)
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_width constant interval := interval '250 milliseconds';
    v_counts constant interval := interval '61.5 seconds';
    v_burst constant double precision := 4;
    v_crowd constant double precision := 0.8;
    v_longest constant double precision := 300;
    v_patience constant interval := make_interval(secs => p_patience_seconds);
    v_limit chartloom.rate_limits;
    v_now timestamptz;
    v_slot_at timestamptz;
    v_at timestamptz;
    v_seen record;
    v_return_at timestamptz;
begin
    if coalesce(p_tokens < 0, true) then
        raise exception 'tokens must be 0 or more' using errcode = 'CL005';
    end if;
    if coalesce(p_patience_seconds not between 0 and 60, true) then
        raise exception 'patience_seconds must be between 0 and 60' using errcode = 'CL005';
    end if;
    -- The row lock makes reservations of one key take turns; they are short.
    select * into v_limit from chartloom.rate_limits as l where l.limit_key = p_limit_key for update;
    if not found then
        return query select null::bigint, 0::double precision;
        return;
    end if;
    if p_tokens > v_limit.tokens_per_minute then
        raise exception 'tokens: % is more than the limit of a whole minute (%)', p_tokens, v_limit.tokens_per_minute
            using errcode = 'CL005';
    end if;
    -- Not before the lock: whoever waited for it must not get a moment that is over.
    v_now := chartloom.clock();
    if coalesce(v_limit.requests_per_minute, v_limit.tokens_per_minute) is null then
        -- It is only parked. Nobody knows what it would take, so they come back spread over as long again.
        return query select null::bigint, coalesce(
            greatest(extract(epoch from v_limit.parked_until - v_now)::double precision, 0) * (1 + random()), 0
        );
        return;
    end if;
    if p_unused_grant_id is not null then
        with unused as (
            delete from chartloom.rate_grants as g where g.id = p_unused_grant_id and g.limit_key = p_limit_key
            returning g.granted_at, g.tokens
        )
        update chartloom.rate_slots as s set requests = s.requests - 1, tokens = s.tokens - u.tokens
        from unused as u where s.limit_key = p_limit_key and s.slot_at = date_bin(v_width, u.granted_at, 'epoch');
    end if;
    -- Slots are given in their order, so all that counts lies before the one looked for. It is free when enough of them have
    -- left the window: the newest that has to leave decides.
    select max(w.slot_at) as slot_at, coalesce(max(w.calls), 0) as calls, coalesce(max(w.spent), 0) as spent,
        max(w.slot_at) filter (
            where w.calls >= v_limit.requests_per_minute or w.spent + p_tokens > v_limit.tokens_per_minute
        ) + v_counts as free_at
    into v_seen
    from (
        select s.slot_at, sum(s.requests) over newest_first as calls, sum(s.tokens) over newest_first as spent
        from chartloom.rate_slots as s where s.limit_key = p_limit_key and s.slot_at > v_now - v_counts
        window newest_first as (order by s.slot_at desc)
    ) as w;
    v_at := greatest(v_now, v_seen.free_at, v_seen.slot_at);
    v_slot_at := date_bin(v_width, v_at, 'epoch');
    if v_slot_at = v_seen.slot_at and exists (
        select from chartloom.rate_slots as s where s.limit_key = p_limit_key and s.slot_at = v_slot_at
            and s.requests >= ceil(v_burst * v_limit.requests_per_minute / 240)
    ) then
        v_slot_at := v_slot_at + v_width;
        v_at := v_slot_at;
    end if;
    if v_at <= v_now + v_patience and coalesce(v_limit.parked_until <= v_now, true) then
        update chartloom.rate_slots as s set requests = s.requests + 1, tokens = s.tokens + p_tokens
        where s.limit_key = p_limit_key and s.slot_at = v_slot_at;
        if not found then
            insert into chartloom.rate_slots (limit_key, slot_at, requests, tokens)
            values (p_limit_key, v_slot_at, 1, p_tokens);
            -- So a few times a second at most. Grants before slots, as settle_rate takes them.
            delete from chartloom.rate_grants as g where g.limit_key = p_limit_key and g.granted_at <= v_now - v_counts;
            delete from chartloom.rate_slots as s where s.limit_key = p_limit_key and s.slot_at <= v_now - v_counts;
        end if;
        return query
        with granted as (
            insert into chartloom.rate_grants (limit_key, granted_at, tokens) values (p_limit_key, v_at, p_tokens)
            returning id
        )
        select g.id, extract(epoch from v_at - v_now)::double precision from granted as g;
        return;
    end if;
    -- One place in the line takes as long as a call of what calls have cost of late, and a fifth less: some come late, some not
    -- at all, and a slot that nobody is there for is lost.
    v_return_at := greatest(
        v_at - v_patience, v_limit.parked_until, v_limit.line_until + v_crowd * v_counts * greatest(
            1::double precision / v_limit.requests_per_minute,
            v_seen.spent::double precision / greatest(v_seen.calls, 1) / v_limit.tokens_per_minute
        )
    );
    if v_return_at > v_now + make_interval(secs => v_longest) then
        -- Who knows what will be by then: limits are raised, jobs are cancelled. They look again, spread all the same.
        v_return_at := v_now + make_interval(secs => v_longest * (1 + random()) / 2);
    else
        update chartloom.rate_limits as l set line_until = v_return_at where l.limit_key = p_limit_key;
    end if;
    return query select null::bigint, extract(epoch from v_return_at - v_now)::double precision;
end
$$;

-- As 0.1.0 calls it: now or not at all.
create or replace function chartloom.reserve_rate(p_limit_key text, p_tokens integer default 0)
returns table (grant_id bigint, wait_seconds double precision)
language sql volatile security definer
set search_path = ''
as $$ select * from chartloom.reserve_rate_slot(p_limit_key, p_tokens, 0) $$;

-- What the call really cost, once it is known.
create or replace function chartloom.settle_rate(p_grant_id bigint, p_tokens integer) returns void
language sql volatile security definer
set search_path = ''
as $$
    with before as (
        select g.id, g.tokens from chartloom.rate_grants as g where g.id = p_grant_id for update
    ),
    settled as (
        update chartloom.rate_grants as g set tokens = p_tokens from before as b where g.id = b.id
        returning g.limit_key, g.granted_at, p_tokens - b.tokens as more
    )
    update chartloom.rate_slots as s set tokens = s.tokens + t.more
    from settled as t
    where s.limit_key = t.limit_key and s.slot_at = date_bin('250 milliseconds', t.granted_at, 'epoch')
$$;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
grant execute on function chartloom.reserve_rate_slot(text, integer, double precision, bigint)
to chartloom_ai, chartloom_ocr;
