-- The queue, and what it is told: job types, the order of steps, who sleeps.

create table chartloom.job_types (
    job_type text primary key,
    job_category text not null check (job_category in ('fast', 'ai')),
    worker_role text not null,
    payload_schema jsonb not null,
    max_retries integer not null default 5 check (max_retries between 0 and 100),
    backoff_base_seconds double precision not null default 2 check (backoff_base_seconds > 0),
    backoff_cap_seconds double precision not null default 300 check (backoff_cap_seconds > 0),
    max_run_seconds integer not null default 900 check (max_run_seconds > 0),
    max_lease_losses integer not null default 5 check (max_lease_losses >= 0),
    max_age_seconds integer not null default 86400 check (max_age_seconds > 0),
    max_processing integer check (max_processing > 0),
    max_processing_per_key integer check (max_processing_per_key > 0)
);
comment on column chartloom.job_types.payload_schema is '{"field": "uuid" | "text" | "integer" | "boolean"}: each field required, no other allowed.';
comment on column chartloom.job_types.max_run_seconds is 'How long one attempt may run in all, however often its lease is renewed.';
comment on column chartloom.job_types.max_lease_losses is 'A limit of its own, apart from retries: a file that kills its worker must not loop.';
comment on column chartloom.job_types.max_age_seconds is 'Snoozes end here: a job that was put off for so long is a dead letter.';
comment on column chartloom.job_types.max_processing is 'Live leases of this type, all instances together. Null: no cap.';
comment on column chartloom.job_types.max_processing_per_key is 'Live leases of one fairness key, all instances together. Null: no cap.';

create table chartloom.pipeline_steps (
    after_job_type text not null references chartloom.job_types (job_type),
    next_job_type text not null references chartloom.job_types (job_type),
    primary key (after_job_type, next_job_type)
);
comment on table chartloom.pipeline_steps is 'When a job of one type completes, these follow. A type with no row here is the last step of a document.';

-- What may not be is impossible, whoever writes it. A function, since Postgres parses a CHECK's expression anew in every
-- statement: written out, these conditions were 60 of the 140 µs that it took to insert one job.
create function chartloom.is_legal_job(
    p_status text,
    p_is_ready boolean,
    p_lease_token uuid,
    p_lease_expires_at timestamptz,
    p_run_deadline_at timestamptz,
    p_worker_id text,
    p_completed_at timestamptz,
    p_error jsonb
) returns boolean
language plpgsql immutable
set search_path = ''
as $$
begin
    return case p_status
        when 'processing' then
            not p_is_ready and p_completed_at is null
            and num_nulls(p_lease_token, p_lease_expires_at, p_run_deadline_at, p_worker_id) = 0
        when 'failed' then
            not p_is_ready and p_error is not null
            and num_nonnulls(p_lease_token, p_lease_expires_at, p_run_deadline_at, p_completed_at) = 0
        when 'dead_letter' then
            not p_is_ready and p_error is not null and p_completed_at is not null
            and num_nonnulls(p_lease_token, p_lease_expires_at, p_run_deadline_at) = 0
        else false
    end;
end
$$;

-- What is to be done, is being done, or ended in error. What completed or was cancelled moves to job_archive in the same
-- transaction, so that this table stays as small as the work.
create table chartloom.job_queue (
    id bigint generated always as identity primary key,
    job_type text not null,
    job_category text not null,
    payload jsonb not null,
    status text not null default 'pending',
    is_ready boolean not null default true,
    priority smallint not null default 0,
    fairness_key text not null default '',
    fair_tag bigint not null default 0,
    scheduled_at timestamptz not null,
    created_at timestamptz not null,
    started_at timestamptz,
    completed_at timestamptz,
    retry_count integer not null default 0,
    max_retries integer not null,
    lease_losses integer not null default 0,
    backoff_base_seconds double precision not null,
    backoff_cap_seconds double precision not null,
    lease_token uuid,
    lease_expires_at timestamptz,
    heartbeat_at timestamptz,
    run_deadline_at timestamptz,
    progress real,
    worker_id text,
    error jsonb,
    idempotency_key text,
    traceparent text not null,
    shell_file_id uuid,
    patient_id uuid,
    group_id bigint,
    constraint is_legal check (
        case status
            when 'pending' then num_nonnulls(lease_token, lease_expires_at, run_deadline_at, completed_at) = 0
            else chartloom.is_legal_job(
                status, is_ready, lease_token, lease_expires_at, run_deadline_at, worker_id, completed_at, error
            )
        end
    )
)
-- Room on the page keeps heartbeats HOT; the table is small and hot, so it is vacuumed by count, not by share.
with (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.01,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_cost_delay = 0
);
comment on column chartloom.job_queue.is_ready is 'Due now. What waits for a retry or for its time is outside the ready index, so that no claim reads past it.';
comment on column chartloom.job_queue.fair_tag is 'Start tag of start-time fair queueing (Goyal, Vin, Cheng 1996), in jobs of one fairness_key.';
comment on column chartloom.job_queue.progress is 'The share of the work that this attempt has done, 0 to 1, as of its last heartbeat.';
comment on column chartloom.job_queue.lease_token is 'New for every attempt. The attempt number would not do: a released job brings the same number back.';

