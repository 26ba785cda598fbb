"""Supabase Storage over HTTP: what it answers becomes what the interface promises, and each refusal its typed error."""

import tracemalloc
from collections.abc import AsyncIterator

import aiohttp
import asyncpg
import pytest

from shared.errors import BusyError, ChartloomError, TerminalError, TransientError
from shared.storage import Storage, once, open_storage
from tests.conftest import Database, Patient
from tests.fakes import storage_server
from tests.fakes.storage_server import BUCKET, KEY, FakeStorage, Fault
from tests.service.ocr_documents import LETTER, pdf, text
from tests.service.ocr_service import service, submit, until_read


@pytest.fixture
async def server() -> AsyncIterator[FakeStorage]:
    async with FakeStorage().serving() as serving:
        yield serving


@pytest.fixture
async def storage(server: FakeStorage) -> AsyncIterator[Storage]:
    opened = open_storage(server.url, key=KEY, bucket=BUCKET)
    yield opened
    await opened.close()


async def content(storage: Storage, path: str) -> bytes:
    return b"".join([chunk async for chunk in storage.stream(path)])


async def test_a_file_comes_back_as_it_was_put_and_the_same_path_again_replaces_it(storage: Storage) -> None:
    for words in (b"one", b"another"):
        stored = await storage.put("patient/file", once(words))
        assert stored.size_bytes == len(words)
        assert await storage.stat("patient/file") == stored
        assert await content(storage, "patient/file") == words
    for _ in range(2):
        await storage.delete("patient/file")
    assert await storage.stat("patient/file") is None


async def test_every_file_is_listed_however_many_and_deep_and_a_prefix_goes_whole(
    server: FakeStorage, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.supabase_storage.PAGE", 3)
    paths = {f"a/{number}" for number in range(7)} | {"a/pages/run/1.jpg", "ab/1"}
    for path in paths:
        server.files[path] = storage_server.Stored(b"12", "text/plain")
    assert {file.path async for file in storage.list("")} == paths
    assert {file.size_bytes async for file in storage.list("a")} == {2}
    await storage.delete_all("a")
    assert set(server.files) == {"ab/1"}
    with pytest.raises(TerminalError, match="leaves the storage folder"):
        await storage.delete_all("")


async def test_a_client_without_a_key_puts_the_one_file_that_its_url_is_for(
    server: FakeStorage, storage: Storage
) -> None:
    url = await storage.upload_url("patient/file")
    assert url is not None
    async with aiohttp.ClientSession() as session:
        for target, status in ((url, 200), (url.replace("patient/file", "patient/other"), 400)):
            form = aiohttp.FormData()
            form.add_field("file", b"bytes", content_type="application/pdf", filename="file")
            async with session.put(target, data=form) as response:
                assert response.status == status
    assert {path: file.content for path, file in server.files.items()} == {"patient/file": b"bytes"}


async def test_a_missing_file_says_what_to_do(storage: Storage) -> None:
    with pytest.raises(TerminalError, match="upload it again") as caught:
        await content(storage, "not/there")
    assert caught.value.code == "stored_file_missing"


@pytest.mark.parametrize(
    ("fault", "kind", "code"),
    [
        (Fault(status=500), TransientError, "storage_failed"),
        (Fault(status=503), TransientError, "storage_failed"),
        (Fault(cut_after=10), TransientError, "storage_unreachable"),
        (Fault(status=429), BusyError, "storage_busy"),
        (Fault(status=403), BusyError, "storage_forbidden"),
        (Fault(status=400), TerminalError, "storage_refused"),
    ],
)
async def test_what_goes_wrong_in_a_download_is_typed_and_quotes_nothing(
    server: FakeStorage, storage: Storage, fault: Fault, kind: type[ChartloomError], code: str
) -> None:
    server.files["patient/file"] = storage_server.Stored(b"x" * 1000, "application/pdf")
    server.faults.append(fault)
    with pytest.raises(kind) as caught:
        await content(storage, "patient/file")
    assert caught.value.code == code
    assert "patient" not in caught.value.message
    assert len(await content(storage, "patient/file")) == 1000


async def test_what_storage_takes_no_file_of_is_terminal(server: FakeStorage, storage: Storage) -> None:
    with pytest.raises(TerminalError) as caught:
        await storage.put("a/b", once(b"x" * (storage_server.MAX_BYTES + 1)))
    assert caught.value.code == "file_too_large"
    server.allowed_types = {"application/pdf"}
    with pytest.raises(TerminalError) as caught:
        await storage.put("a/b", once(b"x"))
    assert caught.value.code == "file_type_refused"
    assert server.files == {}


async def test_whoever_comes_second_with_the_same_bytes_has_put_them(server: FakeStorage, storage: Storage) -> None:
    server.files["a/b"] = storage_server.Stored(b"same", "text/plain")
    server.faults.append(Fault(status=409))
    assert (await storage.put("a/b", once(b"same"))).size_bytes == 4


async def test_a_wrong_key_is_patience_since_it_refuses_the_service_and_no_file(server: FakeStorage) -> None:
    stranger = open_storage(server.url, key="wrong", bucket=BUCKET)
    with pytest.raises(BusyError, match="SUPABASE_SERVICE_ROLE_KEY"):
        await stranger.stat("a/b")
    await stranger.close()


async def test_a_download_is_never_whole_in_memory(server: FakeStorage, storage: Storage) -> None:
    server.files["a/b"] = storage_server.Stored(bytes(20 << 20), "application/pdf")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    size = 0
    async for chunk in storage.stream("a/b"):
        size += len(chunk)
        assert tracemalloc.get_traced_memory()[0] - before < 8 << 20
    tracemalloc.stop()
    assert size == 20 << 20


async def test_a_document_is_read_from_there_and_its_images_are_put_there(
    server: FakeStorage, storage: Storage, database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    await owner.execute("update chartloom.job_types set backoff_base_seconds = 0.01")
    document = await submit(owner, storage, patient, pdf(text(LETTER), text(LETTER)))
    server.faults = [Fault(status=503), Fault(cut_after=100)]
    async with service(database, storage):
        await until_read(owner, document)
    images = await owner.fetch("select image_path from ocr_pages order by page")
    assert [server.files[row["image_path"]].mime_type for row in images] == ["image/jpeg"] * 2
    codes = await owner.fetch("select code from chartloom.processing_errors order by id")
    assert [row["code"] for row in codes] == ["storage_failed", "storage_unreachable"]
