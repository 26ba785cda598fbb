"""A patient's documents, and watching them on their way."""

import asyncio
import contextlib
import time
from uuid import UUID

from aiohttp import web

from services.console.documents import read_documents
from services.console.feed import Update

from .base import FEED, RENDERER, SETTINGS, USER, id_of, read_patient, rights_of, show

BEAT_SECONDS = 20.0
"""A proxy ends a connection on which nothing moves; and a client that has gone is noticed by then."""
MOST_STREAMS = 20
"""Of one user: each costs a connection."""


async def documents(request: web.Request) -> web.StreamResponse:
    patient_id = id_of(request, "patient")
    async with rights_of(request) as connection:
        patient = await read_patient(connection, patient_id)
    # Before the documents are read: what moves meanwhile is told by the stream.
    async with request.app[FEED].open(request[USER]) as feed:
        position = feed.position
    async with rights_of(request) as connection:
        rows = await read_documents(connection, patient_id=patient_id)
    renderer = request.app[RENDERER]
    return show(
        request,
        "documents.html",
        patient=patient,
        tab="documents",
        documents=[renderer.document(row) for row in rows],
        position=position,
        most_megabytes=request.app[SETTINGS].console_max_megabytes,
    )


async def events(request: web.Request) -> web.StreamResponse:
    """The live list: an event a document, the fragment that replaces its row. Goes on where a client left off."""
    patient_id = id_of(request, "patient")
    async with rights_of(request) as connection:
        await read_patient(connection, patient_id)
    since = request.headers.get("Last-Event-ID") or request.query.get("since", "")
    source = request.app[FEED]
    async with source.open(request[USER]) as feed:
        if feed.clients > MOST_STREAMS:
            raise web.HTTPTooManyRequests(reason="Too many pages are open: close some.")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        await response.prepare(request)
        await response.write(b"retry: 1000\n\n")
        # No longer than the token: the browser comes again at once, with a new one if it has one.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(request[USER].claims["exp"] - time.time()):
                async for update in source.updates(feed, patient_id, since, beat_seconds=BEAT_SECONDS):
                    await response.write(_events(update))
    return response


def _events(update: Update) -> bytes:
    """The position last: a client that is cut off in between asks for all of them again."""
    if not update.fragments:
        return b": beat\n\n"
    events = [_event(document_id, html) for document_id, html in update.fragments]
    return "".join([*events, f"id: {update.position}\nevent: position\ndata: {update.position}\n\n"]).encode()


def _event(document_id: UUID, html: str) -> str:
    data = "".join(f"data: {line}\n" for line in html.splitlines())
    return f"event: document\ndata: {document_id}\n{data}\n"


def add_routes(app: web.Application) -> None:
    app.router.add_get("/records/{patient}/documents", documents)
    app.router.add_get("/records/{patient}/events", events)
