-- What a finding can be trusted for: which model saw it and which understood it, whether OCR was sure, whether the document is the
-- patient's at all. And runs over what was read already, by another model or by the same one again.

set local lock_timeout = '5s';
set local statement_timeout = '60s';

alter table public.patient_clinical_events
add column links jsonb not null default '[]',
add column uncertain boolean not null default false,
add column found_by jsonb,
add column terminology text;
comment on column public.patient_clinical_events.links is 'What it is to other findings of the run: [{"relation", "event_id"}].';
comment on column public.patient_clinical_events.uncertain is 'OCR was not sure of its words; of an attribute''s, the attribute says so.';
comment on column public.patient_clinical_events.found_by is 'Who saw it in pass 1. provider, model and so on are pass 2''s: a model may be swapped in between.';
comment on column public.patient_clinical_events.terminology is 'What its names and codes were looked up in, with versions.';
alter table public.patient_observations add column is_uncertain boolean not null default false;
alter table public.patient_interventions add column is_uncertain boolean not null default false;
comment on column public.patient_observations.is_uncertain is 'OCR was not sure of one of the figures.';
comment on column public.patient_interventions.is_uncertain is 'OCR was not sure of one of the figures.';
alter table public.clinical_narratives add column schema_version text, add column terminology text;
alter table public.healthcare_timeline_events
add column provider text,
add column model text,
add column prompt_version text,
add column schema_version text,
add column terminology text;

-- Wider than before, so that the rows that are there fit: validated in the next migration, without a lock that writers feel.
-- squawk-ignore ban-drop-constraint
alter table public.finding_reviews drop constraint finding_reviews_reason_check;
alter table public.finding_reviews add constraint finding_reviews_reason_check check (
    reason in (
        'quote_not_found', 'kind_unknown', 'attribute_not_found', 'words_differ', 'reader', 'prompt_text', 'missed',
        'number_uncertain', 'other_person'
    )
) not valid;

-- -- Whose document it is ---------------------------------------------------------------------------------------------------

-- The pages of the run, without their words, and the profile: a document that names somebody else must not become the patient's
-- record unasked. Only the persister asks; neither name nor birth date reaches a model.
create function chartloom.read_page_texts(p_job_id bigint, p_lease_token uuid) returns table (page integer, text text)
language sql volatile security definer
set search_path = ''
as $$
    select p.page, p.text
    from chartloom.hold_lease(p_job_id, p_lease_token) as job
    join chartloom.document_runs as r on r.id = (job.payload ->> 'run_id')::uuid
    join public.ocr_pages as p on p.run_id = r.ocr_run_id and p.shell_file_id = job.shell_file_id
    order by p.page
$$;

create function chartloom.read_profile(p_job_id bigint, p_lease_token uuid)
returns table (display_name text, birth_date date)
language sql volatile security definer
set search_path = ''
as $$
    select p.display_name, p.birth_date
    from chartloom.hold_lease(p_job_id, p_lease_token) as job
    join public.user_profiles as p on p.id = job.patient_id
$$;

-- Whether nothing of a document counts until a person has said that it is the patient's; or ever, where they said that it is not.
create function chartloom.is_held(p_shell_file_id uuid) returns boolean
language sql stable
set search_path = ''
as $$
    select exists (
        select from public.finding_reviews
        where shell_file_id = p_shell_file_id and reason = 'other_person' and status in ('waiting', 'dismissed')
    )
$$;

-- Nothing of the run counts: like what a person dismissed, it is there, and whatever reads current rows leaves it out.
create function chartloom.hold_run(p_run_id uuid) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_now constant timestamptz := chartloom.clock();
begin
    update public.patient_clinical_events set superseded_at = v_now where run_id = p_run_id and superseded_at is null;
    update public.clinical_narratives set superseded_at = v_now where run_id = p_run_id and superseded_at is null;
    update public.healthcare_timeline_events set superseded_at = v_now
    where run_id = p_run_id and superseded_at is null;
end
$$;

