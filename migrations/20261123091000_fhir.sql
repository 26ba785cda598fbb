-- A patient's record as an R4 Bundle: what is current, each fact with a Provenance that leads to the page and its words.
-- One function a resource type; docs/fhir.md has the mapping as a table, and why.
--
-- PL/pgSQL throughout: its plans are kept, and these run once a fact.

-- ── pieces ───────────────────────────────────────────────────────────────────────────────────────────────────────────

-- Text as a FHIR string allows it: no control characters, not empty. Null where nothing is left.
create function chartloom.fhir_text(p_text text) returns text
language plpgsql stable
set search_path = ''
as $$
begin
    return nullif(btrim(
        regexp_replace(p_text, '[\x01-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff]', '', 'g'), E' \t\r\n'
    ), '');
end
$$;

-- A date to the precision that is known (2024, 2024-03, 2024-03-09); null for a duration, a word, a day that there is not.
create function chartloom.fhir_date(p_text text) returns text
language plpgsql stable
set search_path = ''
as $$
begin
    if p_text !~ '^[1-9]\d{3}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01]))?)?$' then
        return null;
    end if;
    if length(p_text) = 10 and right(p_text, 2)::integer > extract(
        day from (left(p_text, 7) || '-01')::date + interval '1 month - 1 day'
    ) then
        return null;
    end if;
    return p_text;
end
$$;

