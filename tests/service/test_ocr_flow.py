"""A document's pages through the OCR service: one job or many, kept as they are read, and none of them twice."""

import asyncio
import errno
import hashlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from services.ocr import hand_out, keeping
from services.ocr.hand_out import Pace
from services.ocr.open_documents import OpenDocuments, Upload
from services.ocr.page_protocol import PageRead
from services.ocr.reader import OpenDocument
from shared.errors import TerminalError, TransientError
from shared.storage import LocalStorage, StoredFile, once
from tests.conftest import Database, Patient
from tests.pipeline import claim
from tests.service.ocr_documents import LETTER, pdf, text
from tests.service.ocr_service import make_reader, service, submit, until_read
from tests.waiting import until

Reads = Counter[int]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "storage")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """How often each page was read to its end."""
    counted: Reads = Counter()
    read = OpenDocument.read

    async def spy(self: OpenDocument, number: int) -> PageRead:
        answer = await read(self, number)
        counted[number] += 1
        return answer

    monkeypatch.setattr(OpenDocument, "read", spy)
    return counted


@pytest.fixture
def one_page_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hand_out, "HAND_OUT_SECONDS", 0.0)
    monkeypatch.setattr(hand_out, "JOB_SECONDS", 0.0)


@pytest.fixture
def each_page_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "SAVE_SECONDS", 0.0)


def letter(pages: int) -> bytes:
    return pdf(*(text(LETTER + b" Page %d." % number) for number in range(1, pages + 1)))


async def job_types(owner: asyncpg.Connection) -> list[str]:
    rows = await owner.fetch("select job_type from chartloom.job_archive order by id")
    return [row["job_type"] for row in rows]


async def test_a_short_document_is_one_job(
    database: Database, owner: asyncpg.Connection, patient: Patient, storage: LocalStorage, reads: Reads
) -> None:
    async with service(database, storage):
        await until_read(owner, await submit(owner, storage, patient, letter(6)))
    assert await job_types(owner) == ["ocr"]
    assert reads == dict.fromkeys(range(1, 7), 1)
    (result,) = await owner.fetch("select result from chartloom.job_archive")
    assert result["result"]["pages"] == 6


@pytest.mark.usefixtures("one_page_a_job")
async def test_the_pages_of_a_long_document_are_read_by_whoever_is_free(
    database: Database, owner: asyncpg.Connection, patient: Patient, storage: LocalStorage, reads: Reads
) -> None:
    async with service(database, storage):
        document = await submit(owner, storage, patient, letter(10))
        await until_read(owner, document)
    assert Counter(await job_types(owner)) == {"ocr": 1, "ocr_pages": 9}
    assert reads == dict.fromkeys(range(1, 11), 1)
    pages = await owner.fetch("select page, text, width, height, image_path from ocr_pages order by page")
    assert [(row["page"], row["text"].split()[-1]) for row in pages] == [(n, f"{n}.") for n in range(1, 11)]
    for row in pages:
        image = b"".join([chunk async for chunk in storage.stream(row["image_path"])])
        assert image.startswith(b"\xff\xd8\xff")


