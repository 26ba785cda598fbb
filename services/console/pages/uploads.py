"""Uploading: a file in parts, so that one that was cut off goes on where it stopped."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote
from uuid import UUID, uuid4

import asyncpg
from aiohttp import web
from opentelemetry.trace import SpanKind

from services.console.partials import Partial
from shared.errors import BusyError, TerminalError, TransientError
from shared.storage import CHUNK_BYTES
from shared.telemetry import message_span, traceparent_of

from .base import FEED, FILES, PARTIALS, SETTINGS, TOKEN, UPLOADS, USER, id_of, read_patient, rights_of

_READ_ONLY = "You may read this record, but not add to it."


@dataclass(frozen=True)
class _Part:
    upload: str
    offset: int
    size: int


class UploadRefusedError(Exception):
    """What the browser is told instead of an id."""

    def __init__(self, status: int, **said: str | int) -> None:
        super().__init__(status)
        self.status = status
        self.said = said


async def upload(request: web.Request) -> web.StreamResponse:
    """A file or a part of one is the body. Answers with how much is there, or what became of it, in words."""
    patient_id = id_of(request, "patient")
    async with rights_of(request) as connection:
        patient = await read_patient(connection, patient_id)
    try:
        return web.json_response(await _take(request, patient))
    except UploadRefusedError as refused:
        return web.json_response(refused.said, status=refused.status)


async def _take(request: web.Request, patient: dict[str, Any]) -> dict[str, str | int]:
    if not patient["may_write"]:
        raise UploadRefusedError(403, problem=_READ_ONLY)
    part = _part_of(request, most_megabytes=request.app[SETTINGS].console_max_megabytes)
    user, partials = request[USER].user_id, request.app[PARTIALS]
    name = f"{patient['id']}/{part.upload}"
    partial = partials.open(user, name)
    if part.offset != partial.received:
        raise UploadRefusedError(409, offset=partial.received)
    try:
        if part.offset == 0:
            request.app[UPLOADS].take(user)
        if not await partial.append(request.content.iter_chunked(CHUNK_BYTES), most=part.size):
            raise UploadRefusedError(409, offset=partial.received)
        if partial.received < part.size:
            return {"offset": partial.received}
        async with partial.submitting:
            taken = await _submit(request, patient["id"], partial)
    except BusyError as error:
        raise UploadRefusedError(429, problem=error.message) from None
    except TransientError as error:
        # All of it is here: the browser asks once more, and sends nothing.
        raise UploadRefusedError(503, problem=error.message) from None
    except TerminalError as error:
        raise UploadRefusedError(400, problem=error.message) from None
    partials.drop(user, name)
    return taken


def _part_of(request: web.Request, *, most_megabytes: int) -> _Part:
    """What a part says of itself; a request that says nothing is a file of its own."""
    headers = request.headers
    offset = headers.get("X-Upload-Offset", "0")
    size = headers.get("X-Upload-Size", str(request.content_length or 0))
    if not (offset.isdecimal() and size.isdecimal() and len(offset) < 16 and len(size) < 16):
        raise UploadRefusedError(400, problem="The upload does not say what it is: load the page again.")
    if int(size) > most_megabytes * 1_000_000:
        raise UploadRefusedError(413, problem=f"The file is larger than {most_megabytes} MB: send it in parts.")
    if int(size) == 0:
        raise UploadRefusedError(400, problem="The file is empty: choose another one.")
    return _Part(headers.get("X-Upload", uuid4().hex)[:64], int(offset), int(size))


async def _submit(request: web.Request, patient_id: UUID, partial: Partial) -> dict[str, str | int]:
    """Record, file, "it is there": the three calls that any client makes. All may be repeated."""
    name = unquote(request.headers.get("X-File-Name", ""))[-255:] or "document"
    with message_span("send", "ocr", SpanKind.PRODUCER) as send:
        async with rights_of(request) as connection:
            try:
                created = await connection.fetchval(
                    "select public.create_upload($1, $2, $3, $4, $5, $6)",
                    patient_id,
                    name,
                    partial.digest.hexdigest(),
                    partial.received,
                    request.content_type[:255],
                    traceparent_of(send),
                )
            except asyncpg.PostgresError as error:
                if error.sqlstate != "CL005":
                    raise
                raise UploadRefusedError(
                    400, problem="The file's name can't be kept: rename it and try again."
                ) from None
        if "error" in created:
            raise UploadRefusedError(403, problem=_READ_ONLY)
        is_known = created["status"] not in ("uploading", "failed", "cancelled")
        if not is_known:
            partial.file.seek(0)
            await request.app[FILES].put(request[TOKEN], created["storage_path"], partial.file, request.content_type)
        async with rights_of(request) as connection:
            completed = await connection.fetchval("select public.complete_upload($1)", UUID(created["shell_file_id"]))
    if "error" in completed:
        # The record was erased meanwhile, and the file came after.
        await request.app[FILES].forget(created["storage_path"])
        raise UploadRefusedError(404, problem="This record is not there any more.")
    request.app[FEED].touch(request[USER])
    return {"id": created["shell_file_id"], "known": is_known}


def add_routes(app: web.Application) -> None:
    app.router.add_post("/records/{patient}/documents", upload)
