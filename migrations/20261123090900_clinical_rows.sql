-- What an app reads: each finding a row of the hub, observations and interventions as spokes, the narrative, the timeline.

create table public.patient_clinical_events (
    id uuid primary key,
    patient_id uuid not null references public.user_profiles (id),
    shell_file_id uuid not null references public.shell_files (id) on delete cascade,
    run_id uuid not null,
    entity_id text not null,
    finding_key uuid not null,
    kind text not null check (kind in ('event', 'observation', 'intervention', 'context')),
    label text not null,
    text text not null,
    assertion text not null check (assertion in ('affirmed', 'negated', 'possible', 'historical', 'hypothetical')),
    subject text not null check (subject in ('patient', 'family', 'other')),
    attributes jsonb not null,
    codes jsonb not null,
    page integer not null,
    char_start integer not null,
    char_end integer not null,
    quote text not null,
    boxes jsonb not null,
    alignment text not null,
    provider text not null,
    model text not null,
    prompt_version text not null,
    schema_version text not null,
    created_at timestamptz not null default now(),
    superseded_at timestamptz,
    superseded_by_run_id uuid,
    review text check (review in ('accepted', 'corrected', 'dismissed')),
    as_found jsonb,
    unique (run_id, entity_id),
    constraint quote_fills_its_span check (char_end > char_start and length(quote) = char_end - char_start),
    constraint dismissed_is_no_fact check (review is distinct from 'dismissed' or superseded_at is not null),
    constraint corrected_keeps_what_was_found check (review is distinct from 'corrected' or as_found is not null)
);
create index patient_clinical_events_patient on public.patient_clinical_events (patient_id) where superseded_at is null;
create index patient_clinical_events_file on public.patient_clinical_events (shell_file_id);
-- A fact is current once; and where a reviewer looks for what they decided on.
create unique index patient_clinical_events_finding on public.patient_clinical_events (finding_key)
where superseded_by_run_id is null;
comment on column public.patient_clinical_events.finding_key is 'The same in every run over the document: made from the page, the words, which of their places it is, and the kind.';
comment on column public.patient_clinical_events.superseded_at is 'Null: it counts. Set: a later run''s findings took its place, or a reviewer dismissed it.';
comment on column public.patient_clinical_events.review is 'What a person decided (public.finding_reviews); null where nobody looked.';
comment on column public.patient_clinical_events.as_found is 'Of a corrected finding: what the model had said.';
comment on table public.patient_clinical_events is 'The hub: every finding, with the page, the words and the boxes that bear it out, and who found it.';

create table public.patient_observations (
    event_id uuid primary key references public.patient_clinical_events (id) on delete cascade,
    patient_id uuid not null references public.user_profiles (id),
    value_text text,
    value_number double precision,
    unit text,
    reference_range text,
    flag text,
    observed_on text
);
create index patient_observations_patient on public.patient_observations (patient_id);

create table public.patient_interventions (
    event_id uuid primary key references public.patient_clinical_events (id) on delete cascade,
    patient_id uuid not null references public.user_profiles (id),
    dose text,
    route text,
    frequency text,
    performed_on text
);
create index patient_interventions_patient on public.patient_interventions (patient_id);

create table public.clinical_narratives (
    run_id uuid primary key,
    patient_id uuid not null references public.user_profiles (id),
    shell_file_id uuid not null references public.shell_files (id) on delete cascade,
    narrative text not null,
    sentences jsonb not null,
    as_told jsonb,
    provider text not null,
    model text not null,
    prompt_version text not null,
    created_at timestamptz not null default now(),
    superseded_at timestamptz,
    superseded_by_run_id uuid
);
comment on column public.clinical_narratives.as_told is 'The model''s sentences, where some no longer stand since a reviewer dismissed or corrected what they cite.';
create index clinical_narratives_patient on public.clinical_narratives (patient_id);
create index clinical_narratives_file on public.clinical_narratives (shell_file_id);

