-- A document: the uploaded file, and the runs of the pipeline over it.

create table public.shell_files (
    id uuid primary key default gen_random_uuid(),
    patient_id uuid not null references public.user_profiles (id),
    file_name text not null,
    mime_type text,
    size_bytes bigint not null check (size_bytes >= 0),
    sha256 text not null check (sha256 ~ '^[0-9a-f]{64}$'),
    storage_path text not null unique,
    status text not null default 'uploading'
    check (status in ('uploading', 'queued', 'processing', 'completed', 'failed', 'quarantined', 'cancelled')),
    processing_error jsonb,
    current_run_id uuid,
    traceparent text not null,
    created_at timestamptz not null default now(),
    uploaded_at timestamptz,
    completed_at timestamptz,
    constraint failed_says_why check (status not in ('failed', 'quarantined') or processing_error is not null)
);
create index shell_files_patient on public.shell_files (patient_id, created_at);
comment on column public.shell_files.processing_error is 'What the owner is told: {"code", "message"}. Every attempt''s error is in chartloom.processing_errors.';
comment on column public.shell_files.storage_path is '<patient>/<sha256>: the same bytes of the same patient are one file, and no name of a user''s is in it.';

create table chartloom.document_runs (
    id uuid primary key default gen_random_uuid(),
    shell_file_id uuid not null references public.shell_files (id) on delete cascade,
    ocr_run_id uuid not null,
    created_at timestamptz not null default now()
);
create index document_runs_file on chartloom.document_runs (shell_file_id);
comment on column chartloom.document_runs.ocr_run_id is 'The run whose pages this run reads: itself, unless a reprocessing starts at a later step.';

alter table public.shell_files enable row level security;
alter table chartloom.document_runs enable row level security;
create policy read_accessible on public.shell_files for select to authenticated
using (patient_id = any (array(select chartloom.accessible_profiles('read'))));
revoke all on public.shell_files from anon, authenticated, service_role;
grant select on public.shell_files to authenticated, service_role;

select chartloom.audit_table(
    'public.shell_files', 'patient_id', 'id::text', 'status,processing_error,completed_at'
);
