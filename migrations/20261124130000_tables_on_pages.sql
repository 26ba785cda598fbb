-- Tables as structure, which numbers are not certain, and what was done to a page before it was read.

set local lock_timeout = '5s';
set local statement_timeout = '30s';

alter table public.ocr_pages add column tables jsonb not null default '[]';
alter table public.ocr_pages add column corrections jsonb not null default '[]';
alter table public.ocr_pages add column timings jsonb not null default '{}';
comment on column public.ocr_pages.words is '[{"text", "box": [x0, y0, x1, y1], "confidence", "start", "end", "uncertain": true where it is}]: boxes in page pixels, offsets into text.';
comment on column public.ocr_pages.tables is '[{"box", "cells": [{"text", "row", "col", "box", "confidence", "uncertain", "start", "end"}]}].';
comment on column public.ocr_pages.corrections is 'Done before it was read: shading, noise, skew, rotation; text_layer_rejected where its text is not what it shows.';
comment on column public.ocr_pages.timings is 'Seconds by step.';

-- As before, with the new columns; a service of release 0.1 sends none of them.
create or replace function chartloom.save_ocr_pages(p_job_id bigint, p_lease_token uuid, p_pages jsonb) returns integer
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_job constant chartloom.job_queue := chartloom.hold_lease(p_job_id, p_lease_token);
    v_run_id constant uuid := (v_job.payload ->> 'run_id')::uuid;
    v_count integer;
begin
    insert into public.ocr_pages (
        run_id, page, shell_file_id, patient_id, width, height, text, words, text_source, engine, engine_version,
        tables, corrections, timings
    )
    select v_run_id, p.page, v_job.shell_file_id, v_job.patient_id,
        p.width, p.height, p.text, p.words, p.text_source, p.engine, p.engine_version,
        coalesce(p.tables, '[]'), coalesce(p.corrections, '[]'), coalesce(p.timings, '{}')
    from jsonb_to_recordset(p_pages) as p (
        page integer, width integer, height integer, text text, words jsonb, text_source text,
        engine text, engine_version text, tables jsonb, corrections jsonb, timings jsonb
    );
    get diagnostics v_count = row_count;
    return v_count;
end
$$;

-- As before, for services of release 0.1, which refuse a word that says it is uncertain.
create or replace function chartloom.read_pages(p_job_id bigint, p_lease_token uuid)
returns table (
    page integer, width integer, height integer, text text, words jsonb, text_source text,
    engine text, engine_version text
)
language sql volatile security definer
set search_path = ''
as $$
    select p.page, p.width, p.height, p.text,
        case
            when p.words @> '[{"uncertain": true}]' then (
                select jsonb_agg(w.word - 'uncertain' order by w.place)
                from jsonb_array_elements(p.words) with ordinality as w (word, place)
            )
            else p.words
        end,
        p.text_source, p.engine, p.engine_version
    from chartloom.hold_lease(p_job_id, p_lease_token) as job
    join chartloom.document_runs as r on r.id = (job.payload ->> 'run_id')::uuid
    join public.ocr_pages as p on p.run_id = r.ocr_run_id and p.shell_file_id = job.shell_file_id
    order by p.page
$$;

create function chartloom.read_pages_v2(p_job_id bigint, p_lease_token uuid)
returns table (
    page integer, width integer, height integer, text text, words jsonb, text_source text,
    engine text, engine_version text, tables jsonb
)
language sql volatile security definer
set search_path = ''
as $$
    select p.page, p.width, p.height, p.text, p.words, p.text_source, p.engine, p.engine_version, p.tables
    from chartloom.hold_lease(p_job_id, p_lease_token) as job
    join chartloom.document_runs as r on r.id = (job.payload ->> 'run_id')::uuid
    join public.ocr_pages as p on p.run_id = r.ocr_run_id and p.shell_file_id = job.shell_file_id
    order by p.page
$$;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
grant execute on function chartloom.read_pages_v2(bigint, uuid) to chartloom_ai;