@pytest.mark.usefixtures("each_page_at_once")
async def test_the_next_attempt_reads_only_what_is_missing(
    database: Database,
    owner: asyncpg.Connection,
    patient: Patient,
    storage: LocalStorage,
    reads: Reads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first attempt ends in an error on page 4: the pages before it are there, the error's own is tried again."""
    counted = OpenDocument.read
    failing = [4]

    async def fail_once(self: OpenDocument, number: int) -> PageRead:
        if number in failing:
            failing.remove(number)
            raise TransientError("engine_unavailable", "It failed.")
        return await counted(self, number)

    monkeypatch.setattr(OpenDocument, "read", fail_once)
    await owner.execute("update chartloom.job_types set backoff_base_seconds = 0.01")
    async with service(database, storage):
        await until_read(owner, await submit(owner, storage, patient, letter(6)))
    assert reads == dict.fromkeys(range(1, 7), 1)
    (error,) = await owner.fetch("select kind, code from chartloom.processing_errors")
    assert (error["kind"], error["code"]) == ("transient", "engine_unavailable")


async def test_a_page_that_cannot_be_read_ends_the_document_and_keeps_the_others(
    database: Database,
    owner: asyncpg.Connection,
    patient: Patient,
    storage: LocalStorage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = OpenDocument.read

    async def refuse(self: OpenDocument, number: int) -> PageRead:
        if number == 3:
            raise TerminalError("page_timed_out", "A page took too long to read.")
        return await read(self, number)

    monkeypatch.setattr(OpenDocument, "read", refuse)
    async with service(database, storage):
        document = await submit(owner, storage, patient, letter(5))
        await until(owner, "status = 'failed' from shell_files where id = $1", document, seconds=90)
    error = await owner.fetchval("select processing_error from shell_files")
    assert (error["code"], error["stage"]) == ("page_timed_out", "ocr")
    assert await owner.fetchval("select array_agg(page order by page) from ocr_pages") == [1, 2]


@pytest.mark.usefixtures("each_page_at_once")
async def test_a_reader_that_is_killed_costs_its_page_a_second_try(
    database: Database,
    owner: asyncpg.Connection,
    patient: Patient,
    storage: LocalStorage,
    reads: Reads,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[Any] = []
    spawn: Callable[..., Any] = asyncio.create_subprocess_exec

    async def spy(*arguments: Any, **options: Any) -> Any:
        started.append(await spawn(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spy)
    counted = OpenDocument.read

    async def kill_first(self: OpenDocument, number: int) -> PageRead:
        if number == 3 and len(started) == 1:
            os.killpg(started[0].pid, signal.SIGKILL)
        return await counted(self, number)

    monkeypatch.setattr(OpenDocument, "read", kill_first)
    async with service(database, storage):
        await until_read(owner, await submit(owner, storage, patient, letter(5)))
    assert len(started) == 2
    assert reads == dict.fromkeys(range(1, 6), 1)
    assert await owner.fetchval("select count(*) from chartloom.processing_errors") == 0


class FullDisk(LocalStorage):
    """Refuses so many page images, then there is room."""

    refusals = 0

    async def put(self, path: str, chunks: AsyncIterator[bytes]) -> StoredFile:
        if "/pages/" in path and self.refusals > 0:
            self.refusals -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return await super().put(path, chunks)


@pytest.mark.parametrize(("refusals", "patience", "images"), [(3, 60.0, 2), (1_000_000, 0.0, 0)])
async def test_an_image_waits_for_a_full_disk_and_its_page_not_for_ever(
    database: Database,
    owner: asyncpg.Connection,
    patient: Patient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refusals: int,
    patience: float,
    images: int,
) -> None:
    monkeypatch.setattr(keeping, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(keeping, "IMAGE_PATIENCE_SECONDS", patience)
    storage = FullDisk(tmp_path / "storage")
    storage.refusals = refusals
    async with service(database, storage):
        await until_read(owner, await submit(owner, storage, patient, letter(2)))
    pages = await owner.fetch("select text, image_path from ocr_pages order by page")
    assert [row["text"].split()[-1] for row in pages] == ["1.", "2."]
    kept = [row["image_path"] for row in pages if row["image_path"]]
    assert [await storage.stat(path) is not None for path in kept] == [True] * images


async def test_a_short_document_does_not_wait_for_a_long_one(
    database: Database, owner: asyncpg.Connection, patient: Patient, storage: LocalStorage
) -> None:
    await submit(owner, storage, patient, letter(6))
    job = await claim(owner, "ocr")
    payloads = [{**job["payload"], "first_page": number, "last_page": number} for number in range(1, 7)]
    fan_out = "select chartloom.fan_out_job($1, $2, 'ocr_pages', $3, null)"
    await owner.fetch(fan_out, job["job_id"], job["lease_token"], payloads)
    await submit(owner, storage, patient, letter(1))
    async with service(database, storage, concurrency=1):
        await until(owner, "count(*) = 8 from chartloom.job_archive", seconds=90)
    order = await owner.fetch("select job_type from chartloom.job_archive order by completed_at, id")
    assert "ocr" in [row["job_type"] for row in order[1:3]]


# -- documents that stay open ------------------------------------------------------------------------------------------


class CountingStorage(LocalStorage):
    downloads = 0

    async def stream(self, path: str) -> AsyncIterator[bytes]:
        self.downloads += 1
        async for chunk in super().stream(path):
            yield chunk


async def stored(storage: LocalStorage, content: bytes) -> Upload:
    digest = hashlib.sha256(content).hexdigest()
    await storage.put(f"patient/{digest}", once(content))
    return Upload(f"patient/{digest}", digest)


def children() -> set[int]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {int(pid) for pid in found if b"page_process" in Path(f"/proc/{pid}/cmdline").read_bytes()}


async def test_a_document_is_fetched_and_opened_once_for_jobs_that_follow_one_another(tmp_path: Path) -> None:
    storage = CountingStorage(tmp_path)
    upload = await stored(storage, letter(3))
    documents = OpenDocuments(storage=storage, reader=make_reader(), max_bytes=1 << 20, limit=2)
    seen = set()
    for number in (1, 2, 3):
        async with documents.borrow(upload) as document:
            document.is_wanted_again = number < 3
            await document.read(number)
            seen |= children()
    assert children() == set(), "nobody wants it any more"
    async with documents.borrow(upload) as document:
        document.is_wanted_again = True
    async with documents.borrow(upload) as first, documents.borrow(upload) as second:
        assert (await first.open(), await second.open()) == (3, 3)
        seen |= children()
    assert storage.downloads == 2
    assert len(seen) == 3
    await documents.close()
    assert children() == set()


async def test_no_more_documents_are_open_than_may_be(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    documents = OpenDocuments(storage=storage, reader=make_reader(), max_bytes=1 << 20, limit=1)
    for pages in (1, 2, 3):
        async with documents.borrow(await stored(storage, letter(pages))) as document:
            document.is_wanted_again = True
            assert await document.open() == pages
            assert len(children()) == 1
    await documents.close()


async def test_a_document_that_had_to_make_room_is_not_fetched_again(tmp_path: Path) -> None:
    storage = CountingStorage(tmp_path / "storage")
    folder = tmp_path / "open"
    folder.mkdir()
    documents = OpenDocuments(storage=storage, reader=make_reader(), max_bytes=1 << 20, limit=1, folder=folder)
    uploads = [await stored(storage, letter(pages)) for pages in (1, 2)]
    for upload in [*uploads, *uploads]:
        async with documents.borrow(upload) as document:
            document.is_wanted_again = True
            await document.open()
            assert len(children()) == 1
    assert storage.downloads == 2
    await documents.close()
    assert list(folder.iterdir()) == []


async def test_a_file_that_is_too_large_or_another_one_is_refused(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    documents = OpenDocuments(storage=storage, reader=make_reader(), max_bytes=1000, limit=1)
    large = await stored(storage, b"x" * 1001)
    other = (await stored(storage, b"x"))._replace(sha256="0" * 64)
    for announced, code in ((large, "file_too_large"), (other, "checksum_mismatch")):
        with pytest.raises(TerminalError) as caught:
            async with documents.borrow(announced):
                pass
        assert caught.value.code == code


# -- when it is handed out ---------------------------------------------------------------------------------------------


def test_eight_scanned_pages_are_one_job_and_forty_are_forty() -> None:
    pace = Pace()
    pace.add(1.1)
    assert not pace.is_worth_handing_out(7)
    pace.add(30.0)
    assert not pace.is_worth_handing_out(7)
    pace.add(1.1)
    assert pace.is_worth_handing_out(39)
    assert pace.divide(range(2, 41)) == [(n, n) for n in range(2, 41)]


def test_digital_pages_are_read_in_one_go_until_a_scan_shows() -> None:
    pace = Pace()
    for _ in range(50):
        pace.add(0.01)
    assert not pace.is_worth_handing_out(450)
    pace.add(1.2)
    assert pace.is_worth_handing_out(100)


def test_pages_that_were_read_before_lie_between_the_ends_of_a_range() -> None:
    pace = Pace()
    pace.add(0.4)
    assert pace.divide([2, 3, 7, 8, 9]) == [(2, 3), (7, 8), (9, 9)]
