-- What an app reads: each finding a row of the hub, observations and interventions as spokes, the narrative, the timeline.

create table public.patient_clinical_events (
    id uuid primary key,
    patient_id uuid not null references public.user_profiles (id),
    shell_file_id uuid not null references public.shell_files (id) on delete cascade,
    run_id uuid not null,
    entity_id text not null,
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
    unique (run_id, entity_id),
    constraint quote_fills_its_span check (char_end > char_start and length(quote) = char_end - char_start)
);
create index patient_clinical_events_patient on public.patient_clinical_events (patient_id) where superseded_at is null;
create index patient_clinical_events_file on public.patient_clinical_events (shell_file_id);
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
    provider text not null,
    model text not null,
    prompt_version text not null,
    created_at timestamptz not null default now(),
    superseded_at timestamptz,
    superseded_by_run_id uuid
);
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
    event_ids uuid[] not null,
    created_at timestamptz not null default now(),
    superseded_at timestamptz,
    superseded_by_run_id uuid,
    unique (run_id, position)
);
create index healthcare_timeline_events_patient on public.healthcare_timeline_events (patient_id, event_date)
where superseded_at is null;
create index healthcare_timeline_events_file on public.healthcare_timeline_events (shell_file_id);
comment on column public.healthcare_timeline_events.event_date is 'ISO 8601 to the precision that is known: 2024, 2024-03 or 2024-03-09.';

-- Writes a run's rows at once and supersedes those of earlier runs. p_rows holds one array a table, in its columns' names.
create function chartloom.persist_findings(p_job_id bigint, p_lease_token uuid, p_rows jsonb) returns integer
language plpgsql volatile security definer
set search_path = ''
as $$
declare
    v_job constant chartloom.job_queue := chartloom.hold_lease(p_job_id, p_lease_token);
    v_now constant timestamptz := chartloom.clock();
    v_run_id constant uuid := v_job.payload ->> 'run_id';
    v_count integer;
    v_total integer := 0;
begin
    -- One run of a document writes at a time, and only the one that is current.
    perform from public.shell_files where id = v_job.shell_file_id and current_run_id = v_run_id for no key update;
    if not found then
        raise exception 'run % of the document is not its current one', v_run_id using errcode = 'CL002';
    end if;
    update public.patient_clinical_events set superseded_at = v_now, superseded_by_run_id = v_run_id
    where shell_file_id = v_job.shell_file_id and run_id <> v_run_id and superseded_at is null;
    update public.clinical_narratives set superseded_at = v_now, superseded_by_run_id = v_run_id
    where shell_file_id = v_job.shell_file_id and run_id <> v_run_id and superseded_at is null;
    update public.healthcare_timeline_events set superseded_at = v_now, superseded_by_run_id = v_run_id
    where shell_file_id = v_job.shell_file_id and run_id <> v_run_id and superseded_at is null;

    insert into public.patient_clinical_events (
        id, patient_id, shell_file_id, run_id, entity_id, kind, label, text, assertion, subject, attributes, codes,
        page, char_start, char_end, quote, boxes, alignment, provider, model, prompt_version, schema_version
    )
    select r.id, v_job.patient_id, v_job.shell_file_id, v_run_id, r.entity_id, r.kind, r.label, r.text, r.assertion,
        r.subject, r.attributes, r.codes, r.page, r.char_start, r.char_end, r.quote, r.boxes, r.alignment,
        r.provider, r.model, r.prompt_version, r.schema_version
    from jsonb_to_recordset(p_rows -> 'patient_clinical_events') as r (
        id uuid, entity_id text, kind text, label text, text text, assertion text, subject text, attributes jsonb,
        codes jsonb, page integer, char_start integer, char_end integer, quote text, boxes jsonb, alignment text,
        provider text, model text, prompt_version text, schema_version text
    );
    get diagnostics v_count = row_count;
    v_total := v_total + v_count;

    insert into public.patient_observations (
        event_id, patient_id, value_text, value_number, unit, reference_range, flag, observed_on
    )
    select r.event_id, v_job.patient_id, r.value_text, r.value_number, r.unit, r.reference_range, r.flag, r.observed_on
    from jsonb_to_recordset(p_rows -> 'patient_observations') as r (
        event_id uuid, value_text text, value_number double precision, unit text, reference_range text, flag text,
        observed_on text
    );
    get diagnostics v_count = row_count;
    v_total := v_total + v_count;

    insert into public.patient_interventions (event_id, patient_id, dose, route, frequency, performed_on)
    select r.event_id, v_job.patient_id, r.dose, r.route, r.frequency, r.performed_on
    from jsonb_to_recordset(p_rows -> 'patient_interventions') as r (
        event_id uuid, dose text, route text, frequency text, performed_on text
    );
    get diagnostics v_count = row_count;
    v_total := v_total + v_count;

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
        id, patient_id, shell_file_id, run_id, position, event_date, title, event_ids
    )
    select r.id, v_job.patient_id, v_job.shell_file_id, v_run_id, r.position, r.event_date, r.title,
        (select coalesce(array_agg(value::uuid), '{}') from jsonb_array_elements_text(r.event_ids) as value)
    from jsonb_to_recordset(p_rows -> 'healthcare_timeline_events') as r (
        id uuid, position integer, event_date text, title text, event_ids jsonb
    );
    get diagnostics v_count = row_count;
    v_total := v_total + v_count;
    return v_total;
end
$$;

select chartloom.audit_table('public.patient_clinical_events', 'patient_id', 'id::text');
select chartloom.audit_table('public.patient_observations', 'patient_id', 'event_id::text');
select chartloom.audit_table('public.patient_interventions', 'patient_id', 'event_id::text');
select chartloom.audit_table('public.clinical_narratives', 'patient_id', 'run_id::text');
select chartloom.audit_table('public.healthcare_timeline_events', 'patient_id', 'id::text');

alter table public.patient_clinical_events enable row level security;
alter table public.patient_observations enable row level security;
alter table public.patient_interventions enable row level security;
alter table public.clinical_narratives enable row level security;
alter table public.healthcare_timeline_events enable row level security;

create policy read_accessible on public.patient_clinical_events for select to authenticated
using (patient_id in (select chartloom.accessible_profiles('read')));
create policy read_accessible on public.patient_observations for select to authenticated
using (patient_id in (select chartloom.accessible_profiles('read')));
create policy read_accessible on public.patient_interventions for select to authenticated
using (patient_id in (select chartloom.accessible_profiles('read')));
create policy read_accessible on public.clinical_narratives for select to authenticated
using (patient_id in (select chartloom.accessible_profiles('read')));
create policy read_accessible on public.healthcare_timeline_events for select to authenticated
using (patient_id in (select chartloom.accessible_profiles('read')));

revoke all on public.patient_clinical_events, public.patient_observations, public.patient_interventions,
public.clinical_narratives, public.healthcare_timeline_events from anon, authenticated, service_role;
grant select on public.patient_clinical_events, public.patient_observations, public.patient_interventions,
public.clinical_narratives, public.healthcare_timeline_events to authenticated, service_role;

grant execute on function chartloom.persist_findings(bigint, uuid, jsonb) to chartloom_persister;

-- Postgres lets everybody execute a new function; these are only for whom they are granted to.
revoke execute on all functions in schema chartloom from public;