-- The claim: one index range a type and priority, already in the order of service.
-- No two entries of this index or the next are the same: looking for doubles took 3 % of an enqueue.
create index job_queue_ready on chartloom.job_queue (job_type, priority, fair_tag, id)
with (deduplicate_items = off) where is_ready;
-- The last start tag of a patient who has jobs waiting.
create index job_queue_fairness on chartloom.job_queue (job_type, priority, fairness_key, fair_tag)
with (deduplicate_items = off) where is_ready;
-- What becomes due next.
create index job_queue_waiting on chartloom.job_queue (scheduled_at)
where not is_ready and status in ('pending', 'failed');
-- Live leases. The expiry is left out on purpose: an indexed column would make every heartbeat a non-HOT update.
create index job_queue_leased on chartloom.job_queue (job_type, fairness_key) where status = 'processing';
create index job_queue_dead_letters on chartloom.job_queue (completed_at) where status = 'dead_letter';
create index job_queue_document on chartloom.job_queue (shell_file_id) where shell_file_id is not null;

create table chartloom.job_archive (
    id bigint not null,
    job_type text not null,
    job_category text not null,
    payload jsonb not null,
    status text not null check (status in ('completed', 'cancelled')),
    priority smallint not null,
    fairness_key text not null,
    scheduled_at timestamptz not null,
    created_at timestamptz not null,
    started_at timestamptz,
    completed_at timestamptz not null,
    retry_count integer not null,
    max_retries integer not null,
    lease_losses integer not null,
    worker_id text,
    result jsonb,
    error jsonb,
    idempotency_key text,
    traceparent text not null,
    shell_file_id uuid,
    patient_id uuid,
    group_id bigint
) partition by range (completed_at);
comment on table chartloom.job_archive is 'Finished jobs, a partition a month: retention drops a partition, and no claim ever reads past one.';
-- Where no partition was made in time, nothing is lost and nothing fails.
create table chartloom.job_archive_default partition of chartloom.job_archive default;
create index job_archive_id on chartloom.job_archive (id);
create index job_archive_document on chartloom.job_archive (shell_file_id) where shell_file_id is not null;

create table chartloom.queue_heads (
    job_type text not null references chartloom.job_types (job_type),
    priority smallint not null,
    head_tag bigint not null default 0,
    advanced_at timestamptz not null default '-infinity',
    scanned_at timestamptz not null default '-infinity',
    scan_seconds double precision not null default 0,
    primary key (job_type, priority)
)
with (fillfactor = 50);
comment on table chartloom.queue_heads is 'The virtual time of fair queueing, moved on once a second. A claim starts here, so that index entries of long finished jobs, which a pinned snapshot keeps, are not read again.';
comment on column chartloom.queue_heads.scanned_at is 'When somebody last read from the very start, for a job that was committed late, with an old tag, and for new priorities.';
comment on column chartloom.queue_heads.scan_seconds is 'What that took. It is done once a second, or for a fiftieth of the time where it takes longer.';

create table chartloom.job_groups (
    id bigint generated always as identity primary key,
    parent_job_id bigint not null,
    join_job_type text not null references chartloom.job_types (job_type),
    join_payload jsonb not null,
    remaining integer not null check (remaining >= 0),
    created_at timestamptz not null
)
with (fillfactor = 50);
comment on table chartloom.job_groups is 'Fan-in: the child that brings remaining to zero enqueues the join, in its own transaction. The row lock makes that once.';

