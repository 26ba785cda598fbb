"""What happens to one ``ocr`` job: fetch the upload, check that it is what was announced, read its pages, keep them."""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import asyncpg

from shared.contract.pages import Page
from shared.contract.payloads import DocumentPayload
from shared.database import Connection
from shared.errors import TerminalError
from shared.jobs import ClaimedJob
from shared.storage import Storage
from shared.telemetry import meter
from shared.worker import Handler, report_progress

from .reader import DocumentReader

_pages_read = meter.create_counter("chartloom_ocr_pages", description="Pages read, by where their text came from.")
_confidence = meter.create_histogram(
    "chartloom_ocr_page_confidence", description="Mean word confidence of a page, 0 to 1."
)


class OcrHandler:
    """Reads uploads. ``pool`` answers one question a job: which file, and what it should hash to."""

    def __init__(self, *, pool: asyncpg.Pool, storage: Storage, reader: DocumentReader, max_bytes: int) -> None:
        self._pool = pool
        self._storage = storage
        self._reader = reader
        self._max_bytes = max_bytes

    def handler(self) -> Handler[DocumentPayload, list[Page]]:
        return Handler(job_type="ocr", payload=DocumentPayload, work=self.read_document, store=save_pages)

    async def read_document(self, job: ClaimedJob, _: DocumentPayload) -> list[Page]:
        upload = await self._pool.fetchrow("select * from chartloom.read_upload($1, $2)", job.job_id, job.lease_token)
        if upload is None:
            raise TerminalError("upload_missing", "The document has no upload.")
        with tempfile.TemporaryDirectory(prefix="chartloom-ocr-") as folder:
            path = Path(folder) / "upload"
            digest = await self._download(upload["storage_path"], path)
            if digest != upload["sha256"]:
                raise TerminalError("checksum_mismatch", "The stored file is not the one announced: upload it again.")
            pages = await self._reader.read(path, on_page=lambda done, total: report_progress(done / total))
        for page in pages:
            _pages_read.add(1, {"text_source": page.text_source})
            if page.words and page.text_source == "ocr":
                _confidence.record(sum(word.confidence for word in page.words) / len(page.words))
        return pages

    async def _download(self, storage_path: str, target: Path) -> str:
        """Streams to disk, no further than the limit. Returns the SHA-256."""
        digest = hashlib.sha256()
        size = 0
        with target.open("wb") as file:
            async for chunk in self._storage.stream(storage_path):
                size += len(chunk)
                if size > self._max_bytes:
                    raise TerminalError(
                        "file_too_large",
                        f"The file is larger than {self._max_bytes // 2**20} MB: split it and upload the parts.",
                    )
                digest.update(chunk)
                file.write(chunk)
        return digest.hexdigest()


async def save_pages(connection: Connection, job: ClaimedJob, pages: list[Page]) -> dict[str, Any]:
    saved = await connection.fetchval(
        "select chartloom.save_ocr_pages($1, $2, $3)",
        job.job_id,
        job.lease_token,
        [page.model_dump(mode="json") for page in pages],
    )
    return {"pages": saved, "words": sum(len(page.words) for page in pages)}
