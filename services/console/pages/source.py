"""Where it says so: a page with the facts on it, and how the document was read."""

import json
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import asyncpg
from aiohttp import web

from services.console.facts import confidence, facts_of_page, is_unsure, is_unsure_fact, read_page
from services.console.page_image import page_image
from services.console.reviews import identity_review
from services.console.waterfall import waterfall

from .base import FILES, SETTINGS, TOKEN, go_to, id_of, not_found, number_of, read_patient, rights_of, show

MOST_PAGES = 100_000

_DOCUMENT = """
select f.id, f.patient_id, f.file_name, f.mime_type, f.size_bytes, f.status, f.processing_error, f.created_at,
    f.uploaded_at, f.completed_at, split_part(f.traceparent, '-', 2) as trace_id, now() as now,
    (select coalesce(max(p.page), 0) from public.ocr_pages as p where p.shell_file_id = f.id) as pages,
    (
        select array_agg(distinct e.page order by e.page) from public.patient_clinical_events as e
        where e.shell_file_id = f.id and e.superseded_by_run_id is null
    ) as pages_with_facts
from public.shell_files as f where f.id = $1
"""
_VERDICT = """
select v.decision, v.reason, v.file_kind, v.is_encrypted, v.findings, v.antivirus, v.antivirus_signature, v.scanned_at
from public.scan_verdicts as v join public.shell_files as f on f.current_run_id = v.run_id
where f.id = $1
"""


async def first_page(request: web.Request) -> web.StreamResponse:
    document_id = id_of(request, "document")
    async with rights_of(request) as connection:
        document = await _read(connection, document_id)
    return go_to(f"/documents/{document_id}/{'pages/1' if document['pages'] else 'way'}")


async def page(request: web.Request) -> web.StreamResponse:
    document_id, number = id_of(request, "document"), number_of(request, "page", most=MOST_PAGES)
    async with rights_of(request) as connection:
        document = await _read(connection, document_id)
        patient = await read_patient(connection, document["patient_id"])
        found = await read_page(connection, document_id, number)
        if found is None:
            raise not_found()
        facts = await facts_of_page(connection, document_id, number)
        identity = await identity_review(connection, document_id)
    for fact in facts:
        fact["confidence"] = confidence(found, fact["char_start"], fact["char_end"])
        fact["is_unsure"] = is_unsure_fact(fact, found)
    with_facts = document["pages_with_facts"] or []
    return show(
        request,
        "source.html",
        patient=patient,
        tab="documents",
        document=document,
        page=found,
        facts=facts,
        identity=identity,
        unsure=[word for word in found["words"] if is_unsure(word)],
        words=_words(found),
        next_page=next((other for other in with_facts if other > number), None),
        previous_page=next((other for other in reversed(with_facts) if other < number), None),
    )


async def image(request: web.Request) -> web.StreamResponse:
    document_id, number = id_of(request, "document"), number_of(request, "page", most=MOST_PAGES)
    async with rights_of(request) as connection:
        found = await read_page(connection, document_id, number)
    if found is None:
        raise not_found()
    media_type, chunks = await page_image(partial(request.app[FILES].stream, request[TOKEN]), found)
    response = web.StreamResponse(headers={"Content-Type": media_type})
    await response.prepare(request)
    async for chunk in chunks:
        await response.write(chunk)
    return response


async def way(request: web.Request) -> web.StreamResponse:
    """Every job of the document, with its waits and attempts: the waterfall."""
    document_id = id_of(request, "document")
    async with rights_of(request) as connection:
        document = await _read(connection, document_id)
        patient = await read_patient(connection, document["patient_id"])
        verdict = await connection.fetchrow(_VERDICT, document_id)
        jobs = [
            {**row, "errors": [_with_times(error) for error in row["errors"]]}
            for row in await connection.fetch("select * from chartloom.document_jobs($1)", document_id)
        ]
    trace_url = request.app[SETTINGS].console_trace_url
    return show(
        request,
        "way.html",
        patient=patient,
        tab="documents",
        document=document,
        verdict=verdict,
        waterfall=waterfall(jobs, document["uploaded_at"], document["now"]),
        trace_url=trace_url.replace("{trace_id}", document["trace_id"]) if trace_url else None,
    )


async def _read(connection: asyncpg.pool.PoolConnectionProxy, document_id: UUID) -> dict[str, Any]:
    row = await connection.fetchrow(_DOCUMENT, document_id)
    if row is None:
        raise not_found()
    return dict(row)


def _with_times(error: dict[str, Any]) -> dict[str, Any]:
    return {
        **error,
        "started_at": datetime.fromisoformat(error["started_at"]) if error["started_at"] else None,
        "occurred_at": datetime.fromisoformat(error["occurred_at"]),
    }


def _words(found: dict[str, Any]) -> str:
    """For the pointer: [x0, y0, x1, y1, confidence, text] each."""
    words = [
        [*(round(edge, 1) for edge in word["box"]), round(word["confidence"], 2), word["text"]]
        for word in found["words"]
    ]
    # Inside a script element nothing but its end tag is markup, and no end tag is without this.
    return json.dumps(words, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def add_routes(app: web.Application) -> None:
    app.router.add_get("/documents/{document}", first_page)
    app.router.add_get("/documents/{document}/pages/{page}", page)
    app.router.add_get("/documents/{document}/pages/{page}/image", image)
    app.router.add_get("/documents/{document}/way", way)
