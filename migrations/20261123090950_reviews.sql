-- What a person says of a finding, and the timeline of all their documents.
--
-- A decision names a finding by its key, not by its row, so that it holds for the rows of every later run, whichever model found
-- them. What is dismissed or corrected takes back what was told from it: sentences that cite it, the title on the timeline.

-- A finding in a line, as services/ai titles it.
create function chartloom.title_of(p_event public.patient_clinical_events) returns text
language plpgsql stable
set search_path = ''
as $$
begin
    return case p_event.assertion
        when 'possible' then 'Possible ' when 'historical' then 'Past: ' when 'hypothetical' then 'Planned or conditional: '
        else '' end
        || concat_ws(
            ' ', p_event.text, p_event.attributes #>> '{value,text}', p_event.attributes #>> '{unit,text}',
            p_event.attributes #>> '{dose,text}'
        );
end
$$;

-- An entry of the timeline as its findings are now: made from what was told, so that a second thought undoes the first.
create function chartloom.retell_entry(p_entry public.healthcare_timeline_events) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_as_told constant jsonb := coalesce(p_entry.as_told, jsonb_build_object(
        'title', p_entry.title, 'event_date', p_entry.event_date, 'fact_key', p_entry.fact_key
    ));
    v_teller public.patient_clinical_events;
    v_corrected public.patient_clinical_events;
    v_time text;
begin
    select e.* into v_teller
    from unnest(p_entry.event_ids) with ordinality as u (id, place)
    join public.patient_clinical_events as e on e.id = u.id
    where e.superseded_at is null order by u.place limit 1;
    select e.* into v_corrected
    from unnest(p_entry.event_ids) with ordinality as u (id, place)
    join public.patient_clinical_events as e on e.id = u.id
    where e.superseded_at is null and e.review = 'corrected' order by u.place limit 1;
    v_time := v_corrected.attributes #>> '{time,normalised}';
    update public.healthcare_timeline_events
    set as_told = v_as_told,
        superseded_at = case when v_teller.id is null then chartloom.clock() end,
        title = case
            when v_teller.id = p_entry.event_ids[1] and v_teller.review is distinct from 'corrected' or v_teller.id is null
                then v_as_told ->> 'title'
            else chartloom.title_of(v_teller)
        end,
        event_date = case
            when v_time ~ '^\d{4}(-\d\d(-\d\d)?)?$' then v_time
            when v_corrected.as_found -> 'attributes' ? 'time' and not v_corrected.attributes ? 'time' then null
            else v_as_told ->> 'event_date'
        end,
        -- What a person changed is no longer what another document was found to say.
        fact_key = case when v_corrected.id is null then v_as_told ->> 'fact_key' end
    where id = p_entry.id;
end
$$;

-- Lets the document's timeline and narrative say no more than its findings do, after one of them was reviewed.
create function chartloom.retell(p_event public.patient_clinical_events) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_now constant timestamptz := chartloom.clock();
    v_entry public.healthcare_timeline_events;
    v_narrative record;
begin
    for v_entry in
        select * from public.healthcare_timeline_events
        where shell_file_id = p_event.shell_file_id and superseded_by_run_id is null
            and event_ids @> array[p_event.id]
    loop
        perform chartloom.retell_entry(v_entry);
    end loop;

    select n.run_id, coalesce(n.as_told, n.sentences) as as_told,
        coalesce(jsonb_agg(s.sentence order by s.place) filter (where not exists (
            select from jsonb_array_elements_text(s.sentence -> 'event_ids') as cited (id)
            join public.patient_clinical_events as e on e.id = cited.id::uuid
            where e.review in ('dismissed', 'corrected')
        )), '[]') as sentences
    into v_narrative
    from public.clinical_narratives as n,
        jsonb_array_elements(coalesce(n.as_told, n.sentences)) with ordinality as s (sentence, place)
    where n.shell_file_id = p_event.shell_file_id and n.superseded_by_run_id is null
    group by n.run_id;
    update public.clinical_narratives as n
    set as_told = v_narrative.as_told, sentences = v_narrative.sentences,
        narrative = (
            select coalesce(string_agg(s.sentence ->> 'text', E'\n' order by s.place), '')
            from jsonb_array_elements(v_narrative.sentences) with ordinality as s (sentence, place)
        ),
        superseded_at = case when v_narrative.sentences = '[]' then v_now end
    where n.run_id = v_narrative.run_id and n.sentences <> v_narrative.sentences;