create function chartloom.release_run(p_shell_file_id uuid, p_run_id uuid) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_review public.finding_reviews;
begin
    update public.patient_clinical_events set superseded_at = null
    where run_id = p_run_id and superseded_by_run_id is null and review is distinct from 'dismissed';
    update public.clinical_narratives set superseded_at = null
    where run_id = p_run_id and superseded_by_run_id is null and sentences <> '[]';
    update public.healthcare_timeline_events set superseded_at = null
    where run_id = p_run_id and superseded_by_run_id is null;
    for v_review in
        select * from public.finding_reviews
        where shell_file_id = p_shell_file_id and status in ('accepted', 'corrected', 'dismissed')
            and reason <> 'other_person'
        order by finding_key
    loop
        perform chartloom.apply_review(v_review);
    end loop;
end
$$;

-- A person's word on whose document it is: 'accept' (the patient's) or 'dismiss' (somebody else's).
create function chartloom.decide_on_document(p_review public.finding_reviews, p_decision text) returns jsonb
language plpgsql volatile
set search_path = ''
as $$
declare
    v_status constant text := case p_decision when 'accept' then 'accepted' else 'dismissed' end;
    v_run_id uuid;
begin
    if p_decision = 'correct' then
        raise exception 'a document is the patient''s (accept) or somebody else''s (dismiss)' using errcode = 'CL005';
    end if;
    -- As persist_findings does: reviews and runs of one document take turns.
    select current_run_id into v_run_id from public.shell_files where id = p_review.shell_file_id for no key update;
    update public.finding_reviews
    set status = v_status, decided_by = auth.uid(), decided_at = chartloom.clock()
    where finding_key = p_review.finding_key;
    if v_status = 'accepted' then
        perform chartloom.release_run(p_review.shell_file_id, v_run_id);
    else
        perform chartloom.hold_run(v_run_id);
    end if;
    perform chartloom.wake('changes', 0);
    return jsonb_build_object('finding_key', p_review.finding_key, 'status', v_status, 'event_id', null);
end
$$;

-- As before; and what the reviewer of a document holds back.
create or replace function chartloom.review_finding(p_finding_key uuid, p_decision text, p_correction jsonb default null)
returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_review public.finding_reviews;
    v_event public.patient_clinical_events;
    v_patient_id uuid;
    v_shell_file_id uuid;
    v_event_id uuid;
    v_correction jsonb := p_correction;
    v_status text := case p_decision when 'accept' then 'accepted' when 'correct' then 'corrected' else 'dismissed' end;
begin
    select * into v_review from public.finding_reviews where finding_key = p_finding_key;
    select * into v_event from public.patient_clinical_events
    where finding_key = p_finding_key and superseded_by_run_id is null;
    v_patient_id := coalesce(v_review.patient_id, v_event.patient_id);
    -- The same answer for "not there" and "not yours": a key must not be a way to ask what exists.
    if v_patient_id is null or not chartloom.has_profile_access(v_patient_id, 'write') then
        if v_patient_id is not null then
            perform chartloom.log_access('denied', 'finding_reviews', v_patient_id, array[p_finding_key::text]);
        end if;
        return chartloom.refusal('CL007', 'finding_key: no such finding');
    end if;
    if coalesce(p_decision not in ('accept', 'correct', 'dismiss'), true) then
        raise exception 'decision must be accept, correct or dismiss' using errcode = 'CL005';
    end if;
    if (p_decision = 'correct') <> (p_correction is not null) then
        raise exception 'correction belongs to the decision "correct", and to no other' using errcode = 'CL005';
    end if;
    if v_review.reason = 'other_person' then
        return chartloom.decide_on_document(v_review, p_decision);
    end if;
    if p_decision = 'accept' and v_event.id is null and v_review.claim ? 'place' then
        -- It stands on the page, and only the model had passed over it.
        return chartloom.review_finding(
            p_finding_key, 'correct', jsonb_build_object('place', (v_review.claim -> 'place') - 'quote')
        );
    end if;
    if p_decision = 'accept' and v_event.id is null then
        raise exception 'what is not on the page can''t be accepted: correct it, and say where its words are'
            using errcode = 'CL005';
    end if;
    if p_decision = 'correct' then
        perform chartloom.check_correction(p_correction, v_event.id is null);
    end if;
    if v_event.alignment = 'reviewer' and p_decision <> 'dismiss' then
        -- The words that a person found for a claim are a part of whatever is said of it.
        v_status := 'corrected';
        v_correction := coalesce(p_correction, '{}') || jsonb_build_object('place', jsonb_build_object(
            'page', v_event.page, 'start', v_event.char_start, 'end', v_event.char_end, 'quote', v_event.quote
        ));
    end if;
    -- As persist_findings does: reviews and runs of one document take turns.
    v_shell_file_id := coalesce(v_review.shell_file_id, v_event.shell_file_id);
    perform from public.shell_files where id = v_shell_file_id for no key update;
    insert into public.finding_reviews as f (
        finding_key, patient_id, shell_file_id, run_id, reason, status, correction, decided_by, decided_at
    )
    select p_finding_key, v_patient_id, v_shell_file_id, v_event.run_id, 'reader', v_status, v_correction, auth.uid(),
        chartloom.clock()
    where v_event.id is not null
    on conflict (finding_key) do update
    set status = excluded.status, correction = excluded.correction, decided_by = excluded.decided_by,
        decided_at = excluded.decided_at
    returning * into v_review;
    if v_event.id is null then
        update public.finding_reviews
        set status = v_status, correction = v_correction,
            decided_by = auth.uid(), decided_at = chartloom.clock()
        where finding_key = p_finding_key
        returning * into v_review;
    end if;
    v_event_id := chartloom.apply_review(v_review);
    if p_decision = 'correct' and v_event_id is null then
        raise exception 'correction: "place" is not on the page, or its words are a finding already' using errcode = 'CL005';
    end if;
    if p_decision = 'correct' and v_event.id is null then
        update public.finding_reviews as f
        set correction = jsonb_set(f.correction, '{place,quote}', to_jsonb(e.quote))
        from public.patient_clinical_events as e
        where f.finding_key = p_finding_key and e.id = v_event_id;
    end if;
    if chartloom.is_held(v_shell_file_id) then
        perform chartloom.hold_run(f.current_run_id) from public.shell_files as f where f.id = v_shell_file_id;
    end if;
    perform chartloom.wake('changes', 0);
    return jsonb_build_object('finding_key', p_finding_key, 'status', v_review.status, 'event_id', v_event_id);
end
$$;

-- -- What is written ----------------------------------------------------------------------------------------------------------

-- As before, and whether OCR was sure.
create or replace function chartloom.write_spokes(p_event_ids uuid[]) returns void
language sql volatile
set search_path = ''
as $$
    insert into public.patient_observations (
        event_id, patient_id, value_text, value_number, unit, reference_range, flag, observed_on, is_uncertain
    )
    select e.id, e.patient_id, e.attributes #>> '{value,text}',
        case when jsonb_typeof(e.attributes #> '{value,normalised}') = 'number'
            then (e.attributes #>> '{value,normalised}')::double precision end,
        coalesce(e.attributes #>> '{unit,normalised}', e.attributes #>> '{unit,text}'),
        coalesce(e.attributes #>> '{range,normalised}', e.attributes #>> '{range,text}'),
        coalesce(e.attributes #>> '{flag,normalised}', e.attributes #>> '{flag,text}'),
        coalesce(e.attributes #>> '{time,normalised}', e.attributes #>> '{time,text}'),
        jsonb_path_exists(e.attributes, '$.*.uncertain ? (@ == true)')
    from public.patient_clinical_events as e
    where e.id = any(p_event_ids) and e.kind = 'observation';
    insert into public.patient_interventions (event_id, patient_id, dose, route, frequency, performed_on, is_uncertain)
    select e.id, e.patient_id,
        coalesce(e.attributes #>> '{dose,normalised}', e.attributes #>> '{dose,text}'),
        coalesce(e.attributes #>> '{route,normalised}', e.attributes #>> '{route,text}'),
        coalesce(e.attributes #>> '{frequency,normalised}', e.attributes #>> '{frequency,text}'),
        coalesce(e.attributes #>> '{time,normalised}', e.attributes #>> '{time,text}'),
        jsonb_path_exists(e.attributes, '$.*.uncertain ? (@ == true)')
    from public.patient_clinical_events as e
    where e.id = any(p_event_ids) and e.kind = 'intervention';
$$;

-- As before, with what this migration added.
create or replace function chartloom.persist_findings(p_job_id bigint, p_lease_token uuid, p_rows jsonb) returns integer
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_job constant chartloom.job_queue := chartloom.hold_lease(p_job_id, p_lease_token);
    v_now constant timestamptz := chartloom.clock();
    v_run_id constant uuid := (v_job.payload ->> 'run_id')::uuid;
    v_event_ids uuid[];
    v_count integer;
    v_total integer;
begin
    -- One run of a document writes at a time, and only the one that is current.
    perform from public.shell_files where id = v_job.shell_file_id and current_run_id = v_run_id for no key update;
    if not found then
        raise exception 'run % of the document is not its current one', v_run_id using errcode = 'CL002';
    end if;
    update public.patient_clinical_events
    set superseded_at = coalesce(superseded_at, v_now), superseded_by_run_id = v_run_id
    where shell_file_id = v_job.shell_file_id and run_id <> v_run_id and superseded_by_run_id is null;
    update public.clinical_narratives
    set superseded_at = coalesce(superseded_at, v_now), superseded_by_run_id = v_run_id
    where shell_file_id = v_job.shell_file_id and run_id <> v_run_id and superseded_by_run_id is null;
    update public.healthcare_timeline_events
    set superseded_at = coalesce(superseded_at, v_now), superseded_by_run_id = v_run_id
    where shell_file_id = v_job.shell_file_id and run_id <> v_run_id and superseded_by_run_id is null;

    with inserted as (
        insert into public.patient_clinical_events (
            id, patient_id, shell_file_id, run_id, entity_id, finding_key, kind, label, text, assertion, subject,
            attributes, codes, page, char_start, char_end, quote, boxes, alignment, provider, model, prompt_version,
            schema_version, links, uncertain, found_by, terminology
        )
        select r.id, v_job.patient_id, v_job.shell_file_id, v_run_id, r.entity_id, r.finding_key, r.kind, r.label,
            r.text, r.assertion, r.subject, r.attributes, r.codes, r.page, r.char_start, r.char_end, r.quote, r.boxes,
            r.alignment, r.provider, r.model, r.prompt_version, r.schema_version,
            -- The persister of 0.1.0 sends none of these.
            coalesce(r.links, '[]'), coalesce(r.uncertain, false), r.found_by, r.terminology
        from jsonb_to_recordset(p_rows -> 'patient_clinical_events') as r (
            id uuid, entity_id text, finding_key uuid, kind text, label text, text text, assertion text, subject text,
            attributes jsonb, codes jsonb, page integer, char_start integer, char_end integer, quote text, boxes jsonb,
            alignment text, provider text, model text, prompt_version text, schema_version text, links jsonb,
            uncertain boolean, found_by jsonb, terminology text
        )
        returning id, kind
    )
    select coalesce(array_agg(id), '{}'), count(*) + count(*) filter (where kind in ('observation', 'intervention'))
    into v_event_ids, v_total from inserted;
    perform chartloom.write_spokes(v_event_ids);

    insert into public.clinical_narratives (
        run_id, patient_id, shell_file_id, narrative, sentences, provider, model, prompt_version, schema_version,
        terminology
    )
    select v_run_id, v_job.patient_id, v_job.shell_file_id, r.narrative, r.sentences, r.provider, r.model,
        r.prompt_version, r.schema_version, r.terminology
    from jsonb_to_recordset(p_rows -> 'clinical_narratives') as r (
        narrative text, sentences jsonb, provider text, model text, prompt_version text, schema_version text,
        terminology text
    );
    get diagnostics v_count = row_count;
    v_total := v_total + v_count;

    insert into public.healthcare_timeline_events (
        id, patient_id, shell_file_id, run_id, position, event_date, title, fact_key, event_ids, provider, model,
        prompt_version, schema_version, terminology
    )
    select r.id, v_job.patient_id, v_job.shell_file_id, v_run_id, r.position, r.event_date, r.title, r.fact_key,
        (select coalesce(array_agg(value::uuid), '{}') from jsonb_array_elements_text(r.event_ids) as value),
        r.provider, r.model, r.prompt_version, r.schema_version, r.terminology
    from jsonb_to_recordset(p_rows -> 'healthcare_timeline_events') as r (
        id uuid, position integer, event_date text, title text, fact_key text, event_ids jsonb, provider text,
        model text, prompt_version text, schema_version text, terminology text
    );
    get diagnostics v_count = row_count;
    v_total := v_total + v_count;

    perform chartloom.take_up_reviews(v_job.patient_id, v_job.shell_file_id, v_run_id, p_rows -> 'finding_reviews');
    if chartloom.is_held(v_job.shell_file_id) then
        perform chartloom.hold_run(v_run_id);
    end if;
    return v_total;
end
$$;

-- One more part of an extension: OCR was not sure of the words.
create function chartloom.fhir_uncertain(p_uncertain boolean) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
    return case
        when p_uncertain then jsonb_build_array(jsonb_build_object('url', 'uncertain', 'valueBoolean', true)) else '[]'
    end;
end
$$;

-- As before, and whether OCR was sure.
create or replace function chartloom.fhir_finding_provenance(p_event public.patient_clinical_events) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
    v_provenance jsonb;
begin
    v_provenance := chartloom.fhir_provenance(
        p_event.id, p_event.shell_file_id, p_event.created_at,
        chartloom.fhir_agent(p_event.provider, p_event.model, p_event.prompt_version),
        jsonb_build_object('extension', jsonb_build_array(jsonb_build_object(
            'url', 'https://chartloom.dev/fhir/StructureDefinition/finding',
            'extension', jsonb_build_array(
                jsonb_build_object('url', 'kind', 'valueCode', p_event.kind),
                jsonb_build_object('url', 'label', 'valueString', p_event.label),
                jsonb_build_object('url', 'assertion', 'valueCode', p_event.assertion),
                jsonb_build_object('url', 'subject', 'valueCode', p_event.subject)
            )
        ))),
        jsonb_build_object('extension', jsonb_build_array(jsonb_build_object(
            'url', 'https://chartloom.dev/fhir/StructureDefinition/source-words',
            'extension', chartloom.fhir_place(
                p_event.page, p_event.char_start, p_event.char_end, p_event.quote, p_event.boxes
            ) || chartloom.fhir_uncertain(p_event.uncertain)
        )) || coalesce((
            select jsonb_agg(jsonb_build_object(
                'url', 'https://chartloom.dev/fhir/StructureDefinition/attribute-words',
                'extension', jsonb_build_array(jsonb_build_object('url', 'name', 'valueCode', a.name))
                    || chartloom.fhir_place(
                        (a.said #>> '{source,page}')::integer, (a.said #>> '{source,start}')::integer,
                        (a.said #>> '{source,end}')::integer, a.said #>> '{source,quote}', a.said #> '{source,boxes}'
                    ) || chartloom.fhir_uncertain((a.said -> 'uncertain')::boolean)
            ))
            from jsonb_each(p_event.attributes) as a (name, said)
        ), '[]'))
    );
    if p_event.review is null then
        return v_provenance;
    end if;
    return jsonb_set(v_provenance, '{agent}', v_provenance -> 'agent' || jsonb_build_object(
        'type', chartloom.fhir_concept(
            'http://terminology.hl7.org/CodeSystem/provenance-participant-type', 'verifier', 'Verifier'
        ),
        'who', jsonb_build_object('type', 'Person', 'display', case p_event.review
            when 'corrected' then 'a person with access to the record, who corrected it'
            else 'a person with access to the record, who accepted it'
        end)
    ));
end
$$;

-- -- Runs over what was read already ------------------------------------------------------------------------------------------

-- A shadow run: all passes by the candidate model (AI_SHADOW_MODEL), whose results are kept beside the document's own and become
-- no clinical row. No step follows it, and it is never the document's current run.
insert into chartloom.job_types (job_type, job_category, worker_role, payload_schema, max_run_seconds) values
('ai_shadow', 'ai', 'chartloom_ai', '{"shell_file_id": "uuid", "run_id": "uuid"}', 3600);

-- Completed documents again from a pass on (1 find, 2 understand, 3 tell), over the same pages, by whichever model the service has
-- now; what came before that pass is taken over. With p_model_was, only those of which that model did one of these passes.
-- The rows of before count until the new ones are written, and can be read ever after. New uploads go first.
create function chartloom.reprocess_documents(
    p_from_pass integer,
    p_model_was text default null,
    p_shell_file_ids uuid[] default null,
    p_limit integer default 1000
) returns table (shell_file_id uuid, run_id uuid, job_id bigint)
language plpgsql volatile security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_passes constant text[] := array['detect', 'enrich', 'narrate'];
    v_file public.shell_files;
    v_run_id uuid;
begin
    if coalesce(p_from_pass not between 1 and 3 or p_limit not between 1 and 10000, true) then
        raise exception 'from_pass must be between 1 and 3, limit between 1 and 10000' using errcode = 'CL005';
    end if;
    for v_file in
        select f.* from public.shell_files as f
        where f.status = 'completed' and (p_shell_file_ids is null or f.id = any(p_shell_file_ids))
            and not exists (select from chartloom.erasures as e where e.patient_id = f.patient_id)
            and (
                select count(*) from public.ai_pass_results as r
                where r.run_id = f.current_run_id and r.pass = any(v_passes[1:p_from_pass - 1])
            ) = p_from_pass - 1
            and (
                p_model_was is null or exists (
                    select from public.ai_pass_results as r
                    where r.run_id = f.current_run_id and r.pass = any(v_passes[p_from_pass:3])
                        and r.model = p_model_was
                )
            )
        order by f.completed_at limit p_limit for no key update of f skip locked
    loop
        perform set_config('chartloom.trace_id', chartloom.trace_id(v_file.traceparent), true);
        shell_file_id := v_file.id;
        insert into chartloom.document_runs (shell_file_id, ocr_run_id)
        select v_file.id, r.ocr_run_id from chartloom.document_runs as r where r.id = v_file.current_run_id
        returning id into v_run_id;
        run_id := v_run_id;
        insert into public.ai_pass_results (
            run_id, pass, shell_file_id, patient_id, provider, model, prompt_version, schema_version, result
        )
        select v_run_id, r.pass, r.shell_file_id, r.patient_id, r.provider, r.model, r.prompt_version, r.schema_version,
            r.result
        from public.ai_pass_results as r
        where r.run_id = v_file.current_run_id and r.pass = any(v_passes[1:p_from_pass - 1]);
        update public.shell_files set status = 'queued', processing_error = null, current_run_id = v_run_id
        where id = v_file.id;
        job_id := chartloom.enqueue_job_v3(
            'ai_' || v_passes[p_from_pass], 'ai',
            jsonb_build_object('shell_file_id', v_file.id, 'run_id', v_run_id),
            p_priority => -10,
            p_idempotency_key => 'run:' || v_run_id::text,
            p_traceparent => v_file.traceparent
        );
        return next;
    end loop;
end
$$;

-- A shadow run for each of these documents, or for so many of the latest. Last in line.
create function chartloom.shadow_documents(p_shell_file_ids uuid[] default null, p_limit integer default 20)
returns table (shell_file_id uuid, run_id uuid, job_id bigint)
language plpgsql volatile security definer
set search_path = ''
as $$
#variable_conflict use_column
declare
    v_file public.shell_files;
    v_run_id uuid;
begin
    if coalesce(p_limit not between 1 and 10000, true) then
        raise exception 'limit must be between 1 and 10000' using errcode = 'CL005';
    end if;
    for v_file in
        select f.* from public.shell_files as f
        where f.status = 'completed' and (p_shell_file_ids is null or f.id = any(p_shell_file_ids))
            and not exists (select from chartloom.erasures as e where e.patient_id = f.patient_id)
        order by f.completed_at desc limit p_limit for no key update of f skip locked
    loop
        perform set_config('chartloom.trace_id', chartloom.trace_id(v_file.traceparent), true);
        shell_file_id := v_file.id;
        insert into chartloom.document_runs (shell_file_id, ocr_run_id)
        select v_file.id, r.ocr_run_id from chartloom.document_runs as r where r.id = v_file.current_run_id
        returning id into v_run_id;
        run_id := v_run_id;
        job_id := chartloom.enqueue_job_v3(
            'ai_shadow', 'ai', jsonb_build_object('shell_file_id', v_file.id, 'run_id', v_run_id), p_priority => -100
        );
        return next;
    end loop;
end
$$;

revoke execute on all functions in schema chartloom from public;
grant execute on function
chartloom.read_page_texts(bigint, uuid), chartloom.read_profile(bigint, uuid) to chartloom_persister;
grant execute on function
chartloom.reprocess_documents(integer, text, uuid[], integer), chartloom.shadow_documents(uuid[], integer)
to chartloom_operator, service_role;