create table chartloom.idempotency_keys (
    idempotency_key text primary key check (length(idempotency_key) between 1 and 200),
    job_id bigint not null,
    created_at timestamptz not null default now()
);
comment on table chartloom.idempotency_keys is 'Apart from the queue, so that a finished job can leave the hot table and its key still be known.';

create table chartloom.processing_errors (
    id bigint generated always as identity primary key,
    occurred_at timestamptz not null,
    level text not null check (level in ('job', 'file')),
    kind text not null check (kind in ('transient', 'terminal', 'lease_lost', 'snoozed', 'cancelled')),
    code text not null,
    message text not null,
    job_id bigint,
    job_type text,
    attempt integer,
    shell_file_id uuid,
    worker_id text,
    trace_id text
);
create index processing_errors_job on chartloom.processing_errors (job_id);
create index processing_errors_file on chartloom.processing_errors (shell_file_id);
comment on table chartloom.processing_errors is 'Every failed attempt, for operators: codes and advice, nothing of a patient''s.';

create table chartloom.workers (
    worker_id text primary key,
    service text not null,
    version text not null,
    started_at timestamptz not null,
    heartbeat_at timestamptz not null,
    details jsonb not null default '{}'
);

-- Who is asleep and wants to be woken, for what. Unlogged: after a crash nobody is connected, so nobody sleeps.
create unlogged table chartloom.sleepers (
    topic text not null,
    -- A channel that pg_notify refuses would fail every enqueue.
    channel text not null check (channel ~ '^chartloom_[0-9a-z_]{1,50}$'),
    primary key (topic, channel)
);
comment on table chartloom.sleepers is 'A worker''s gate: it adds itself before it sleeps; whoever brings work removes it and notifies. See docs/decisions/0002.';

create view chartloom.job_history with (security_invoker = true) as
select id, job_type, job_category, payload, status, priority, fairness_key, scheduled_at, created_at, started_at,
    completed_at, retry_count, max_retries, lease_losses, worker_id, null::jsonb as result, error, idempotency_key,
    traceparent, shell_file_id, patient_id, group_id
from chartloom.job_queue
union all
select id, job_type, job_category, payload, status, priority, fairness_key, scheduled_at, created_at, started_at,
    completed_at, retry_count, max_retries, lease_losses, worker_id, result, error, idempotency_key,
    traceparent, shell_file_id, patient_id, group_id
from chartloom.job_archive;
comment on view chartloom.job_history is 'Every job, live or finished. Operators read this.';

alter table chartloom.job_types enable row level security;
alter table chartloom.pipeline_steps enable row level security;
alter table chartloom.job_queue enable row level security;
alter table chartloom.queue_heads enable row level security;
alter table chartloom.job_groups enable row level security;
alter table chartloom.job_archive enable row level security;
alter table chartloom.job_archive_default enable row level security;
alter table chartloom.idempotency_keys enable row level security;
alter table chartloom.processing_errors enable row level security;
alter table chartloom.workers enable row level security;
alter table chartloom.sleepers enable row level security;

insert into chartloom.job_types (job_type, job_category, worker_role, payload_schema, max_run_seconds) values
('ocr', 'fast', 'chartloom_ocr', '{"shell_file_id": "uuid", "run_id": "uuid"}', 1800),
('ai_detect', 'ai', 'chartloom_ai', '{"shell_file_id": "uuid", "run_id": "uuid"}', 1800),
('ai_enrich', 'ai', 'chartloom_ai', '{"shell_file_id": "uuid", "run_id": "uuid"}', 1800),
('ai_narrate', 'ai', 'chartloom_ai', '{"shell_file_id": "uuid", "run_id": "uuid"}', 900),
('persist', 'ai', 'chartloom_persister', '{"shell_file_id": "uuid", "run_id": "uuid"}', 300);

insert into chartloom.pipeline_steps (after_job_type, next_job_type) values
('ocr', 'ai_detect'),
('ai_detect', 'ai_enrich'),
('ai_enrich', 'ai_narrate'),
('ai_narrate', 'persist');
