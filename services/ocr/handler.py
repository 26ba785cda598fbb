"""What happens to one job: the upload is fetched, scanned and opened, its missing pages read and each kept."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from shared.contract.payloads import DocumentPayload, PagesPayload
from shared.errors import ChartloomError, TerminalError
from shared.handler import FanOut, Handler, report_progress
from shared.jobs import ClaimedJob, Write
from shared.storage import Storage
from shared.telemetry import meter

from .hand_out import Pace
from .keeping import PageKeeper
from .open_documents import KeptDocument, OpenDocuments, Upload
from .page_protocol import PageRead
from .scan.scanner import Announced, Scanner, objection

_pages_read = meter.create_counter("chartloom_ocr_pages", description="Pages read, by where their text came from.")
_scanned = meter.create_counter("chartloom_ocr_scans", description="Files scanned, by decision and antivirus.")
_confidence = meter.create_histogram(
    "chartloom_ocr_page_confidence", description="Mean word confidence of a page, 0 to 1."
)


@dataclass
class Reading:
    """What one attempt has read. ``rest`` is written by the statement that completes the job."""

    pages: int = 0
    words: int = 0
    rest: list[dict[str, Any]] = field(default_factory=list)
    handed_out: list[tuple[int, int]] = field(default_factory=list)


class OcrHandler:
    """Reads uploads. ``pool`` answers which file it is and which pages are missing, and keeps what was read."""

    def __init__(self, *, pool: asyncpg.Pool, storage: Storage, documents: OpenDocuments, scanner: Scanner) -> None:
        self._pool = pool
        self._storage = storage
        self._scanner = scanner
        self._documents = documents
        self._log = structlog.get_logger()

    def handlers(self) -> list[Handler[Any, Any]]:
        return [
            Handler(job_type="ocr", payload=DocumentPayload, work=self.read_document, store=finish),
            Handler(job_type="ocr_pages", payload=PagesPayload, work=self.read_range, store=finish),
        ]

    async def read_document(self, job: ClaimedJob, _: DocumentPayload) -> Reading:
        """The pages that are missing; those of a long document are handed out, once it is known how long they take."""
        upload, announced = await self._input(job)
        async with self._documents.borrow(upload) as document:
            missing = await self._begin(job, document, announced)
            return await self._read(job, upload, document, missing, may_hand_out=True)

    async def read_range(self, job: ClaimedJob, payload: PagesPayload) -> Reading:
        upload, _ = await self._input(job)
        async with self._documents.borrow(upload) as document:
            document.is_wanted_again = True
            wanted = range(payload.first_page, payload.last_page + 1)
            all_missing = await self._pool.fetchval(
                "select chartloom.missing_pages($1, $2, $3)", *lease_of(job), await document.open()
            )
            missing = [number for number in all_missing if number in wanted]
            return await self._read(job, upload, document, missing, may_hand_out=False)

    async def _input(self, job: ClaimedJob) -> tuple[Upload, Announced]:
        read = await self._pool.fetchrow("select * from chartloom.read_ocr_input($1, $2)", *lease_of(job))
        if read is None:
            raise TerminalError("upload_missing", "The document has no upload.")
        return Upload(read["storage_path"], read["sha256"]), Announced(read["extension"], read["mime_type"])

    async def _begin(self, job: ClaimedJob, document: KeptDocument, announced: Announced) -> list[int]:
        """Scans and opens it: the pages that are missing. The verdict is kept, whatever becomes of the file."""
        verdict = await self._scanner.scan(document, announced)
        _scanned.add(1, {"decision": verdict.decision, "antivirus": verdict.antivirus.status})
        kept = (*lease_of(job), verdict.model_dump(mode="json"))
        try:
            if (ended := objection(verdict)) is not None:
                raise ended
            pages = await document.open()
        except ChartloomError:
            await self._pool.execute("select chartloom.save_scan_verdict($1, $2, $3)", *kept)
            raise
        missing: list[int] = await self._pool.fetchval("select chartloom.begin_reading($1, $2, $3, $4)", *kept, pages)
        return missing

    async def _read(
        self, job: ClaimedJob, upload: Upload, document: KeptDocument, pages: Sequence[int], *, may_hand_out: bool
    ) -> Reading:
        reading = Reading()
        pace = Pace()
        async with PageKeeper(self._pool, self._storage, job, upload) as keeper:
            for place, number in enumerate(pages, 1):
                began = time.monotonic()
                read = await document.read(number)
                seconds = time.monotonic() - began
                pace.add(seconds)
                self._log.debug("page_read", page=number, seconds=round(seconds, 3))
                _measure(read)
                reading.pages += 1
                reading.words += len(read.page.words)
                left = pages[place:]
                if may_hand_out and pace.is_worth_handing_out(len(left)):
                    reading.handed_out = pace.divide(left)
                    document.is_wanted_again = True
                is_last = bool(reading.handed_out) or not left
                await keeper.add(read, is_last=is_last)
                report_progress(place / len(pages))
                if is_last:
                    break
            reading.rest = await keeper.rest()
        return reading


def _measure(read: PageRead) -> None:
    page = read.page
    _pages_read.add(1, {"text_source": page.text_source})
    if page.words and page.text_source == "ocr":
        _confidence.record(sum(word.confidence for word in page.words) / len(page.words))


def lease_of(job: ClaimedJob) -> tuple[int, UUID]:
    return job.job_id, job.lease_token


def finish(job: ClaimedJob, reading: Reading) -> Write | FanOut:
    summary = {"pages": reading.pages, "words": reading.words}
    if not reading.handed_out:
        return Write("chartloom.write_ocr_pages", (reading.rest, summary))
    payloads = [{**job.payload, "first_page": first, "last_page": last} for first, last in reading.handed_out]
    write = Write("chartloom.write_ocr_pages", (reading.rest, {**summary, "jobs": len(payloads)}))
    return FanOut("ocr_pages", payloads, write)
