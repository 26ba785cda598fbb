"""Google Cloud Vision over its REST wire: the same shape as any engine's, and each failure its typed error."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
from PIL import Image, ImageDraw

from services.ocr.google_vision import GoogleVision
from services.ocr.rate_limit import RateLimited
from services.ocr.reader import DocumentReader, ReaderLimits
from shared.database import open_pool
from shared.errors import BusyError, ChartloomError, ConfigurationError, TerminalError, TransientError
from shared.storage import LocalStorage
from tests.conftest import Database, Patient
from tests.fakes.vision_server import EOL, HYPHEN, KEY, LINE_BREAK, FakeVision, Fault, Seen
from tests.service.ocr_service import service, submit, until_read

JPEG = b"\xff\xd8\xff of a page"


@pytest.fixture
async def server() -> AsyncIterator[FakeVision]:
    async with FakeVision().serving() as serving:
        yield serving


def engine(server: FakeVision, key: str = KEY) -> GoogleVision:
    return GoogleVision(api_key=key, credentials_file=None, endpoint=server.url)


async def test_what_has_no_space_between_is_one_word_and_lines_end_where_they_do(server: FakeVision) -> None:
    server.paragraphs = [
        [
            Seen("Haemoglobin", (0, 0, 90, 20)),
            Seen("104", (100, 0, 130, 20)),
            Seen("g", (140, 0, 150, 20), None, 0.9),
            Seen("/", (150, 0, 155, 20), None, 0.8),
            Seen("L", (155, 0, 165, 22), EOL),
            Seen("haemo", (0, 30, 50, 50), HYPHEN),
            Seen("lysis", (0, 60, 50, 80), LINE_BREAK),
        ],
        [Seen("Next", (0, 100, 40, 120), LINE_BREAK)],
    ]
    blocks = await engine(server).recognise(JPEG)
    assert [[[word.text for word in line] for line in block] for block in blocks] == [
        [["Haemoglobin", "104", "g/L"], ["haemo-"], ["lysis"]],
        [["Next"]],
    ]
    unit = blocks[0][0][2]
    assert unit.box == (140, 0, 165, 22)
    assert unit.confidence == pytest.approx(0.8)
    assert blocks[0][0][0].box == (0, 0, 90, 20)
    assert server.images == [JPEG]
    (feature,) = server.features[0]
    assert feature["type"] in (11, "DOCUMENT_TEXT_DETECTION")


async def test_a_page_without_words_is_empty(server: FakeVision) -> None:
    assert await engine(server).recognise(JPEG) == []


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (Fault(status=429, reason="RESOURCE_EXHAUSTED"), BusyError, "engine_rate_limited"),
        (Fault(image_error=8), BusyError, "engine_rate_limited"),
        (Fault(status=500, reason="INTERNAL"), TransientError, "engine_unavailable"),
        (Fault(status=503), TransientError, "engine_unavailable"),
        (Fault(image_error=14), TransientError, "engine_unavailable"),
        (Fault(cut=True), TransientError, "engine_unreachable"),
        (Fault(status=403, reason="PERMISSION_DENIED"), TerminalError, "engine_access_denied"),
        (Fault(status=400, reason="INVALID_ARGUMENT"), TerminalError, "engine_request_refused"),
        (Fault(image_error=3), TerminalError, "engine_request_refused"),
    ],
)
async def test_a_failure_is_typed_and_quotes_nothing(
    server: FakeVision, fault: Fault, kind: type[ChartloomError], code: str
) -> None:
    server.faults = [fault]
    with pytest.raises(kind) as caught:
        await engine(server).recognise(JPEG)
    assert caught.value.code == code
    assert "patient" not in caught.value.message
    assert len(server.images) == 1, "retries belong to the queue"


async def test_it_waits_for_as_long_as_it_is_told(server: FakeVision) -> None:
    server.faults = [Fault(status=429, reason="RESOURCE_EXHAUSTED", headers={"Retry-After": "7"})]
    with pytest.raises(BusyError) as caught:
        await engine(server).recognise(JPEG)
    assert caught.value.retry_after.total_seconds() == 7


async def test_one_refusal_for_want_of_quota_parks_all_instances(server: FakeVision, database: Database) -> None:
    server.faults = [Fault(status=429, reason="RESOURCE_EXHAUSTED", headers={"Retry-After": "20"})]
    pool = await open_pool(database.url("chartloom_ocr"), size=2, application_name="test")
    for _ in range(2):
        with pytest.raises(BusyError) as caught:
            await RateLimited(engine(server), pool=pool, key="google").recognise(JPEG)
        assert 15 < caught.value.retry_after.total_seconds() <= 60
    assert len(server.images) == 1
    await pool.close()


async def test_without_a_key_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="GOOGLE_CLOUD_API_KEY"):
        GoogleVision(api_key=None, credentials_file=None, endpoint=None)
    with pytest.raises(ConfigurationError, match="no service account's key file"):
        GoogleVision(api_key=None, credentials_file=str(tmp_path / "none.json"), endpoint=None)


async def test_the_child_sends_pixels_and_the_page_is_as_any_engines(server: FakeVision, tmp_path: Path) -> None:
    page = Image.new("L", (800, 400), 255)
    ImageDraw.Draw(page).text((100, 100), "no fever", font_size=40, fill=0)
    path = tmp_path / "page.png"
    page.save(path, dpi=(300, 300))
    server.paragraphs = [[Seen("no", (100, 100, 150, 140)), Seen("fever", (160, 100, 260, 140), LINE_BREAK)]]
    reader = DocumentReader(
        renderer="pypdfium2",
        engine="google",
        limits=ReaderLimits(),
        tesseract_command=None,
        remote=engine(server),
    )
    (read,) = await reader.read(path)
    assert (read.text, read.engine, read.engine_version) == ("no fever", "google", "v1 builtin/stable")
    assert (read.width, read.height) == (800, 400)


async def test_want_of_quota_in_the_middle_costs_no_attempt_and_no_page_is_paid_for_twice(
    server: FakeVision, database: Database, owner: asyncpg.Connection, patient: Patient, tmp_path: Path
) -> None:
    pages = [Image.new("L", (800, 400), 255) for _ in range(3)]
    for page in pages:
        ImageDraw.Draw(page).text((100, 100), "no fever", font_size=40, fill=0)
    pages[0].save(tmp_path / "scan.tiff", save_all=True, append_images=pages[1:], dpi=(300, 300))
    content = (tmp_path / "scan.tiff").read_bytes()
    server.paragraphs = [[Seen("no", (100, 100, 150, 140)), Seen("fever", (160, 100, 260, 140), LINE_BREAK)]]
    server.faults = [Fault(), Fault(status=429, reason="RESOURCE_EXHAUSTED", headers={"Retry-After": "1"})]
    reader = DocumentReader(
        renderer="pypdfium2",
        engine="google",
        limits=ReaderLimits(),
        tesseract_command=None,
        remote=engine(server),
    )
    storage = LocalStorage(tmp_path / "storage")
    async with service(database, storage, reader=reader):
        await until_read(owner, await submit(owner, storage, patient, content))
    assert len(server.images) == 4, "three pages and the refusal"
    assert await owner.fetchval("select array_agg(page order by page) from ocr_pages") == [1, 2, 3]
    (snoozed,) = await owner.fetch("select kind, code from chartloom.processing_errors")
    assert (snoozed["kind"], snoozed["code"]) == ("snoozed", "engine_rate_limited")
    assert await owner.fetchval("select retry_count + lease_losses from chartloom.job_archive") == 0
    assert server.images[0].startswith(b"\xff\xd8\xff")