create function chartloom.fhir_instant(p_time timestamptz) returns text
language plpgsql stable
set search_path = ''
as $$
begin
    return to_char(p_time at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');
end
$$;

create function chartloom.fhir_reference(p_id uuid) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
    return jsonb_build_object('reference', 'urn:uuid:' || p_id);
end
$$;

create function chartloom.fhir_entry(p_resource jsonb) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
    return jsonb_build_object('fullUrl', 'urn:uuid:' || (p_resource ->> 'id'), 'resource', p_resource);
end
$$;

-- A CodeableConcept of the record's words, or null without any.
create function chartloom.fhir_words(p_text text) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
    return case when chartloom.fhir_text(p_text) is not null then
        jsonb_build_object('text', chartloom.fhir_text(p_text))
    end;
end
$$;

-- Where R4 wants a list and there is one at most.
create function chartloom.fhir_list(p_item jsonb) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
    return case when p_item is not null then jsonb_build_array(p_item) end;
end
$$;

-- One code of a system of HL7's.
create function chartloom.fhir_concept(p_system text, p_code text, p_display text default null) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
    return jsonb_build_object('coding', jsonb_build_array(jsonb_strip_nulls(
        jsonb_build_object('system', p_system, 'code', p_code, 'display', p_display)
    )));
end
$$;

-- What a finding is: the words of the record, and its codes. A system without a URI of HL7's gets one of ours.
create function chartloom.fhir_code(p_text text, p_codes jsonb) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
    return jsonb_strip_nulls(jsonb_build_object('text', chartloom.fhir_text(p_text), 'coding', (
        select jsonb_agg(jsonb_build_object(
            'system', case c.value ->> 'system'
                when 'ICD-10-CM' then 'http://hl7.org/fhir/sid/icd-10-cm'
                when 'LOINC' then 'http://loinc.org'
                when 'SNOMED CT' then 'http://snomed.info/sct'
                when 'RxNorm' then 'http://www.nlm.nih.gov/research/umls/rxnorm'
                else 'https://chartloom.dev/fhir/CodeSystem/'
                    || regexp_replace(lower(c.value ->> 'system'), '[^a-z0-9]+', '-', 'g')
            end,
            'code', c.value ->> 'code',
            'display', chartloom.fhir_text(c.value ->> 'display')
        ) order by c.place)
        from jsonb_array_elements(p_codes) with ordinality as c (value, place)
        where c.value ->> 'code' ~ '^\S+( \S+)*$'
    )));
end
$$;

-- What no field of the resource can hold: how the record says it, and a time that is no date.
create function chartloom.fhir_note(p_event public.patient_clinical_events, p_when text default null) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
    v_notes constant jsonb := to_jsonb(array_remove(array[
        case p_event.assertion
            when 'historical' then 'The document tells this as history.'
            when 'possible' then 'The document calls this possible.'
        end,
        case when chartloom.fhir_date(p_when) is null then 'When: ' || chartloom.fhir_text(p_when) end
    ], null));
begin
    return (select jsonb_agg(jsonb_build_object('text', note)) from jsonb_array_elements_text(v_notes) as note);
end
$$;

create function chartloom.fhir_div(p_lines text[]) returns text
language plpgsql stable
set search_path = ''
as $$
begin
    return '<div xmlns="http://www.w3.org/1999/xhtml">' || coalesce((
        select string_agg(
            '<p>' || replace(replace(replace(chartloom.fhir_text(line), '&', '&amp;'), '<', '&lt;'), '>', '&gt;') || '</p>',
            '' order by place
        )
        from unnest(p_lines) with ordinality as l (line, place)
        where chartloom.fhir_text(line) is not null
    ), '<p>-</p>') || '</div>';
end
$$;

-- ── where it is from ─────────────────────────────────────────────────────────────────────────────────────────────────

create function chartloom.fhir_patient(p_patient public.user_profiles) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
    return jsonb_strip_nulls(jsonb_build_object(
        'resourceType', 'Patient',
        'id', p_patient.id,
        'name', chartloom.fhir_list(chartloom.fhir_words(p_patient.display_name)),
        'birthDate', p_patient.birth_date
    ));
end
$$;

-- attachment.hash is SHA-1 in R4, and what we have is SHA-256: it is an identifier, as RFC 6920 writes hashes.
create function chartloom.fhir_document(p_file public.shell_files) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
    return jsonb_build_object(
        'resourceType', 'DocumentReference',
        'id', p_file.id,
        'identifier', jsonb_build_array(jsonb_build_object(
            'system', 'urn:ietf:rfc:3986',
            'value', 'ni:///sha-256;'
                || rtrim(translate(encode(decode(p_file.sha256, 'hex'), 'base64'), '+/', '-_'), '=')
        )),
        'status', 'current',
        'subject', chartloom.fhir_reference(p_file.patient_id),
        'date', chartloom.fhir_instant(p_file.created_at),
        'content', jsonb_build_array(jsonb_build_object('attachment', jsonb_strip_nulls(jsonb_build_object(
            'contentType', case when p_file.mime_type ~ '^\S+/\S+$' then p_file.mime_type end,
            'size', case when p_file.size_bytes <= 2147483647 then p_file.size_bytes end,
            'title', chartloom.fhir_text(p_file.file_name)
        ))))
    );
end
$$;

-- The parts of an extension that lead to words on a page; boxes in pixels of the page's upright image.
create function chartloom.fhir_place(
    p_page integer, p_start integer, p_end integer, p_quote text, p_boxes jsonb
) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
    return jsonb_build_array(
        jsonb_build_object('url', 'page', 'valuePositiveInt', p_page),
        jsonb_build_object('url', 'start', 'valueUnsignedInt', p_start),
        jsonb_build_object('url', 'end', 'valueUnsignedInt', p_end),
        jsonb_build_object('url', 'quote', 'valueString', p_quote)
    ) || coalesce((
        select jsonb_agg(jsonb_build_object(
            'url', 'box', 'valueString', concat_ws(' ', b.box ->> 0, b.box ->> 1, b.box ->> 2, b.box ->> 3)
        ))
        from jsonb_array_elements(p_boxes) as b (box)
    ), '[]');
end
$$;

create function chartloom.fhir_agent(p_provider text, p_model text, p_prompt_version text) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
    return jsonb_build_object(
        'type', 'Device',
        'display', format('%s, model %s, prompt version %s', p_provider, p_model, p_prompt_version)
    );
end
$$;

-- p_extension goes to the Provenance, p_source to its entity: {"extension": […]}, or {}. The id is made from the target's, since a Bundle holds an id once.
create function chartloom.fhir_provenance(
    p_target uuid, p_file uuid, p_recorded timestamptz, p_agent jsonb, p_extension jsonb, p_source jsonb
) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
    -- An object that may be empty, joined: stripping nulls walks through all that is below.
    return jsonb_build_object(
        'resourceType', 'Provenance',
        'id', md5('provenance of ' || p_target)::uuid,
        'target', jsonb_build_array(chartloom.fhir_reference(p_target)),
        'recorded', chartloom.fhir_instant(p_recorded),
        'agent', jsonb_build_array(jsonb_build_object(
            'type', chartloom.fhir_concept(
                'http://terminology.hl7.org/CodeSystem/provenance-participant-type', 'assembler', 'Assembler'
            ),
            'who', p_agent
        )),
        'entity', jsonb_build_array(
            jsonb_build_object('role', 'source', 'what', chartloom.fhir_reference(p_file)) || p_source
        )
    ) || p_extension;
end
$$;

create function chartloom.fhir_finding_provenance(p_event public.patient_clinical_events) returns jsonb
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
            )
        )) || coalesce((
            select jsonb_agg(jsonb_build_object(
                'url', 'https://chartloom.dev/fhir/StructureDefinition/attribute-words',
                'extension', jsonb_build_array(jsonb_build_object('url', 'name', 'valueCode', a.name))
                    || chartloom.fhir_place(
                        (a.said #>> '{source,page}')::integer, (a.said #>> '{source,start}')::integer,
                        (a.said #>> '{source,end}')::integer, a.said #>> '{source,quote}', a.said #> '{source,boxes}'
                    )
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

-- ── facts ────────────────────────────────────────────────────────────────────────────────────────────────────────────

-- No clinicalStatus: a document says what was so on its day, and "past history: diabetes" does not mean that it is over.
create function chartloom.fhir_condition(p_event public.patient_clinical_events) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
    v_time constant text := coalesce(p_event.attributes #>> '{time,normalised}', p_event.attributes #>> '{time,text}');
begin
    return jsonb_strip_nulls(jsonb_build_object(
        'resourceType', 'Condition',
        'id', p_event.id,
        'verificationStatus', chartloom.fhir_concept(
            'http://terminology.hl7.org/CodeSystem/condition-ver-status',
            case p_event.assertion when 'negated' then 'refuted' when 'possible' then 'provisional' else 'confirmed' end
        ),
        'severity', chartloom.fhir_words(p_event.attributes #>> '{severity,text}'),
        'code', chartloom.fhir_code(p_event.text, p_event.codes),
        'bodySite', chartloom.fhir_list(chartloom.fhir_words(p_event.attributes #>> '{site,text}')),
        'subject', chartloom.fhir_reference(p_event.patient_id),
        'onsetDateTime', chartloom.fhir_date(v_time),
        'onsetString', case when chartloom.fhir_date(v_time) is null then chartloom.fhir_text(v_time) end,
        'note', chartloom.fhir_note(p_event)
    ));
end
$$;

-- A number with its unit, coded where the unit has a UCUM code; else the words, unit included ("120/80 mmHg", "<0.5 mg/L").
create function chartloom.fhir_value(
    p_event public.patient_clinical_events, p_observation public.patient_observations
) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
    v_printed constant text := chartloom.fhir_text(coalesce(p_event.attributes #>> '{unit,text}', p_observation.unit));
    v_ucum constant text := p_event.attributes #>> '{unit,normalised}';
begin
    if p_observation.value_number is null then
        return jsonb_strip_nulls(jsonb_build_object(
            'valueString', chartloom.fhir_text(concat_ws(' ', p_observation.value_text, v_printed))
        ));
    end if;
    return jsonb_build_object('valueQuantity', jsonb_strip_nulls(jsonb_build_object(
        'value', p_observation.value_number,
        'unit', v_printed,
        'system', case when v_ucum = p_observation.unit then 'http://unitsofmeasure.org' end,
        'code', case when v_ucum = p_observation.unit then v_ucum end
    )));
end
$$;

-- What an observation says. A symptom is there or not (v2-0136, as R4 advises against valueBoolean); a test has a value, or
-- was not done.
create function chartloom.fhir_outcome(
    p_event public.patient_clinical_events, p_observation public.patient_observations
) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
    v_is_test constant boolean := p_event.label in ('test', 'vital_sign', 'imaging', 'examination');
begin
    if p_observation.value_text is not null and (v_is_test or p_event.assertion <> 'negated') then
        return chartloom.fhir_value(p_event, p_observation);
    end if;
    if p_event.kind = 'context' then
        return jsonb_build_object('valueString', chartloom.fhir_text(p_event.text));
    end if;
    if v_is_test then
        return jsonb_build_object('dataAbsentReason', chartloom.fhir_concept(
            'http://terminology.hl7.org/CodeSystem/data-absent-reason',
            case p_event.assertion when 'negated' then 'not-performed' else 'unknown' end
        ));
    end if;
    if p_event.assertion = 'possible' then
        return '{"valueCodeableConcept": {"text": "possible"}}'::jsonb;
    end if;
    return jsonb_build_object('valueCodeableConcept', case p_event.assertion
        when 'negated' then chartloom.fhir_concept('http://terminology.hl7.org/CodeSystem/v2-0136', 'N', 'No')
        else chartloom.fhir_concept('http://terminology.hl7.org/CodeSystem/v2-0136', 'Y', 'Yes')
    end);
end
$$;

create function chartloom.fhir_observation(
    p_event public.patient_clinical_events, p_observation public.patient_observations
) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
    v_time constant text := coalesce(
        p_observation.observed_on, p_event.attributes #>> '{time,normalised}', p_event.attributes #>> '{time,text}'
    );
    v_outcome jsonb := chartloom.fhir_outcome(p_event, p_observation);
    v_side constant text := case
        when lower(p_observation.flag) in ('h', 'high') then 'H' when lower(p_observation.flag) in ('l', 'low') then 'L'
    end;
    -- A test may be anything; one with a number is a laboratory's.
    v_category constant text := case
        when p_event.kind = 'context' then 'social-history'
        when p_event.label = 'vital_sign' then 'vital-signs'
        when p_event.label = 'imaging' then 'imaging'
        when p_event.label = 'examination' then 'exam'
        when p_event.label = 'test' and p_observation.value_number is not null then 'laboratory'
    end;
begin
    -- Words of the context are its value; what they are about is their label.
    if p_event.kind = 'context' and p_event.assertion = 'negated' then
        v_outcome := jsonb_build_object('valueString', 'no ' || chartloom.fhir_text(p_event.text));
    end if;
    return jsonb_strip_nulls(jsonb_build_object(
        'resourceType', 'Observation',
        'id', p_event.id,
        'status', case
            when p_event.assertion = 'possible' then 'preliminary'
            when v_outcome #>> '{dataAbsentReason,coding,0,code}' = 'not-performed' then 'cancelled'
            else 'final'
        end,
        'category', case when v_category is not null then chartloom.fhir_list(
            chartloom.fhir_concept('http://terminology.hl7.org/CodeSystem/observation-category', v_category)
        ) end,
        'code', case p_event.kind
            when 'context' then chartloom.fhir_code(replace(p_event.label, '_', ' '), p_event.codes)
            else chartloom.fhir_code(p_event.text, p_event.codes)
        end,
        'subject', chartloom.fhir_reference(p_event.patient_id),
        'effectiveDateTime', chartloom.fhir_date(v_time),
        'interpretation', chartloom.fhir_list(chartloom.fhir_words(p_observation.flag) || case
            when v_side is null then '{}'
            else chartloom.fhir_concept('http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation', v_side)
        end),
        'bodySite', chartloom.fhir_words(p_event.attributes #>> '{site,text}'),
        'referenceRange', chartloom.fhir_list(chartloom.fhir_words(p_observation.reference_range)),
        'note', chartloom.fhir_note(p_event, v_time)
    ) || v_outcome);
end
$$;

-- Status unknown: that a letter lists a medicine does not say that it is still taken.
create function chartloom.fhir_medication_statement(
    p_event public.patient_clinical_events, p_intervention public.patient_interventions
) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
    -- As printed: "1 tablet bd" tells a person more than "1 {tbl} 2/d".
    v_dose constant text := chartloom.fhir_text(coalesce(p_event.attributes #>> '{dose,text}', p_intervention.dose));
    v_route constant text := chartloom.fhir_text(coalesce(p_event.attributes #>> '{route,text}', p_intervention.route));
    v_often constant text :=
        chartloom.fhir_text(coalesce(p_event.attributes #>> '{frequency,text}', p_intervention.frequency));
begin
    return jsonb_strip_nulls(jsonb_build_object(
        'resourceType', 'MedicationStatement',
        'id', p_event.id,
        'status', case p_event.assertion when 'negated' then 'not-taken' else 'unknown' end,
        'medicationCodeableConcept', chartloom.fhir_code(p_event.text, p_event.codes),
        'subject', chartloom.fhir_reference(p_event.patient_id),
        'effectiveDateTime', chartloom.fhir_date(p_intervention.performed_on),
        'dosage', case when num_nonnulls(v_dose, v_route, v_often) > 0 then
            jsonb_build_array(jsonb_build_object(
                'text', concat_ws(' ', v_dose, v_route, v_often),
                'route', chartloom.fhir_words(p_intervention.route),
                'timing', case when v_often is not null then
                    jsonb_build_object('code', chartloom.fhir_words(v_often))
                end
            ))
        end,
        'note', chartloom.fhir_note(p_event, p_intervention.performed_on)
    ));
end
$$;

create function chartloom.fhir_procedure(
    p_event public.patient_clinical_events, p_intervention public.patient_interventions
) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
    v_date constant text := chartloom.fhir_date(p_intervention.performed_on);
begin
    return jsonb_strip_nulls(jsonb_build_object(
        'resourceType', 'Procedure',
        'id', p_event.id,
        'status', case p_event.assertion when 'negated' then 'not-done' when 'possible' then 'unknown' else 'completed' end,
        'code', chartloom.fhir_code(p_event.text, p_event.codes),
        'subject', chartloom.fhir_reference(p_event.patient_id),
        'performedDateTime', v_date,
        'performedString', case when v_date is null then chartloom.fhir_text(p_intervention.performed_on) end,
        'bodySite', chartloom.fhir_list(chartloom.fhir_words(p_event.attributes #>> '{site,text}')),
        'note', chartloom.fhir_note(p_event)
    ));
end
$$;

-- "No known allergies" is a refuted one, in its own words. R4 wants a clinicalStatus with every one (ait-1).
create function chartloom.fhir_allergy(p_event public.patient_clinical_events) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
    return jsonb_strip_nulls(jsonb_build_object(
        'resourceType', 'AllergyIntolerance',
        'id', p_event.id,
        'clinicalStatus', chartloom.fhir_concept(
            'http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical',
            case p_event.assertion when 'negated' then 'inactive' else 'active' end
        ),
        'verificationStatus', chartloom.fhir_concept(
            'http://terminology.hl7.org/CodeSystem/allergyintolerance-verification',
            case p_event.assertion when 'negated' then 'refuted' when 'possible' then 'unconfirmed' else 'confirmed' end
        ),
        'code', chartloom.fhir_code(p_event.text, p_event.codes),
        'patient', chartloom.fhir_reference(p_event.patient_id),
        'note', chartloom.fhir_note(p_event)
    ));
end
$$;

create function chartloom.fhir_family_history(p_event public.patient_clinical_events) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
    return jsonb_build_object(
        'resourceType', 'FamilyMemberHistory',
        'id', p_event.id,
        'status', 'partial',
        'patient', chartloom.fhir_reference(p_event.patient_id),
        'relationship', chartloom.fhir_concept(
            'http://terminology.hl7.org/CodeSystem/v3-RoleCode', 'FAMMEMB', 'family member'
        ),
        'condition', jsonb_build_array(jsonb_build_object('code', chartloom.fhir_code(p_event.text, p_event.codes)))
    );
end
$$;

-- The resource that a finding is, or null where R4 has none that says no more than the record does: what is hypothetical,
-- what is about somebody else, what a relative does not have or may have.
create function chartloom.fhir_finding(
    p_event public.patient_clinical_events,
    p_observation public.patient_observations,
    p_intervention public.patient_interventions
) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
    if p_event.assertion = 'hypothetical' or p_event.subject = 'other' then
        return null;
    end if;
    if p_event.subject = 'family' or p_event.label = 'family_history' then
        if p_event.assertion in ('affirmed', 'historical')
            and p_event.label in ('disease', 'symptom', 'outcome', 'history', 'family_history') then
            return chartloom.fhir_family_history(p_event);
        end if;
        return null;
    end if;
    if p_event.label = 'allergy' then
        return chartloom.fhir_allergy(p_event);
    end if;
    if p_event.kind = 'intervention' then
        return case p_event.label
            when 'medication' then chartloom.fhir_medication_statement(p_event, p_intervention)
            else chartloom.fhir_procedure(p_event, p_intervention)
        end;
    end if;
    if p_event.kind = 'event' and p_event.label = 'disease' then
        return chartloom.fhir_condition(p_event);
    end if;
    return chartloom.fhir_observation(p_event, p_observation);
end
$$;

-- The whole in text.div, and a section a sentence with the facts that bear it.
create function chartloom.fhir_composition(p_narrative public.clinical_narratives, p_fact_ids uuid[]) returns jsonb
language plpgsql stable
set search_path = ''
as $$
begin
    return jsonb_strip_nulls(jsonb_build_object(
        'resourceType', 'Composition',
        'id', p_narrative.run_id,
        'status', 'final',
        'type', jsonb_build_object('text', 'Summary of one document'),
        'subject', chartloom.fhir_reference(p_narrative.patient_id),
        'date', chartloom.fhir_instant(p_narrative.created_at),
        'author', jsonb_build_array(
            chartloom.fhir_agent(p_narrative.provider, p_narrative.model, p_narrative.prompt_version)
        ),
        'title', 'Summary of one document',
        'text', jsonb_build_object(
            'status', 'generated', 'div', chartloom.fhir_div(string_to_array(p_narrative.narrative, E'\n'))
        ),
        'section', (
            select jsonb_agg(jsonb_build_object(
                'text', jsonb_build_object(
                    'status', 'generated', 'div', chartloom.fhir_div(array[s.sentence ->> 'text'])
                ),
                'entry', (
                    select jsonb_agg(chartloom.fhir_reference(cited.id::uuid))
                    from jsonb_array_elements_text(s.sentence -> 'event_ids') as cited (id)
                    where cited.id::uuid = any(p_fact_ids)
                )
            ) order by s.place)
            from jsonb_array_elements(p_narrative.sentences) with ordinality as s (sentence, place)
        )
    ));
end
$$;

-- ── the Bundle ───────────────────────────────────────────────────────────────────────────────────────────────────────

create function chartloom.assemble_fhir_bundle(p_patient_id uuid) returns jsonb
language plpgsql stable
set search_path = ''
as $$
declare
    v_entries jsonb;
    v_facts jsonb;
    v_fact_ids uuid[];
    v_narratives jsonb;
begin
    select jsonb_agg(chartloom.fhir_entry(r.resource) order by r.place, r.created_at, r.id) into v_entries
    from (
        select 1 as place, created_at, id, chartloom.fhir_patient(p) as resource
        from public.user_profiles as p where id = p_patient_id
        union all
        select 2, created_at, id, chartloom.fhir_document(f) from public.shell_files as f where patient_id = p_patient_id
    ) as r;

    select array_agg(f.id), jsonb_agg(chartloom.fhir_entry(f.resource) order by f.place)
        || jsonb_agg(chartloom.fhir_entry(f.provenance) order by f.place)
    into v_fact_ids, v_facts
    from (
        select e.id, chartloom.fhir_finding(e, o, i) as resource, chartloom.fhir_finding_provenance(e) as provenance,
            row_number() over (order by e.shell_file_id, e.page, e.char_start, e.id) as place
        from public.patient_clinical_events as e
        left join public.patient_observations as o on o.event_id = e.id
        left join public.patient_interventions as i on i.event_id = e.id
        where e.patient_id = p_patient_id and e.superseded_at is null
    ) as f
    where f.resource is not null;

    select jsonb_agg(chartloom.fhir_entry(chartloom.fhir_composition(n, v_fact_ids)) order by n.run_id)
        || jsonb_agg(chartloom.fhir_entry(chartloom.fhir_provenance(
            n.run_id, n.shell_file_id, n.created_at,
            chartloom.fhir_agent(n.provider, n.model, n.prompt_version), '{}', '{}'
        )) order by n.run_id)
    into v_narratives
    from public.clinical_narratives as n
    where n.patient_id = p_patient_id and n.superseded_at is null;

    return jsonb_build_object(
        'resourceType', 'Bundle',
        'type', 'collection',
        'timestamp', chartloom.fhir_instant(chartloom.clock()),
        'entry', v_entries || coalesce(v_facts, '[]') || coalesce(v_narratives, '[]')
    );
end
$$;

-- Whoever runs the database or holds its service key, besides those whose access is a matter of the rows.
create function chartloom.acts_as_operator() returns boolean
language plpgsql stable
set search_path = ''
as $$
declare
    v_caller constant text := chartloom.caller_role();
begin
    return v_caller = 'service_role'
        or pg_has_role(v_caller, 'chartloom_operator', 'member')
        or v_caller = (select pg_get_userbyid(nspowner) from pg_catalog.pg_namespace where nspname = 'chartloom');
end
$$;

create function chartloom.fhir_bundle(p_patient_id uuid) returns jsonb
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_exists constant boolean := exists (select from public.user_profiles where id = p_patient_id);
begin
    -- The same answer for "not there" and "not yours": an id must not be a way to ask what exists.
    if not v_exists or not (chartloom.has_profile_access(p_patient_id, 'read') or chartloom.acts_as_operator()) then
        if v_exists then
            perform chartloom.log_access('denied', 'fhir_bundle', p_patient_id, '{}');
        end if;
        return chartloom.refusal('CL007', 'patient_id: no such patient');
    end if;
    perform chartloom.log_access('read', 'fhir_bundle', p_patient_id, '{}');
    return chartloom.assemble_fhir_bundle(p_patient_id);
end
$$;

create function public.fhir_bundle(p_patient_id uuid) returns jsonb
language sql volatile security invoker
set search_path = ''
as $$ select chartloom.answer(chartloom.fhir_bundle(p_patient_id), '404') $$;
comment on function public.fhir_bundle is 'The current record of a patient as a FHIR R4 Bundle (docs/fhir.md). Each call is audited: POST, not GET.';

revoke execute on function public.fhir_bundle(uuid) from public, anon, authenticated, service_role;
grant execute on function public.fhir_bundle(uuid), chartloom.fhir_bundle(uuid)
to authenticated, service_role, chartloom_operator;
grant execute on function chartloom.answer(jsonb, text) to service_role, chartloom_operator;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
