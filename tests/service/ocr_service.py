"""The OCR service in the test's own process, wired as its ``__main__`` does."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import asyncpg

from services.ocr.forked import ForkServer
from services.ocr.handler import OcrHandler
from services.ocr.open_documents import KeptDocument, OpenDocuments
from services.ocr.reader import DocumentReader, ReaderLimits
from services.ocr.sandbox import Sandbox
from services.ocr.scan.policy import DEFAULT_POLICY
from services.ocr.scan.scanner import Scanner
from shared.database import open_pool
from shared.listener import Listener
from shared.settings import ServiceSettings
from shared.storage import Storage, once
from shared.worker import Worker
from tests.conftest import Database, Patient
from tests.users import upload
from tests.waiting import until


def make_reader(
    limits: ReaderLimits | None = None, sandbox: Sandbox | None = None, fork_server: ForkServer | None = None
) -> DocumentReader:
    return DocumentReader(
        renderer="pypdfium2",
        engine="tesserocr",
        limits=limits or ReaderLimits(),
        tesseract_command=None,
        sandbox=sandbox,
        with_images=True,
        fork_server=fork_server,
    )


@asynccontextmanager
async def inspectable(path: Path, limits: ReaderLimits | None = None) -> AsyncIterator[KeptDocument]:
    """A file that the scanner can be asked about."""
    document = KeptDocument(make_reader(limits, Sandbox("builtin")), path)
    try:
        yield document
    finally:
        await document.close()


@asynccontextmanager
async def service(
    database: Database, storage: Storage, *, concurrency: int = 2, reader: DocumentReader | None = None
) -> AsyncIterator[Worker]:
    """Claims jobs until the block ends."""
    url = database.url("chartloom_ocr")
    settings = ServiceSettings(database_url=url, worker_id="ocr", worker_concurrency=concurrency, poll_seconds=0.2)
    pool = await open_pool(url, size=4, application_name="ocr under test")
    folder = TemporaryDirectory(prefix="chartloom-ocr-test-")
    fork_server = Sandbox("auto").fork_server(Path(folder.name), engine="tesserocr")
    documents = OpenDocuments(
        storage=storage,
        reader=reader or make_reader(fork_server=fork_server),
        max_bytes=1 << 20,
        limit=concurrency,
        folder=Path(folder.name),
    )
    scanner = Scanner(policy=dict(DEFAULT_POLICY), antivirus=None)
    handlers = OcrHandler(pool=pool, storage=storage, documents=documents, scanner=scanner).handlers()
    topics = [handler.job_type for handler in handlers]
    listener = Listener(listen_url=url, pool=pool, topics=topics, application_name="ocr under test")
    worker = Worker(
        service="ocr",
        version="test",
        settings=settings,
        pool=pool,
        listener=listener,
        handlers={handler.job_type: handler for handler in handlers},
        details={},
        take_turns=True,
    )
    tasks = [asyncio.create_task(worker.run()), asyncio.create_task(listener.run())]
    try:
        yield worker
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await documents.close()
        if fork_server is not None:
            await fork_server.close()
        folder.cleanup()
        pool.terminate()


async def submit(owner: asyncpg.Connection, storage: Storage, patient: Patient, content: bytes) -> UUID:
    path = f"{patient.profile_id}/{hashlib.sha256(content).hexdigest()}"
    await storage.put(path, once(content))
    return await upload(owner, patient.user_id, patient.profile_id, content)


async def until_read(owner: asyncpg.Connection, document: UUID) -> None:
    condition = "exists (select from chartloom.job_queue where shell_file_id = $1 and job_type = 'ai_detect')"
    await until(owner, condition, document, seconds=90)
