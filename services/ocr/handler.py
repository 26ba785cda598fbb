"""What happens to one ``ocr`` job: fetch the upload, check and scan it, read its pages, keep them."""

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
from .scan.scanner import Announced, Scanner, objection

_pages_read = meter.create_counter("chartloom_ocr_pages", description="Pages read, by where their text came from.")
_scanned = meter.create_counter("chartloom_ocr_scans", description="Files scanned, by decision and antivirus.")
_confidence = meter.create_histogram(
    "chartloom_ocr_page_confidence", description="Mean word confidence of a page, 0 to 1."
)


class OcrHandler:
    """Reads uploads. ``pool`` answers one question a job: which file, and what it should hash to."""

    def __init__(
        self, *, pool: asyncpg.Pool, storage: Storage, reader: DocumentReader, scanner: Scanner, max_bytes: int
    ) -> None:
        self._pool = pool
        self._storage = storage
        self._reader = reader
        self._scanner = scanner
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
            await self._scan(job, path)
            pages = await self._reader.read(path, on_page=lambda done, total: report_progress(done / total))
        for page in pages:
            _pages_read.add(1, {"text_source": page.text_source})
            if page.words and page.text_source == "ocr":
                _confidence.record(sum(word.confidence for word in page.words) / len(page.words))
        return pages

    async def _scan(self, job: ClaimedJob, path: Path) -> None:
        """Keeps the verdict on the file, whatever it is, and ends the document where it is not to be read."""
        announced = await self._pool.fetchrow(
            "select * from chartloom.read_announced_type($1, $2)", job.job_id, job.lease_token
        )
        assert announced is not None
        verdict = await self._scanner.scan(path, Announced(announced["extension"], announced["mime_type"]))
        _scanned.add(1, {"decision": verdict.decision, "antivirus": verdict.antivirus.status})
        await self._pool.execute(
            "select chartloom.save_scan_verdict($1, $2, $3)",
            job.job_id,
            job.lease_token,
            verdict.model_dump(mode="json"),
        )
        if (ended := objection(verdict)) is not None:
            raise ended

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
