"""A document's way in, as a user takes it, and what came of it, as ``process --json`` writes it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from opentelemetry.trace import SpanKind

from shared.errors import ConfigurationError, TerminalError
from shared.storage import CHUNK_BYTES, Storage
from shared.telemetry import message_span, traceparent_of

DEVELOPMENT_USER = UUID("00000000-0000-4000-8000-000000000001")
"""Who uploads from the command line; production users come with a token of their own."""

FINAL = frozenset({"completed", "failed", "quarantined", "cancelled"})

_STAGES = """
select id as job_id, job_type, status, shell_file_id, error ->> 'code' as error_code,
    retry_count + lease_losses + case when status in ('processing', 'completed', 'dead_letter') then 1 else 0 end
        as attempts,
    extract(epoch from coalesce(started_at, now()) - created_at)::float as queued_s,
    case when started_at is null then null
        else extract(epoch from coalesce(completed_at, now()) - started_at)::float end as worked_s
from chartloom.job_history where shell_file_id = any($1) order by id
"""


@dataclass(frozen=True)
class Submitted:
    """A file on its way. ``name`` is what the user called it."""

    name: str
    shell_file_id: UUID


async def ensure_patient(connection: asyncpg.Connection, patient_id: UUID | None) -> UUID:
    """The patient's profile, made where it is missing and owned by the development user."""
    patient_id = patient_id or uuid4()
    await connection.execute(
        "insert into user_profiles (id, owner_user_id) values ($1, $2) on conflict (id) do nothing",
        patient_id,
        DEVELOPMENT_USER,
    )
    return patient_id


async def submit(connection: asyncpg.Connection, storage: Storage, path: Path, patient_id: UUID) -> Submitted:
    """Record, file, "it is there": the three calls that any client makes, with a user's rights. All may be repeated."""
    with (
        message_span("upload", "document", SpanKind.INTERNAL),
        message_span("send", "ocr", SpanKind.PRODUCER) as send,
    ):
        created = await _as_user(
            connection,
            "select create_upload($1, $2, $3, $4, null, $5)",
            patient_id,
            path.name[-255:],
            await asyncio.to_thread(_sha256, path),
            path.stat().st_size,
            traceparent_of(send),
        )
        if "error" in created:
            raise TerminalError(created["error"]["code"], created["error"]["message"])
        shell_file_id = UUID(created["shell_file_id"])
        send.set_attribute("document.id", str(shell_file_id))
        if created["status"] in ("uploading", "failed", "cancelled"):
            await storage.put(created["storage_path"], _chunks(path))
        completed = await _as_user(connection, "select complete_upload($1)", shell_file_id)
        if "error" in completed:
            # The patient was erased meanwhile, and the file came after.
            await storage.delete(created["storage_path"])
            raise TerminalError(completed["error"]["code"], completed["error"]["message"])
    return Submitted(str(path), shell_file_id)


async def statuses(connection: asyncpg.Connection, files: list[UUID]) -> dict[UUID, str]:
    rows = await connection.fetch("select id, status from shell_files where id = any($1)", files)
    return {row["id"]: row["status"] for row in rows}


async def stages(connection: asyncpg.Connection, files: list[UUID]) -> dict[UUID, list[dict[str, Any]]]:
    """Each document's jobs in the order in which they were made."""
    found: dict[UUID, list[dict[str, Any]]] = {file: [] for file in files}
    for row in await connection.fetch(_STAGES, files):
        stage = dict(row)
        found[stage.pop("shell_file_id")].append(stage)
    return found


async def describe(connection: asyncpg.Connection, submitted: Submitted) -> dict[str, Any]:
    """One entry of ``documents`` in ``process --json``: docs/process-json.md has the shape."""
    file = await connection.fetchrow("select * from shell_files where id = $1", submitted.shell_file_id)
    if file is None:
        raise ConfigurationError("document_gone", "A submitted document is no longer in the database.")
    run_id = file["current_run_id"]
    ocr_run_id = await connection.fetchval("select ocr_run_id from chartloom.document_runs where id = $1", run_id)
    error = file["processing_error"]
    return {
        "file": submitted.name,
        "shell_file_id": str(file["id"]),
        "patient_id": str(file["patient_id"]),
        "status": file["status"],
        "error": None if error is None else {"code": error["code"], "message": error["message"]},
        "trace_id": file["traceparent"].split("-")[1],
        "scan": await _scan(connection, ocr_run_id),
        "pages": [
            dict(row)
            for row in await connection.fetch(
                "select page, width, height, text, words, tables from ocr_pages where run_id = $1 order by page",
                ocr_run_id,
            )
        ],
        "entities": [_entity(row) for row in await _run_rows(connection, "patient_clinical_events", run_id)],
        "narrative": await connection.fetchval("select narrative from clinical_narratives where run_id = $1", run_id),
        "timeline": [
            {"date": row["event_date"], "title": row["title"], "entity_ids": [str(i) for i in row["event_ids"]]}
            for row in await _run_rows(connection, "healthcare_timeline_events", run_id)
        ],
        "waiting": [
            dict(row)
            for row in await connection.fetch(
                "select finding_key::text, reason, claim from finding_reviews "
                "where shell_file_id = $1 and status = 'waiting' order by reason, finding_key",
                file["id"],
            )
        ],
        "stages": [
            {
                "job_id": stage["job_id"],
                "job_type": stage["job_type"],
                "status": stage["status"],
                "attempts": stage["attempts"],
                "queued_s": _seconds(stage["queued_s"]),
                "worked_s": _seconds(stage["worked_s"]),
            }
            for stage in (await stages(connection, [file["id"]]))[file["id"]]
        ],
    }


async def _scan(connection: asyncpg.Connection, run_id: UUID | None) -> dict[str, Any] | None:
    """What the security scan said of the file; None where it has not been scanned."""
    row = await connection.fetchrow("select * from scan_verdicts where run_id = $1", run_id)
    if row is None:
        return None
    names = ("decision", "reason", "file_kind", "is_encrypted", "findings", "antivirus", "antivirus_signature")
    return {name: row[name] for name in names}


async def _run_rows(connection: asyncpg.Connection, table: str, run_id: UUID) -> list[asyncpg.Record]:
    order = {"patient_clinical_events": "page, char_start, entity_id", "healthcare_timeline_events": "position"}[table]
    rows: list[asyncpg.Record] = await connection.fetch(
        f"select * from {table} where run_id = $1 and superseded_at is null order by {order}",  # noqa: S608 - both are constants above
        run_id,
    )
    return rows


def _entity(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "id": str(row["id"]),
        "kind": row["kind"],
        "label": row["label"],
        "text": row["text"],
        "assertion": row["assertion"],
        "subject": row["subject"],
        "attributes": row["attributes"],
        "codes": row["codes"],
        "links": [{"relation": link["relation"], "entity_id": link["event_id"]} for link in row["links"]],
        "uncertain": row["uncertain"],
        "source": {
            "page": row["page"],
            "start": row["char_start"],
            "end": row["char_end"],
            "quote": row["quote"],
            "boxes": row["boxes"],
        },
        "engine": row["provider"],
        "model": row["model"],
    }


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


async def _as_user(connection: asyncpg.Connection, query: str, *arguments: Any) -> dict[str, Any]:
    """As an API gateway does it: the user's role and claims, for one transaction."""
    async with connection.transaction():
        await connection.execute(
            "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', $1, true)",
            f'{{"sub": "{DEVELOPMENT_USER}", "role": "authenticated"}}',
        )
        result: dict[str, Any] = await connection.fetchval(query, *arguments)
        return result


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
