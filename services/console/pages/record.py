"""The record: the timeline over all documents, and results over time."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from aiohttp import web

from services.console.plots import plots_of
from services.console.wording import partial_date

from .base import id_of, read_patient, rights_of, show

_TIMELINE = """
select t.event_date, t.title, t.event_ids, cardinality(t.shell_file_ids) as documents,
    e.id, e.kind, e.assertion, e.subject, e.page, e.shell_file_id, e.review, f.file_name,
    e.uncertain or jsonb_path_exists(e.attributes, '$.*.uncertain ? (@ == true)') as uncertain
from public.patient_timeline as t
cross join lateral (
    select e.* from public.patient_clinical_events as e where e.id = any(t.event_ids)
    order by array_position(t.event_ids, e.id) limit 1
) as e
join public.shell_files as f on f.id = e.shell_file_id
where t.patient_id = $1
order by t.sort_key desc nulls last, t.event_date desc, t.position
"""
_RESULTS = """
select e.id, e.text, e.page, e.shell_file_id, o.value_text, o.value_number, o.unit, o.reference_range, o.flag,
    o.observed_on, f.file_name, (e.uncertain or o.is_uncertain) and e.review is null as uncertain
from public.patient_observations as o
join public.patient_clinical_events as e on e.id = o.event_id
join public.shell_files as f on f.id = e.shell_file_id
where e.patient_id = $1 and e.superseded_at is null and o.value_number is not null
    and e.subject = 'patient' and e.assertion <> 'hypothetical'
order by f.created_at, e.page, e.char_start
"""
_NARRATIVES = """
select n.narrative, n.shell_file_id, f.file_name, f.created_at
from public.clinical_narratives as n join public.shell_files as f on f.id = n.shell_file_id
where n.patient_id = $1 and n.superseded_at is null and n.narrative <> ''
order by f.created_at desc limit 20
"""


async def timeline(request: web.Request) -> web.StreamResponse:
    patient_id = id_of(request, "patient")
    async with rights_of(request) as connection:
        patient = await read_patient(connection, patient_id)
        entries = await connection.fetch(_TIMELINE, patient_id)
        narratives = await connection.fetch(_NARRATIVES, patient_id)
    return show(
        request,
        "timeline.html",
        patient=patient,
        tab="timeline",
        years=_by_year(entries),
        kinds=sorted({entry["kind"] for entry in entries}),
        count=len(entries),
        narratives=narratives,
    )


def _by_year(entries: Sequence[Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    described = [
        {**entry, "when": partial_date(entry["event_date"]), "year": (entry["event_date"] or "")[:4]}
        for entry in entries
    ]
    return [(year or "No date", list(group)) for year, group in groupby(described, key=lambda entry: entry["year"])]


async def results(request: web.Request) -> web.StreamResponse:
    patient_id = id_of(request, "patient")
    async with rights_of(request) as connection:
        patient = await read_patient(connection, patient_id)
        rows = await connection.fetch(_RESULTS, patient_id)
    return show(request, "results.html", patient=patient, tab="results", plots=plots_of(dict(row) for row in rows))


def add_routes(app: web.Application) -> None:
    app.router.add_get("/records/{patient}", timeline)
    app.router.add_get("/records/{patient}/results", results)
