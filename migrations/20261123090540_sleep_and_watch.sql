-- Sleeping until woken, and looking at the queue.

-- Opens the gate of a process that is about to sleep. Look once more after this commits: what came before it was not
-- announced. False if it was open already. topics: job types, or 'changes' for an observer.
create function chartloom.fall_asleep(p_channel text, p_topics text[]) returns boolean
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    insert into chartloom.sleepers (topic, channel)
    select topic, p_channel from unnest(p_topics) as topic
    where topic = 'changes' or topic in (select job_type from chartloom.job_types)
    on conflict do nothing;
    return found;
end
$$;

create function chartloom.wake_up(p_channel text) returns void
language sql volatile security definer
set search_path = ''
as $$ delete from chartloom.sleepers where channel = p_channel $$;

-- Wakes sleepers for what is ready all the same: the gate has a race, a sleeper that died eats a wake-up, a place under a cap
-- becomes free where nobody looks. The sweeper does this, so that the workers' own polls can be rare. Returns for how many jobs.
create function chartloom.wake_for_ready_jobs() returns integer
language plpgsql volatile security definer
set search_path = ''
set plan_cache_mode = 'force_generic_plan'
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    v_job_type text;
    v_ready integer;
    v_count integer := 0;
begin
    for v_job_type in select distinct topic from chartloom.sleepers where topic <> 'changes' loop
        select count(*) into v_ready from (
            select from chartloom.job_queue where is_ready and job_type = v_job_type limit 100
        ) as ready;
        if v_ready > 0 then
            perform chartloom.wake(v_job_type, v_ready);
        end if;
        v_count := v_count + v_ready;
    end loop;
    return v_count;
end
$$;

create function chartloom.forget_worker(p_worker_id text, p_channel text) returns void
language sql volatile security definer
set search_path = ''
as $$
    delete from chartloom.sleepers where channel = p_channel;
    delete from chartloom.workers where worker_id = p_worker_id
$$;

-- What follows a type, for the name of the span that sends it.
create function chartloom.follow_ups(p_job_types text[]) returns table (after_job_type text, next_job_type text)
language sql stable security definer
set search_path = ''
as $$
    select after_job_type, next_job_type from chartloom.pipeline_steps where after_job_type = any(p_job_types)
$$;

-- When something is due next: the first lease to expire, the first retry. Null when nothing is.
create function chartloom.next_deadline() returns timestamptz
language sql volatile security definer
set search_path = ''
as $$
    select least(
        (select min(lease_expires_at) from chartloom.job_queue where status = 'processing'),
        (
            select scheduled_at from chartloom.job_queue
            where not is_ready and status in ('pending', 'failed') order by scheduled_at limit 1
        )
    )
$$;

create function chartloom.queue_depths()
returns table (job_type text, status text, jobs bigint, oldest_ready_seconds double precision)
language sql volatile security definer
set search_path = ''
as $$
    select job_type, status, count(*),
        extract(epoch from chartloom.clock() - min(scheduled_at) filter (where is_ready))::double precision
    from chartloom.job_queue
    where status in ('pending', 'processing', 'failed', 'dead_letter')
    group by job_type, status
    order by job_type, status
$$;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
