"""A patient's record as FHIR, all that is kept of a patient, and its erasure."""

import json
import os
import sys
import tempfile
import zipfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import typer

from shared.errors import ConfigurationError, TerminalError, TransientError
from shared.storage import Storage

from .console import err, out, run
from .deployment import open_deployment
from .document_export import export_document

app = typer.Typer()
patient = typer.Typer(help="Everything about one patient: take it along, or erase it.", no_args_is_help=True)
app.add_typer(patient, name="patient")

PatientId = Annotated[UUID, typer.Argument(help="The patient's id, as process --json has it.")]

ERASURE_ATTEMPTS = 20
"""An upload that was completing as the erasure began brings a new job, and the erasure begins again."""


@app.command("export")
def export(
    patient_id: Annotated[UUID | None, typer.Argument(help="With --fhir: the patient's id.")] = None,
    fhir: Annotated[
        Path | None, typer.Option(help="Write the patient's FHIR R4 Bundle to this file; - is standard output.")
    ] = None,
    pdf: Annotated[
        str | None, typer.Option(metavar="FILE_OR_ID", help="A document, by its id or by the file that was uploaded.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="With --pdf: the searchable PDF.")] = None,
) -> None:
    """A patient's current record, for other systems; or one document as a searchable PDF."""
    if patient_id and fhir and not (pdf or output):
        _export_fhir(patient_id, fhir)
    elif pdf and output and not (patient_id or fhir):
        run(export_document(pdf, output))
    else:
        err.print("Say PATIENT_ID --fhir FILE, or --pdf FILE_OR_ID -o FILE.", markup=False, highlight=False)
        raise typer.Exit(2)


def _export_fhir(patient_id: UUID, fhir: Path) -> None:
    bundle = run(_fhir_bundle(patient_id))
    if str(fhir) == "-":
        sys.stdout.write(_json(bundle) + "\n")
        return
    run(_write_private(fhir, _json(bundle)))
    out.print(f"Written: {fhir} ({len(bundle['entry'])} resources)", highlight=False, markup=False)


async def _fhir_bundle(patient_id: UUID) -> dict[str, Any]:
    async with open_deployment() as deployment, deployment.owner() as connection:
        return await read_bundle(connection, patient_id)


async def read_bundle(connection: asyncpg.Connection, patient_id: UUID) -> dict[str, Any]:
    """The Bundle. Raises TerminalError ``CL007`` where there is no such patient."""
    return _answer(await connection.fetchval("select fhir_bundle($1)", patient_id))


async def _write_private(path: Path, text: str) -> None:
    try:
        # Nobody else's to read, where the file is new.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigurationError("file_not_writable", f"{path}: it can't be written ({error.strerror}).") from None


# ── all that is kept ─────────────────────────────────────────────────────────────────────────────────────────────────


@patient.command("export")
def export_patient(
    patient_id: PatientId,
    target: Annotated[Path, typer.Argument(help="A new folder, or a new file that ends in .zip.")],
) -> None:
    """Every row, the uploaded files, the audit and the FHIR Bundle of a patient."""
    counts = run(_export(patient_id, target))
    out.print(f"Written: {target}", highlight=False, markup=False)
    for name, count in sorted(counts.items()):
        out.print(f"  {name}: {count}", highlight=False, markup=False)


async def _export(patient_id: UUID, target: Path) -> Counter[str]:
    if target.exists():
        raise ConfigurationError("target_exists", f"{target}: it is there already; name a new folder or .zip file.")
    if not os.access(target.absolute().parent, os.W_OK):
        raise ConfigurationError("file_not_writable", f"{target}: its folder can't be written.")
    async with open_deployment() as deployment, deployment.owner() as connection:
        # Beside the target and renamed: whoever finds it finds it whole. Only this user can look into it.
        with tempfile.TemporaryDirectory(dir=target.absolute().parent, prefix=".chartloom-export-") as scratch:
            folder = Path(scratch) / "patient"
            folder.mkdir(mode=0o700)
            counts = await write_export(connection, deployment.storage(), patient_id, folder)
            if target.suffix == ".zip":
                _zip(folder, Path(scratch) / "patient.zip").replace(target)
            else:
                folder.replace(target)
    return counts


async def write_export(
    connection: asyncpg.Connection, storage: Storage, patient_id: UUID, folder: Path
) -> Counter[str]:
    """Fills an empty folder: ``<table>.jsonl``, ``files/<sha256>``, ``files/pages``, ``fhir.json``: how many of each.

    Raises TerminalError ``CL007`` where there is no such patient.
    """
    counts: Counter[str] = Counter()
    paths: list[str] = []
    # One snapshot for all tables. The cursor keeps what passes through here small, however large the record is.
    async with connection.transaction(isolation="repeatable_read"):
        with ExitStack() as opened:
            files: dict[str, Any] = {}
            rows = connection.cursor("select * from chartloom.export_rows($1)", patient_id)
            async for table, contents in rows:
                if table not in files:
                    files[table] = opened.enter_context((folder / f"{table}.jsonl").open("w", encoding="utf-8"))
                files[table].write(_json(contents) + "\n")
                counts[table] += 1
                path = contents.get({"shell_files": "storage_path", "ocr_pages": "image_path"}.get(table, ""))
                if path is not None:
                    paths.append(path)
        if not counts:
            raise TerminalError("CL007", "patient_id: no such patient")
        bundle = await read_bundle(connection, patient_id)
    (folder / "fhir.json").write_text(_json(bundle), encoding="utf-8")
    counts["fhir.json"] = len(bundle["entry"])
    (folder / "files").mkdir()
    for path in paths:
        # Announced and never uploaded: the row says so.
        if await storage.stat(path):
            target = folder / "files" / path.partition("/")[2]
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                async for chunk in storage.stream(path):
                    file.write(chunk)
            counts["files"] += 1
    return counts


def _zip(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "x", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    target.chmod(0o600)
    return target


# ── erasure ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@patient.command("erase")
def erase_patient(
    patient_id: PatientId,
    yes: Annotated[bool, typer.Option("--yes", help="Really: it can't be undone.")] = False,
) -> None:
    """Delete a patient's rows and files, for ever. May be repeated; what broke off goes on."""
    if not yes:
        err.print("This deletes everything about the patient and can't be undone. Say --yes.")
        raise typer.Exit(2)
    run(_erase(patient_id))
    out.print("Erased. The audit keeps ids and times, no value.", highlight=False)


async def _erase(patient_id: UUID) -> None:
    async with open_deployment() as deployment, deployment.owner() as connection:
        await erase(connection, deployment.storage(), patient_id)


async def erase(connection: asyncpg.Connection, storage: Storage, patient_id: UUID) -> None:
    """Jobs, rows, files, in this order; each step may be repeated.

    Raises TerminalError ``CL007`` where there never was such a patient.
    """
    for _ in range(ERASURE_ATTEMPTS):
        _answer(await connection.fetchval("select chartloom.begin_erasure($1)", patient_id))
        try:
            if await connection.fetchval("select chartloom.erase_rows($1)", patient_id):
                break
        except asyncpg.DeadlockDetectedError:
            continue
    else:
        raise TransientError("erasure_disturbed", "Documents of the patient kept coming in: run it again.")
    for path in await connection.fetchval("select chartloom.files_to_erase($1)", patient_id):
        await storage.delete(path)
    # A late upload's, and what a killed one left half written.
    await storage.delete_all(str(patient_id))
    await connection.execute("select chartloom.finish_erasure($1)", patient_id)


# ── both ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _answer(answer: dict[str, Any]) -> dict[str, Any]:
    """What a function answered. A refusal becomes an error."""
    if "error" in answer:
        raise TerminalError(answer["error"]["code"], answer["error"]["message"])
    return answer


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
