-- The bucket of the uploads, and what users may do there: put a file at the path that create_upload reserved for it, and read
-- what they may see. Nobody replaces or deletes a file: the same path is the same bytes.

insert into storage.buckets (id, name, public) values ('records', 'records', false) on conflict (id) do nothing;

create policy chartloom_put_reserved on storage.objects for insert to authenticated
with check (
    bucket_id = 'records'
    and name in (
        select f.storage_path from public.shell_files as f
        where f.storage_path = objects.name
            and f.status in ('uploading', 'failed', 'cancelled')
            and f.patient_id in (select chartloom.accessible_profiles('write'))
    )
);

create policy chartloom_read_accessible on storage.objects for select to authenticated
using (
    bucket_id = 'records'
    and name in (
        select f.storage_path from public.shell_files as f
        where f.storage_path = objects.name and f.patient_id in (select chartloom.accessible_profiles('read'))
    )
);
