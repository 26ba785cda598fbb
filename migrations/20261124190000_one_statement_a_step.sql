-- What a step of the pipeline reads is one question, and what it writes is written by the statement that completes its job: a
-- document had 43 transactions, with a wait for the disk in most, and locks held while a busy service was on its way.

set local lock_timeout = '5s';
set local statement_timeout = '30s';

-- -- Reading --------------------------------------------------------------------------------------------------------------

-- The job, for whoever only reads: no lock, so no write and no wait for the disk.
create function chartloom.held_job(p_job_id bigint, p_lease_token uuid) returns chartloom.job_queue
language plpgsql stable
set search_path = ''
as $$
declare
    v_job chartloom.job_queue;
begin
    select * into v_job from chartloom.job_queue where id = p_job_id;
    if v_job.lease_token is distinct from p_lease_token or p_lease_token is null then
        perform chartloom.refuse_lease(p_job_id);
    end if;
    return v_job;
end
$$;

-- Which file it is and what the upload says that it is. Of its name only the ending: the rest is the user's words.
create function chartloom.read_ocr_input(p_job_id bigint, p_lease_token uuid)
returns table (storage_path text, sha256 text, extension text, mime_type text)
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_job constant chartloom.job_queue := chartloom.held_job(p_job_id, p_lease_token);
begin
    return query
    select f.storage_path, f.sha256, substring(f.file_name from '\.([A-Za-z0-9]{1,10})$'), f.mime_type
    from public.shell_files as f where f.id = v_job.shell_file_id;
end
$$;

-- What an AI pass needs: its pages, where it asks for them, the result of an earlier pass, and what was answered already.
create function chartloom.read_ai_input(
    p_job_id bigint, p_lease_token uuid, p_with_pages boolean, p_earlier_pass text
) returns table (pages jsonb, earlier jsonb, checkpoints jsonb)
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_job constant chartloom.job_queue := chartloom.held_job(p_job_id, p_lease_token);
    v_run_id constant uuid := (v_job.payload ->> 'run_id')::uuid;
begin
    if p_with_pages then
        pages := (
            select jsonb_agg(
                jsonb_build_object(
                    'page', p.page, 'width', p.width, 'height', p.height, 'text', p.text, 'words', p.words,
                    'text_source', p.text_source, 'engine', p.engine, 'engine_version', p.engine_version,
                    'tables', p.tables
                )
                order by p.page
            )
            from chartloom.document_runs as r
            join public.ocr_pages as p on p.run_id = r.ocr_run_id and p.shell_file_id = v_job.shell_file_id
            where r.id = v_run_id
        );
    end if;
    earlier := (select a.result from public.ai_pass_results as a where a.run_id = v_run_id and a.pass = p_earlier_pass);
    checkpoints := (
        select jsonb_agg(jsonb_build_object(
            'pass', c.pass, 'question', c.question, 'outcome', c.outcome, 'answer', c.answer,
            'complaint', c.complaint, 'usage', c.usage
        ))
        from public.ai_checkpoints as c
        where c.run_id = v_run_id and (c.outcome = 'answered' or c.attempt = v_job.retry_count + 1)
    );
    return next;
end
$$;

-- What the persister writes from: the passes' results by name, the texts of the pages by number, and the profile, so that a
-- document that names somebody else does not become the patient's record unasked.
create function chartloom.read_persist_input(p_job_id bigint, p_lease_token uuid)
returns table (passes jsonb, pages jsonb, display_name text, birth_date date)
language plpgsql stable security definer
set search_path = ''
as $$
declare
    v_job constant chartloom.job_queue := chartloom.held_job(p_job_id, p_lease_token);
    v_run_id constant uuid := (v_job.payload ->> 'run_id')::uuid;
begin
    return query
    select
        (select jsonb_object_agg(a.pass, a.result) from public.ai_pass_results as a where a.run_id = v_run_id),
        (
            select jsonb_object_agg(p.page, p.text) from chartloom.document_runs as r
            join public.ocr_pages as p on p.run_id = r.ocr_run_id and p.shell_file_id = v_job.shell_file_id
            where r.id = v_run_id
        ),
        u.display_name, u.birth_date
    from public.user_profiles as u where u.id = v_job.patient_id;
end
$$;

-- -- Writing --------------------------------------------------------------------------------------------------------------
-- Each returns what the job's own row keeps as its result, so that one statement writes and completes:
-- select chartloom.complete_job(id, token, chartloom.write_…(id, token, …), traceparent).

-- The verdict on a file that may be read, and the pages that its run has not yet.
create function chartloom.begin_reading(p_job_id bigint, p_lease_token uuid, p_verdict jsonb, p_page_count integer)
returns integer[]
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform chartloom.save_scan_verdict(p_job_id, p_lease_token, p_verdict);
    return chartloom.missing_pages(p_job_id, p_lease_token, p_page_count);
end
$$;

create function chartloom.write_ocr_pages(p_job_id bigint, p_lease_token uuid, p_pages jsonb, p_summary jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform chartloom.save_ocr_pages(p_job_id, p_lease_token, p_pages);
    return p_summary;
end
$$;

-- Results by the name of their pass. What was answered on the way is in them, so its checkpoints go.
create function chartloom.write_ai_passes(p_job_id bigint, p_lease_token uuid, p_results jsonb, p_summary jsonb)
returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    perform chartloom.save_ai_pass(p_job_id, p_lease_token, r.key, r.value) from jsonb_each(p_results) as r;
    perform chartloom.delete_ai_checkpoints(p_job_id, p_lease_token);
    return p_summary;
end
$$;

create function chartloom.write_findings(p_job_id bigint, p_lease_token uuid, p_rows jsonb) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
begin
    return jsonb_build_object('rows', chartloom.persist_findings(p_job_id, p_lease_token, p_rows));
end
$$;

-- Asked in the statement that completes the job, it has to see what that did.
alter function chartloom.queue_seconds(bigint) volatile;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
grant execute on function
chartloom.read_ocr_input(bigint, uuid),
chartloom.begin_reading(bigint, uuid, jsonb, integer),
chartloom.write_ocr_pages(bigint, uuid, jsonb, jsonb)
to chartloom_ocr;
grant execute on function
chartloom.read_ai_input(bigint, uuid, boolean, text), chartloom.write_ai_passes(bigint, uuid, jsonb, jsonb)
to chartloom_ai;
grant execute on function
chartloom.read_persist_input(bigint, uuid), chartloom.write_findings(bigint, uuid, jsonb)
to chartloom_persister;