end
$$;

-- Makes a hub row of a claim whose words a reviewer found. None where the same words are a current finding of the kind already.
create function chartloom.place_claim(p_review public.finding_reviews) returns uuid
language plpgsql volatile
set search_path = ''
as $$
declare
    v_page public.ocr_pages;
    v_kind constant text := coalesce(p_review.correction ->> 'kind', p_review.claim ->> 'kind');
    v_quote constant text := p_review.correction #>> '{place,quote}';
    v_start integer := (p_review.correction #>> '{place,start}')::integer;
    v_end integer := (p_review.correction #>> '{place,end}')::integer;
    v_id constant uuid := gen_random_uuid();
begin
    if v_kind not in ('event', 'observation', 'intervention', 'context') then
        raise exception 'correction: "kind" is missing: the model''s own is none' using errcode = 'CL005';
    end if;
    select p.* into v_page
    from public.shell_files as f
    join chartloom.document_runs as r on r.id = f.current_run_id
    join public.ocr_pages as p on p.run_id = r.ocr_run_id and p.shell_file_id = f.id
    where f.id = p_review.shell_file_id and p.page = (p_review.correction #>> '{place,page}')::integer;
    if v_quote <> substr(v_page.text, v_start + 1, v_end - v_start) then
        -- The page was recognised anew, and its words have moved.
        v_start := strpos(v_page.text, v_quote) - 1;
        v_end := v_start + length(v_quote);
    end if;
    if v_page.page is null or v_start < 0 or v_end <= v_start or v_end > length(v_page.text) then
        return null;
    end if;
    insert into public.patient_clinical_events (
        id, patient_id, shell_file_id, run_id, entity_id, finding_key, kind, label, text, assertion, subject, attributes,
        codes, page, char_start, char_end, quote, boxes, alignment, provider, model, prompt_version, schema_version
    )
    select v_id, p_review.patient_id, p_review.shell_file_id, f.current_run_id, 'review-' || p_review.finding_key,
        p_review.finding_key, v_kind, p_review.claim ->> 'label', q.quote, 'affirmed', 'patient', '{}',
        '[]', v_page.page, v_start, v_end, q.quote,
        coalesce((
            select jsonb_agg(w.word -> 'box' order by w.place)
            from jsonb_array_elements(v_page.words) with ordinality as w (word, place)
            where (w.word ->> 'start')::integer < v_end and (w.word ->> 'end')::integer > v_start
        ), '[]'),
        'reviewer', p_review.claim ->> 'provider', p_review.claim ->> 'model', p_review.claim ->> 'prompt_version',
        p_review.claim ->> 'schema_version'
    from public.shell_files as f, (select substr(v_page.text, v_start + 1, v_end - v_start) as quote) as q
    where f.id = p_review.shell_file_id and not exists (
        select from public.patient_clinical_events as e
        where e.shell_file_id = f.id and e.superseded_by_run_id is null and e.page = v_page.page
            and e.kind = v_kind and e.char_start < v_end and e.char_end > v_start
    );
    return case when found then v_id end;
end
$$;

-- Lets a decision hold for the finding's row as it is now; without a row there is nothing to do.
create function chartloom.apply_review(p_review public.finding_reviews) returns uuid
language plpgsql volatile
set search_path = ''
as $$
declare
    v_event public.patient_clinical_events;
    v_placed_id uuid;
    v_as_found jsonb;
    v_said jsonb;
    v_attribute record;
begin
    select * into v_event from public.patient_clinical_events
    where finding_key = p_review.finding_key and superseded_by_run_id is null;
    if not found and p_review.status = 'corrected' and p_review.claim ? 'quote' then
        v_placed_id := chartloom.place_claim(p_review);
        select * into v_event from public.patient_clinical_events where id = v_placed_id;
    end if;
    if v_event.id is null then
        return null;
    end if;
    v_as_found := coalesce(v_event.as_found, jsonb_build_object(
        'kind', v_event.kind, 'label', v_event.label, 'text', v_event.text, 'assertion', v_event.assertion,
        'subject', v_event.subject, 'attributes', v_event.attributes, 'codes', v_event.codes
    ));
    v_said := v_as_found;
    if p_review.status = 'corrected' then
        v_said := v_said || (p_review.correction - 'attributes' - 'place');
        if v_said -> 'text' is distinct from v_as_found -> 'text' then
            v_said := v_said || '{"codes": []}';
        end if;
        -- An attribute's words stand where they stood, else where the finding does; null takes it away.
        for v_attribute in select * from jsonb_each(p_review.correction -> 'attributes') as a (name, said) loop
            v_said := case when v_attribute.said = 'null' then v_said #- array['attributes', v_attribute.name]
                else jsonb_set(v_said, array['attributes', v_attribute.name], v_attribute.said || jsonb_build_object(
                    'source', coalesce(v_as_found #> array['attributes', v_attribute.name, 'source'], jsonb_build_object(
                        'page', v_event.page, 'start', v_event.char_start, 'end', v_event.char_end,
                        'quote', v_event.quote, 'boxes', v_event.boxes
                    ))
                )) end;
        end loop;
    end if;
    update public.patient_clinical_events
    set review = p_review.status,
        superseded_at = case when p_review.status = 'dismissed' then p_review.decided_at end,
        as_found = case when p_review.status = 'corrected' then v_as_found end,
        kind = v_said ->> 'kind', label = v_said ->> 'label', text = v_said ->> 'text',
        assertion = v_said ->> 'assertion', subject = v_said ->> 'subject', attributes = v_said -> 'attributes',
        codes = v_said -> 'codes'
    where id = v_event.id
    returning * into v_event;
    delete from public.patient_observations where event_id = v_event.id;
    delete from public.patient_interventions where event_id = v_event.id;
    perform chartloom.write_spokes(array[v_event.id]);
    perform chartloom.retell(v_event);
    return v_event.id;
end
$$;

-- A new run's part: what waits now, what no longer does, and the decisions of before on its rows.
create function chartloom.take_up_reviews(
    p_patient_id uuid, p_shell_file_id uuid, p_run_id uuid, p_waiting jsonb
) returns void
language plpgsql volatile
set search_path = ''
as $$
declare
    v_review public.finding_reviews;
begin
    insert into public.finding_reviews as f (finding_key, patient_id, shell_file_id, run_id, reason, claim)
    select w.finding_key, p_patient_id, p_shell_file_id, p_run_id, w.reason, w.claim
    from jsonb_to_recordset(p_waiting) as w (finding_key uuid, reason text, claim jsonb)
    on conflict (finding_key) do update
    set run_id = excluded.run_id, claim = excluded.claim,
        reason = case when f.status in ('waiting', 'withdrawn') then excluded.reason else f.reason end,
        status = case when f.status = 'withdrawn' then 'waiting' else f.status end;
    update public.finding_reviews set status = 'withdrawn'
    where shell_file_id = p_shell_file_id and status = 'waiting' and run_id <> p_run_id;
    for v_review in
        select * from public.finding_reviews
        where shell_file_id = p_shell_file_id and status in ('accepted', 'corrected', 'dismissed')
        order by finding_key
    loop
        if chartloom.apply_review(v_review) is null and v_review.status = 'corrected' and v_review.claim ? 'quote' then
            -- The words that a person pointed at are not on the page any more: it is for a person again.
            update public.finding_reviews
            set status = 'waiting', correction = null, decided_by = null, decided_at = null
            where finding_key = v_review.finding_key;
        end if;
    end loop;
end
$$;

-- Raises CL005 with the field that is wrong.
create function chartloom.check_correction(p_correction jsonb, p_needs_place boolean) returns void
language plpgsql immutable
set search_path = ''
as $$
declare
    v_field text;
    v_value jsonb;
begin
    if jsonb_typeof(p_correction) is distinct from 'object' or p_correction = '{}' then
        raise exception 'correction must be an object of what is to be said instead' using errcode = 'CL005';
    end if;
    for v_field, v_value in select * from jsonb_each(p_correction) loop
        if not coalesce(case v_field
            when 'kind' then v_value #>> '{}' in ('event', 'observation', 'intervention', 'context')
            when 'assertion' then
                v_value #>> '{}' in ('affirmed', 'negated', 'possible', 'historical', 'hypothetical')
            when 'subject' then v_value #>> '{}' in ('patient', 'family', 'other')
            when 'label' then jsonb_typeof(v_value) = 'string' and length(v_value #>> '{}') between 1 and 100
            when 'text' then jsonb_typeof(v_value) = 'string' and length(v_value #>> '{}') between 1 and 1000
            when 'place' then chartloom.is_of_type(v_value -> 'page', 'integer')
                and chartloom.is_of_type(v_value -> 'start', 'integer')
                and chartloom.is_of_type(v_value -> 'end', 'integer')
            when 'attributes' then jsonb_typeof(v_value) = 'object'
            else false
        end, false) then
            raise exception 'correction: field "%" is not known, or not of its kind', v_field using errcode = 'CL005';
        end if;
    end loop;
    if p_correction ? 'attributes' then
        for v_field, v_value in select * from jsonb_each(p_correction -> 'attributes') loop
            if v_field not in (
                'value', 'unit', 'range', 'flag', 'dose', 'route', 'frequency', 'time', 'severity', 'site'
            ) or v_value <> 'null' and (
                jsonb_typeof(v_value -> 'text') is distinct from 'string' or v_value - '{text,normalised}'::text[] <> '{}'
                or jsonb_typeof(v_value -> 'normalised') not in ('string', 'number', 'null')
            ) then
                raise exception 'correction: attribute "%" must be one of a finding''s, and null or {"text", "normalised"}',
                    v_field using errcode = 'CL005';
            end if;
        end loop;
    end if;
    if p_needs_place and not p_correction ? 'place' then
        raise exception 'correction: "place" is missing: what is not on the page needs {"page", "start", "end"}'
            using errcode = 'CL005';
    end if;
    if p_correction ? 'place' and not p_needs_place then
        raise exception 'correction: "place" is only for what is not on the page; dismiss a finding of other words'
            using errcode = 'CL005';
    end if;
end
$$;

-- A person's word on a finding: 'accept' (as it was found), 'correct' (with what is to be said instead), 'dismiss'. It may be
-- said again, and otherwise. For whoever may write to the profile.
create function chartloom.review_finding(p_finding_key uuid, p_decision text, p_correction jsonb default null)
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
    perform chartloom.wake('changes', 0);
    return jsonb_build_object('finding_key', p_finding_key, 'status', v_review.status, 'event_id', v_event_id);
end
$$;

create function public.review_finding(p_finding_key uuid, p_decision text, p_correction jsonb default null) returns jsonb
language sql volatile security invoker
set search_path = ''
as $$ select chartloom.answer(chartloom.review_finding(p_finding_key, p_decision, p_correction), '404') $$;

-- ── the timeline ─────────────────────────────────────────────────────────────────────────────────────────────────────

-- One line a fact, whichever documents tell it. Read it `order by sort_key nulls last, event_date, position`: a year comes before
-- its months, a month before its days, what has no date at the end.
create view public.patient_timeline with (security_invoker = true) as
with current_entries as (
    select t.patient_id, t.shell_file_id, t.id, t.title, t.position, t.event_ids, t.fact_key,
        -- A list of medicines has no dates: it names the medicine that another document dates.
        case
            when t.event_date is null and t.fact_key like 'medication/%'
                then min(t.event_date) over (partition by t.patient_id, t.fact_key)
            else t.event_date
        end as event_date
    from public.healthcare_timeline_events as t
    where t.superseded_at is null
)
select c.patient_id, c.event_date, c.event_date || substr('-01-01', length(c.event_date) - 3) as sort_key,
    (array_agg(c.title order by length(c.title) desc, c.id))[1] as title, min(c.position) as position,
    array_agg(distinct e.id) as event_ids, array_agg(distinct c.shell_file_id) as shell_file_ids,
    array_agg(distinct c.id) as entry_ids
from current_entries as c
cross join lateral unnest(c.event_ids) as told (id)
join public.patient_clinical_events as e on e.id = told.id and e.superseded_at is null
group by c.patient_id, c.event_date, coalesce(c.fact_key, c.id::text);
comment on view public.patient_timeline is 'The timeline of a patient over all documents: the same fact in several of them is one line with all its sources.';

revoke all on public.patient_timeline from anon, authenticated, service_role;
grant select on public.patient_timeline to authenticated, service_role;
revoke execute on function public.review_finding(uuid, text, jsonb) from public, anon, service_role;
grant execute on function public.review_finding(uuid, text, jsonb), chartloom.review_finding(uuid, text, jsonb) to authenticated;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
