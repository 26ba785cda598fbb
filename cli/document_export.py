"""``chartloom export --pdf``: which document is meant, its pages and their images, into one file."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import asyncpg

from shared.contract.pages import DPI, SHOWN_DPI
from shared.errors import ConfigurationError, TerminalError
from shared.storage import Storage

from .console import out
from .deployment import open_deployment
from .searchable_pdf import ReadPage, write_pdf

_PAGES = """
select p.width, p.height, p.words, p.image_path, p.text_source = 'text_layer' and p.image_path is not null as is_shown
from ocr_pages as p
join chartloom.document_runs as r on r.ocr_run_id = p.run_id
join shell_files as f on f.current_run_id = r.id
where f.id = $1 order by p.page
"""


async def export_document(wanted: str, target: Path) -> None:
    """Writes the PDF. Raises ConfigurationError where there is no such document, or it is not read yet."""
    async with open_deployment() as deployment, deployment.owner() as connection:
        storage = deployment.storage()
        try:
            document = await _find(connection, wanted)
            pages = [page async for page in _read(connection, storage, document)]
        finally:
            await storage.close()
    if not pages:
        raise ConfigurationError("document_unread", "The document has no pages yet: process it first.")
    try:
        target.touch(mode=0o600)
        count = await asyncio.to_thread(write_pdf, pages, str(target))
    except OSError as error:
        raise ConfigurationError("file_not_writable", f"{target}: it can't be written ({error.strerror}).") from None
    out.print(f"Written: {target} ({count} pages)", highlight=False, markup=False)


async def _find(connection: asyncpg.Connection, wanted: str) -> UUID:
    """By its id, or by the bytes of the file that was uploaded; of several patients, the latest upload."""
    try:
        document = UUID(wanted)
    except ValueError:
        try:
            sha256 = await asyncio.to_thread(_sha256, Path(wanted))
        except OSError as error:
            raise ConfigurationError(
                "file_unreadable", f"{wanted}: no document's id, and no file that can be read ({error.strerror})."
            ) from None
        found: UUID | None = await connection.fetchval(
            "select id from shell_files where sha256 = $1 order by created_at desc limit 1", sha256
        )
    else:
        found = await connection.fetchval("select id from shell_files where id = $1", document)
    if found is None:
        raise ConfigurationError("document_unknown", "There is no such document here: process it first.")
    return found


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _read(connection: asyncpg.Connection, storage: Storage, document: UUID) -> AsyncIterator[ReadPage]:
    for row in await connection.fetch(_PAGES, document):
        image = await _image(storage, row["image_path"])
        dpi = SHOWN_DPI if row["is_shown"] else DPI
        yield ReadPage(row["width"], row["height"], row["words"], image, dpi)


async def _image(storage: Storage, path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return b"".join([chunk async for chunk in storage.stream(path)])
    except TerminalError:
        return None  # it is gone; the words are not
