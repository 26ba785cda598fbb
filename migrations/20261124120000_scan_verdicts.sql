-- What was found in a file before anything of it was rendered, and what was decided. No word of the file is in it: kinds, counts,
-- and the antivirus' own name for what it knows.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

create table public.scan_verdicts (
    run_id uuid primary key,
    shell_file_id uuid not null references public.shell_files (id) on delete cascade,
    patient_id uuid not null references public.user_profiles (id),
    decision text not null check (decision in ('allow', 'flag', 'quarantine', 'refuse')),
    reason text check ((reason is null) = (decision in ('allow', 'flag'))),
    file_kind text,
    pages bigint,
    is_encrypted boolean not null,
    findings jsonb not null,
    antivirus text not null check (antivirus in ('clean', 'infected', 'not_scanned', 'unavailable')),
    antivirus_signature text,
    antivirus_engine text,
    scanned_at timestamptz not null
);
create index scan_verdicts_file on public.scan_verdicts (shell_file_id);
create index scan_verdicts_patient on public.scan_verdicts (patient_id);
comment on table public.scan_verdicts is 'One row a run: a repeated attempt scans again, and its verdict replaces the earlier one.';
comment on column public.scan_verdicts.findings is '[{"kind", "count", "action": "allow" | "flag" | "quarantine"}]';
comment on column public.scan_verdicts.antivirus is 'not_scanned: none is configured. unavailable: one is, and gave no verdict. Neither is clean.';

-- A repeated attempt that comes to the same verdict changes nothing of the record.
select chartloom.audit_table('public.scan_verdicts', 'patient_id', 'run_id::text', 'scanned_at');

alter table public.scan_verdicts enable row level security;
create policy read_accessible on public.scan_verdicts for select to authenticated
using (patient_id = any (array(select chartloom.accessible_profiles('read'))));
create policy operators_read on public.scan_verdicts for select to chartloom_operator using (true);
revoke all on public.scan_verdicts from anon, authenticated, service_role;
grant select on public.scan_verdicts to authenticated, service_role, chartloom_operator;

-- What the upload says that the file is. Of its name only the ending: the rest is the user's words.
create function chartloom.read_announced_type(p_job_id bigint, p_lease_token uuid)
returns table (extension text, mime_type text)
language sql volatile security definer
set search_path = ''
as $$
    select substring(f.file_name from '\.([A-Za-z0-9]{1,10})$'), f.mime_type
    from chartloom.hold_lease(p_job_id, p_lease_token) as job
    join public.shell_files as f on f.id = job.shell_file_id
$$;

create function chartloom.save_scan_verdict(p_job_id bigint, p_lease_token uuid, p_verdict jsonb) returns void
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_job constant chartloom.job_queue := chartloom.hold_lease(p_job_id, p_lease_token);
    v_antivirus constant jsonb := p_verdict -> 'antivirus';
begin
    insert into public.scan_verdicts as v (
        run_id, shell_file_id, patient_id, decision, reason, file_kind, pages, is_encrypted, findings,
        antivirus, antivirus_signature, antivirus_engine, scanned_at
    )
    values (
        (v_job.payload ->> 'run_id')::uuid, v_job.shell_file_id, v_job.patient_id,
        p_verdict ->> 'decision', p_verdict ->> 'reason', p_verdict ->> 'file_kind', (p_verdict ->> 'pages')::bigint,
        (p_verdict ->> 'is_encrypted')::boolean, p_verdict -> 'findings',
        v_antivirus ->> 'status', v_antivirus ->> 'signature', v_antivirus ->> 'engine', chartloom.clock()
    )
    on conflict (run_id) do update
    set decision = excluded.decision, reason = excluded.reason, file_kind = excluded.file_kind, pages = excluded.pages,
        is_encrypted = excluded.is_encrypted, findings = excluded.findings, antivirus = excluded.antivirus,
        antivirus_signature = excluded.antivirus_signature, antivirus_engine = excluded.antivirus_engine,
        scanned_at = excluded.scanned_at;
end
$$;

-- As before; a file whose verdict says so ends in quarantine, which no new upload of the same bytes ends.
create or replace function chartloom.bury_job(p_job chartloom.job_queue, p_code text, p_message text) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_run_id constant uuid := (p_job.payload ->> 'run_id')::uuid;
begin
    update chartloom.job_queue
    set status = 'dead_letter', is_ready = false, completed_at = chartloom.clock(),
        error = jsonb_build_object('code', p_code, 'message', p_message),
        lease_token = null, lease_expires_at = null, run_deadline_at = null
    where id = p_job.id;
    update public.shell_files
    set status = case
            when exists (
                select from public.scan_verdicts
                where run_id = v_run_id and decision = 'quarantine' and reason = p_code
            ) then 'quarantined'
            else 'failed'
        end,
        processing_error = jsonb_build_object('code', p_code, 'message', p_message, 'stage', p_job.job_type)
    where id = p_job.shell_file_id and current_run_id = v_run_id;
    perform chartloom.wake('changes', 0);
end
$$;

-- As before; what is in quarantine, too, may run again: the policy may have changed, or the antivirus its mind.
create or replace function chartloom.redrive_jobs(p_job_ids bigint[], p_per_second double precision default null)
returns setof bigint
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_now constant timestamptz := chartloom.clock();
    v_job chartloom.job_queue;
    v_place integer := 0;
    v_wait double precision := 0;
begin
    if p_per_second not between 0.001 and 100000 then
        raise exception 'per_second must be between 0.001 and 100000' using errcode = 'CL005';
    end if;
    for v_job in
        select * from chartloom.job_queue
        where id = any(p_job_ids) and status = 'dead_letter'
        order by id for update skip locked
    loop
        v_wait := coalesce(v_place / p_per_second, 0);
        -- created_at, too: how long it may be put off is counted anew.
        update chartloom.job_queue
        set status = 'pending', is_ready = v_wait = 0, completed_at = null, error = null, retry_count = 0,
            lease_losses = 0, created_at = v_now, scheduled_at = v_now + make_interval(secs => v_wait),
            fair_tag = chartloom.next_fair_tag(v_job.job_type, v_job.priority, v_job.fairness_key)
        where id = v_job.id;
        update public.shell_files set status = 'processing', processing_error = null
        where id = v_job.shell_file_id and status in ('failed', 'quarantined')
            and current_run_id = (v_job.payload ->> 'run_id')::uuid;
        perform chartloom.wake(v_job.job_type, 1);
        v_place := v_place + 1;
        return next v_job.id;
    end loop;
end
$$;

revoke execute on all functions in schema chartloom from public;
grant execute on function
chartloom.read_announced_type(bigint, uuid), chartloom.save_scan_verdict(bigint, uuid, jsonb) to chartloom_ocr;
