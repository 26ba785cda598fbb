-- What OCR reads and writes. Both need the job's lease: a service reaches only the document that it is working on.

create table public.ocr_pages (
    run_id uuid not null,
    page integer not null check (page >= 1),
    shell_file_id uuid not null references public.shell_files (id) on delete cascade,
    patient_id uuid not null references public.user_profiles (id),
    width integer not null check (width > 0),
    height integer not null check (height > 0),
    text text not null,
    words jsonb not null,
    text_source text not null check (text_source in ('text_layer', 'ocr', 'blank')),
    engine text not null,
    engine_version text not null,
    created_at timestamptz not null default now(),
    primary key (run_id, page)
);
create index ocr_pages_file on public.ocr_pages (shell_file_id, page);
create index ocr_pages_patient on public.ocr_pages (patient_id);
comment on column public.ocr_pages.words is '[{"text", "box": [x0, y0, x1, y1], "confidence", "start", "end"}]: boxes in page pixels, offsets into text.';

create function chartloom.read_upload(p_job_id bigint, p_lease_token uuid)
returns table (storage_path text, size_bytes bigint, sha256 text)
language sql volatile security definer
set search_path = ''
as $$
    select f.storage_path, f.size_bytes, f.sha256
    from chartloom.hold_lease(p_job_id, p_lease_token) as job
    join public.shell_files as f on f.id = job.shell_file_id
$$;

create function chartloom.save_ocr_pages(p_job_id bigint, p_lease_token uuid, p_pages jsonb) returns integer
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_job constant chartloom.job_queue := chartloom.hold_lease(p_job_id, p_lease_token);
    v_run_id constant uuid := (v_job.payload ->> 'run_id')::uuid;
    v_count integer;
begin
    insert into public.ocr_pages (
        run_id, page, shell_file_id, patient_id, width, height, text, words, text_source, engine, engine_version
    )
    select v_run_id, p.page, v_job.shell_file_id, v_job.patient_id,
        p.width, p.height, p.text, p.words, p.text_source, p.engine, p.engine_version
    from jsonb_to_recordset(p_pages) as p (
        page integer, width integer, height integer, text text, words jsonb, text_source text,
        engine text, engine_version text
    );
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

select chartloom.audit_table('public.ocr_pages', 'patient_id', 'run_id || ''/'' || page');

alter table public.ocr_pages enable row level security;
create policy read_accessible on public.ocr_pages for select to authenticated
using (patient_id = any (array(select chartloom.accessible_profiles('read'))));
revoke all on public.ocr_pages from anon, authenticated, service_role;
grant select on public.ocr_pages to authenticated, service_role;

grant execute on function
chartloom.read_upload(bigint, uuid), chartloom.save_ocr_pages(bigint, uuid, jsonb) to chartloom_ocr;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
