-- What the questions of a pass came to, each kept as soon as it is answered: a pass that begins again (a kill, a limit, an error
-- further on) asks only what nobody has answered yet. They are gone when the pass is stored.

set local lock_timeout = '5s';
set local statement_timeout = '30s';

create table public.ai_checkpoints (
    run_id uuid not null,
    pass text not null check (pass in ('detect', 'enrich', 'narrate')),
    question text not null check (length(question) = 64),
    shell_file_id uuid not null references public.shell_files (id) on delete cascade,
    patient_id uuid not null references public.user_profiles (id),
    attempt bigint not null,
    outcome text not null check (outcome in ('answered', 'truncated', 'invalid')),
    answer jsonb,
    complaint text,
    usage jsonb not null,
    created_at timestamptz not null default now(),
    primary key (run_id, pass, question)
);
comment on column public.ai_checkpoints.question is 'SHA-256 of all that the answer hangs on: provider, model, prompt and schema version, and the question itself. Another model asks again.';
comment on column public.ai_checkpoints.outcome is 'truncated: the pass asks about halves. invalid: complaint says where the reply missed the schema, and the one repair is due. Neither holds for a later attempt.';
create index ai_checkpoints_file on public.ai_checkpoints (shell_file_id);
create index ai_checkpoints_patient on public.ai_checkpoints (patient_id);

create function chartloom.read_ai_checkpoints(p_job_id bigint, p_lease_token uuid, p_pass text)
returns table (question text, outcome text, answer jsonb, complaint text, usage jsonb)
language sql volatile security definer
set search_path = ''
as $$
    select c.question, c.outcome, c.answer, c.complaint, c.usage
    from chartloom.hold_lease(p_job_id, p_lease_token) as job
    join public.ai_checkpoints as c on c.run_id = (job.payload ->> 'run_id')::uuid and c.pass = p_pass
    where c.outcome = 'answered' or c.attempt = job.retry_count + 1
$$;

create function chartloom.save_ai_checkpoint(
    p_job_id bigint,
    p_lease_token uuid,
    p_pass text,
    p_question text,
    p_outcome text,
    p_answer jsonb,
    p_complaint text,
    p_usage jsonb
) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_job constant chartloom.job_queue := chartloom.hold_lease(p_job_id, p_lease_token);
begin
    insert into public.ai_checkpoints as c (
        run_id, pass, question, shell_file_id, patient_id, attempt, outcome, answer, complaint, usage
    )
    values (
        (v_job.payload ->> 'run_id')::uuid, p_pass, p_question, v_job.shell_file_id, v_job.patient_id,
        v_job.retry_count + 1, p_outcome, p_answer, p_complaint, p_usage
    )
    on conflict (run_id, pass, question) do update
    set attempt = excluded.attempt, outcome = excluded.outcome, answer = excluded.answer,
        complaint = excluded.complaint, usage = excluded.usage;
end
$$;

-- In the transaction that stores the pass: those of the document's earlier runs, too, which nobody will go on with.
create function chartloom.delete_ai_checkpoints(p_job_id bigint, p_lease_token uuid) returns void
language sql volatile security definer
set search_path = ''
as $$
    delete from public.ai_checkpoints as c using chartloom.hold_lease(p_job_id, p_lease_token) as job
    where c.shell_file_id = job.shell_file_id
$$;

select chartloom.audit_table('public.ai_checkpoints', 'patient_id', 'run_id || ''/'' || pass || ''/'' || left(question, 12)');

alter table public.ai_checkpoints enable row level security;
create policy read_accessible on public.ai_checkpoints for select to authenticated
using (patient_id = any (array(select chartloom.accessible_profiles('read'))));
revoke all on public.ai_checkpoints from anon, authenticated, service_role;
grant select on public.ai_checkpoints to authenticated, service_role;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
grant execute on function
chartloom.read_ai_checkpoints(bigint, uuid, text),
chartloom.save_ai_checkpoint(bigint, uuid, text, text, text, jsonb, text, jsonb),
chartloom.delete_ai_checkpoints(bigint, uuid)
to chartloom_ai;
