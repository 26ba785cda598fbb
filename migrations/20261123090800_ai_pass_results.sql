-- What the AI passes read and write, by the lease of the job in hand.

create table public.ai_pass_results (
    run_id uuid not null,
    pass text not null check (pass in ('detect', 'enrich', 'narrate')),
    shell_file_id uuid not null references public.shell_files (id) on delete cascade,
    patient_id uuid not null references public.user_profiles (id),
    provider text not null,
    model text not null,
    prompt_version text not null,
    schema_version text not null,
    result jsonb not null,
    created_at timestamptz not null default now(),
    primary key (run_id, pass)
);
create index ai_pass_results_file on public.ai_pass_results (shell_file_id);
create index ai_pass_results_patient on public.ai_pass_results (patient_id);

create function chartloom.read_pages(p_job_id bigint, p_lease_token uuid)
returns table (
    page integer, width integer, height integer, text text, words jsonb, text_source text,
    engine text, engine_version text
)
language sql volatile security definer
set search_path = ''
as $$
    select p.page, p.width, p.height, p.text, p.words, p.text_source, p.engine, p.engine_version
    from chartloom.hold_lease(p_job_id, p_lease_token) as job
    join chartloom.document_runs as r on r.id = (job.payload ->> 'run_id')::uuid
    join public.ocr_pages as p on p.run_id = r.ocr_run_id and p.shell_file_id = job.shell_file_id
    order by p.page
$$;

create function chartloom.read_ai_pass(p_job_id bigint, p_lease_token uuid, p_pass text) returns jsonb
language sql volatile security definer
set search_path = ''
as $$
    select a.result
    from chartloom.hold_lease(p_job_id, p_lease_token) as job
    join public.ai_pass_results as a on a.run_id = (job.payload ->> 'run_id')::uuid and a.pass = p_pass
$$;

create function chartloom.save_ai_pass(p_job_id bigint, p_lease_token uuid, p_pass text, p_result jsonb) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_job constant chartloom.job_queue := chartloom.hold_lease(p_job_id, p_lease_token);
    v_run_id constant uuid := (v_job.payload ->> 'run_id')::uuid;
    v_engine constant jsonb := p_result -> 'engine';
begin
    insert into public.ai_pass_results (
        run_id, pass, shell_file_id, patient_id, provider, model, prompt_version, schema_version, result
    )
    values (
        v_run_id, p_pass, v_job.shell_file_id, v_job.patient_id,
        v_engine ->> 'provider', v_engine ->> 'model', v_engine ->> 'prompt_version', v_engine ->> 'schema_version',
        p_result
    );
end
$$;

select chartloom.audit_table('public.ai_pass_results', 'patient_id', 'run_id || ''/'' || pass');

alter table public.ai_pass_results enable row level security;
create policy read_accessible on public.ai_pass_results for select to authenticated
using (patient_id = any (array(select chartloom.accessible_profiles('read'))));
revoke all on public.ai_pass_results from anon, authenticated, service_role;
grant select on public.ai_pass_results to authenticated, service_role;

grant execute on function chartloom.read_pages(bigint, uuid), chartloom.save_ai_pass(bigint, uuid, text, jsonb)
to chartloom_ai;
grant execute on function chartloom.read_ai_pass(bigint, uuid, text) to chartloom_ai, chartloom_persister;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