create table public.healthcare_timeline_events (
    id uuid primary key,
    patient_id uuid not null references public.user_profiles (id),
    shell_file_id uuid not null references public.shell_files (id) on delete cascade,
    run_id uuid not null,
    position integer not null,
    event_date text check (event_date ~ '^\d{4}(-\d\d(-\d\d)?)?$'),
    title text not null,
    fact_key text,
    event_ids uuid[] not null,
    as_told jsonb,
    created_at timestamptz not null default now(),
    superseded_at timestamptz,
    superseded_by_run_id uuid,
    unique (run_id, position)
);
create index healthcare_timeline_events_patient on public.healthcare_timeline_events (patient_id, event_date)
where superseded_at is null;
create index healthcare_timeline_events_file on public.healthcare_timeline_events (shell_file_id);
comment on column public.healthcare_timeline_events.fact_key is 'Equal for what is the same fact in another document of the patient; null where it stands for itself.';
comment on column public.healthcare_timeline_events.as_told is 'Its title, date and fact_key of before a person reviewed one of its findings.';
comment on column public.healthcare_timeline_events.event_date is 'ISO 8601 to the precision that is known: 2024, 2024-03 or 2024-03-09.';

-- What the reviewers' table and the next run have in common with each other and with nobody else is a finding's key.
create table public.finding_reviews (
    finding_key uuid primary key,
    patient_id uuid not null references public.user_profiles (id),
    shell_file_id uuid not null references public.shell_files (id) on delete cascade,
    run_id uuid not null,
    reason text not null check (
        reason in ('quote_not_found', 'kind_unknown', 'attribute_not_found', 'words_differ', 'reader')
    ),
    claim jsonb,
    status text not null default 'waiting'
    check (status in ('waiting', 'accepted', 'corrected', 'dismissed', 'withdrawn')),
    correction jsonb,
    decided_by uuid,
    decided_at timestamptz,
    created_at timestamptz not null default now(),
    constraint decided_by_somebody check ((status in ('accepted', 'corrected', 'dismissed')) = (decided_at is not null)),
    constraint correction_says_what check ((status = 'corrected') = (correction is not null))
);
create index finding_reviews_patient on public.finding_reviews (patient_id, status);
create index finding_reviews_file on public.finding_reviews (shell_file_id);
comment on table public.finding_reviews is 'What waits for a person, and what a person decided: it outlives runs. A claim that is not on the page is no finding, so it has no row in the hub.';
comment on column public.finding_reviews.reason is 'Why it waits: the words are not on the page, or not quite (words_differ), or a reader brought it up.';
comment on column public.finding_reviews.claim is 'Of what is not on the page: what the model claimed.';
comment on column public.finding_reviews.status is 'withdrawn: it waited, and the latest run no longer says so.';

