"""Uploading, and watching documents on their way."""

import asyncio
import contextlib
import hashlib
import tempfile
import time
from collections.abc import AsyncIterator
from typing import IO
from urllib.parse import unquote
from uuid import UUID

import asyncpg
from aiohttp import web
from opentelemetry.trace import SpanKind

from services.console.documents import read_documents
from services.console.feed import Update
from shared.errors import BusyError
from shared.storage import CHUNK_BYTES
from shared.telemetry import message_span, traceparent_of

from .base import FEED, RENDERER, SETTINGS, STORAGE, UPLOADS, USER, id_of, read_patient, rights_of, show

BEAT_SECONDS = 20.0
"""A proxy ends a connection on which nothing moves; and a client that has gone is noticed by then."""
IN_MEMORY_BYTES = 1 << 20
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


async def upload(request: web.Request) -> web.StreamResponse:
    """The file is the body. Answers with what became of it, in words for whoever sent it."""
    patient_id = id_of(request, "patient")
    async with rights_of(request) as connection:
        patient = await read_patient(connection, patient_id)
    if not patient["may_write"]:
        return _refusal(403, "You may read this record, but not add to it.")
    most = request.app[SETTINGS].console_max_megabytes * 1_000_000
    if request.content_length is not None and request.content_length > most:
        return _refusal(413, _too_large(most))
    try:
        request.app[UPLOADS].take(request[USER].user_id)
    except BusyError as error:
        return _refusal(429, error.message)
    name = unquote(request.headers.get("X-File-Name", ""))[-255:] or "document"
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES) as file:
        digest = hashlib.sha256()
        size = 0
        async for chunk in request.content.iter_chunked(CHUNK_BYTES):
            size += len(chunk)
            if size > most:
                return _refusal(413, _too_large(most))
            digest.update(chunk)
            file.write(chunk)
        if not size:
            return _refusal(400, "The file is empty: choose another one.")
        return await _submit(request, patient_id, file, name=name, size=size, sha256=digest.hexdigest())


async def _submit(
    request: web.Request, patient_id: UUID, file: IO[bytes], *, name: str, size: int, sha256: str
) -> web.Response:
    """Record, file, "it is there": the three calls that any client makes. All may be repeated."""
    with message_span("send", "ocr", SpanKind.PRODUCER) as send:
        async with rights_of(request) as connection:
            try:
                created = await connection.fetchval(
                    "select public.create_upload($1, $2, $3, $4, $5, $6)",
                    patient_id,
                    name,
                    sha256,
                    size,
                    request.content_type[:255],
                    traceparent_of(send),
                )
            except asyncpg.PostgresError as error:
                if error.sqlstate != "CL005":
                    raise
                return _refusal(400, "The file's name can't be kept: rename it and try again.")
        if "error" in created:
            return _refusal(403, "You may read this record, but not add to it.")
        is_known = created["status"] not in ("uploading", "failed", "cancelled")
        if not is_known:
            file.seek(0)
            await request.app[STORAGE].put(created["storage_path"], _chunks(file))
        async with rights_of(request) as connection:
            completed = await connection.fetchval("select public.complete_upload($1)", UUID(created["shell_file_id"]))
    if "error" in completed:
        # The record was erased meanwhile, and the file came after.
        await request.app[STORAGE].delete(created["storage_path"])
        return _refusal(404, "This record is not there any more.")
    request.app[FEED].touch(request[USER])
    return web.json_response({"id": created["shell_file_id"], "known": is_known})


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


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"problem": message}, status=status)


def _too_large(most: int) -> str:
    return f"The file is larger than {most // 1_000_000} MB: send it in parts."


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def add_routes(app: web.Application) -> None:
    app.router.add_get("/records/{patient}/documents", documents)
    app.router.add_post("/records/{patient}/documents", upload)
    app.router.add_get("/records/{patient}/events", events)