-- The spokes of hub rows, from the hub's own attributes: one place decides what an observation's value is.
create function chartloom.write_spokes(p_event_ids uuid[]) returns void
language sql volatile
set search_path = ''
as $$
    insert into public.patient_observations (
        event_id, patient_id, value_text, value_number, unit, reference_range, flag, observed_on
    )
    select e.id, e.patient_id, e.attributes #>> '{value,text}',
        case when jsonb_typeof(e.attributes #> '{value,normalised}') = 'number'
            then (e.attributes #>> '{value,normalised}')::double precision end,
        coalesce(e.attributes #>> '{unit,normalised}', e.attributes #>> '{unit,text}'),
        coalesce(e.attributes #>> '{range,normalised}', e.attributes #>> '{range,text}'),
        coalesce(e.attributes #>> '{flag,normalised}', e.attributes #>> '{flag,text}'),
        coalesce(e.attributes #>> '{time,normalised}', e.attributes #>> '{time,text}')
    from public.patient_clinical_events as e
    where e.id = any(p_event_ids) and e.kind = 'observation';
    insert into public.patient_interventions (event_id, patient_id, dose, route, frequency, performed_on)
    select e.id, e.patient_id,
        coalesce(e.attributes #>> '{dose,normalised}', e.attributes #>> '{dose,text}'),
        coalesce(e.attributes #>> '{route,normalised}', e.attributes #>> '{route,text}'),
        coalesce(e.attributes #>> '{frequency,normalised}', e.attributes #>> '{frequency,text}'),
        coalesce(e.attributes #>> '{time,normalised}', e.attributes #>> '{time,text}')
    from public.patient_clinical_events as e
    where e.id = any(p_event_ids) and e.kind = 'intervention';
$$;

-- Writes a run's rows at once and supersedes those of earlier runs; what reviewers decided holds for the new rows, too.
-- p_rows holds one array a table, in its columns' names. Returns how many rows it brought.
create function chartloom.persist_findings(p_job_id bigint, p_lease_token uuid, p_rows jsonb) returns integer
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
            schema_version
        )
        select r.id, v_job.patient_id, v_job.shell_file_id, v_run_id, r.entity_id, r.finding_key, r.kind, r.label,
            r.text, r.assertion, r.subject, r.attributes, r.codes, r.page, r.char_start, r.char_end, r.quote, r.boxes,
            r.alignment, r.provider, r.model, r.prompt_version, r.schema_version
        from jsonb_to_recordset(p_rows -> 'patient_clinical_events') as r (
            id uuid, entity_id text, finding_key uuid, kind text, label text, text text, assertion text, subject text,
            attributes jsonb, codes jsonb, page integer, char_start integer, char_end integer, quote text, boxes jsonb,
            alignment text, provider text, model text, prompt_version text, schema_version text
        )
        returning id, kind
    )
    select coalesce(array_agg(id), '{}'), count(*) + count(*) filter (where kind in ('observation', 'intervention'))
    into v_event_ids, v_total from inserted;
    perform chartloom.write_spokes(v_event_ids);

    insert into public.clinical_narratives (
        run_id, patient_id, shell_file_id, narrative, sentences, provider, model, prompt_version
    )
    select v_run_id, v_job.patient_id, v_job.shell_file_id, r.narrative, r.sentences, r.provider, r.model,
        r.prompt_version
    from jsonb_to_recordset(p_rows -> 'clinical_narratives') as r (
        narrative text, sentences jsonb, provider text, model text, prompt_version text
    );
    get diagnostics v_count = row_count;
    v_total := v_total + v_count;

    insert into public.healthcare_timeline_events (
        id, patient_id, shell_file_id, run_id, position, event_date, title, fact_key, event_ids
    )
    select r.id, v_job.patient_id, v_job.shell_file_id, v_run_id, r.position, r.event_date, r.title, r.fact_key,
        (select coalesce(array_agg(value::uuid), '{}') from jsonb_array_elements_text(r.event_ids) as value)
    from jsonb_to_recordset(p_rows -> 'healthcare_timeline_events') as r (
        id uuid, position integer, event_date text, title text, fact_key text, event_ids jsonb
    );
    get diagnostics v_count = row_count;
    v_total := v_total + v_count;

    perform chartloom.take_up_reviews(v_job.patient_id, v_job.shell_file_id, v_run_id, p_rows -> 'finding_reviews');
    return v_total;
end
$$;

select chartloom.audit_table('public.patient_clinical_events', 'patient_id', 'id::text');
select chartloom.audit_table('public.patient_observations', 'patient_id', 'event_id::text');
select chartloom.audit_table('public.patient_interventions', 'patient_id', 'event_id::text');
select chartloom.audit_table('public.clinical_narratives', 'patient_id', 'run_id::text');
select chartloom.audit_table('public.healthcare_timeline_events', 'patient_id', 'id::text');
select chartloom.audit_table('public.finding_reviews', 'patient_id', 'finding_key::text');

alter table public.patient_clinical_events enable row level security;
alter table public.patient_observations enable row level security;
alter table public.patient_interventions enable row level security;
alter table public.clinical_narratives enable row level security;
alter table public.healthcare_timeline_events enable row level security;
alter table public.finding_reviews enable row level security;

create policy read_accessible on public.patient_clinical_events for select to authenticated
using (patient_id = any (array(select chartloom.accessible_profiles('read'))));
create policy read_accessible on public.patient_observations for select to authenticated
using (patient_id = any (array(select chartloom.accessible_profiles('read'))));
create policy read_accessible on public.patient_interventions for select to authenticated
using (patient_id = any (array(select chartloom.accessible_profiles('read'))));
create policy read_accessible on public.clinical_narratives for select to authenticated
using (patient_id = any (array(select chartloom.accessible_profiles('read'))));
create policy read_accessible on public.healthcare_timeline_events for select to authenticated
using (patient_id = any (array(select chartloom.accessible_profiles('read'))));
create policy read_accessible on public.finding_reviews for select to authenticated
using (patient_id = any (array(select chartloom.accessible_profiles('read'))));

revoke all on public.patient_clinical_events, public.patient_observations, public.patient_interventions,
public.clinical_narratives, public.healthcare_timeline_events, public.finding_reviews from anon, authenticated, service_role;
grant select on public.patient_clinical_events, public.patient_observations, public.patient_interventions,
public.clinical_narratives, public.healthcare_timeline_events, public.finding_reviews to authenticated, service_role;

grant execute on function chartloom.persist_findings(bigint, uuid, jsonb) to chartloom_persister;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
