"""Forty scanned pages, while page readers, workers and Postgres are killed: each is there once, never read again."""

import asyncio
import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from cli.embedded_postgres import EmbeddedPostgres
from services.ocr.page_process import NAME
from shared.database import connect
from shared.storage import open_storage
from tests.conftest import OWNER, TEMPLATE, Database
from tests.fleet import Fleet, fleet
from tests.letters import DIAGNOSES, MEDICINES, SYMPTOMS
from tests.memory import family
from tests.users import upload
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PAGES = 40
READ = "(select count(*) from ocr_pages) >= $1"


def scan(path: Path) -> None:
    """Image-only pages, each with its number: small, since what counts here is who reads them."""
    pages = []
    for number in range(PAGES):
        page = Image.new("L", (1240, 1754), 255)
        lines = [f"Page number {number + 1}", f"Diagnosis: {DIAGNOSES[number % 7]}", f"Symptom: {SYMPTOMS[number % 6]}"]
        lines += [f"The patient takes {MEDICINES[(number + line) % 7]} every day" for line in range(4)]
        for line, words in enumerate(lines):
            ImageDraw.Draw(page).text((120, 120 + 60 * line), words, font_size=34, fill=0)
        pages.append(page)
    pages[0].save(path, "PDF", save_all=True, append_images=pages[1:], resolution=150)


def page_readers(worker: int) -> list[int]:
    """The processes under a worker that read pages at this moment."""
    found = []
    for pid in family(worker):
        with contextlib.suppress(OSError):  # it ended
            if Path(f"/proc/{pid}/comm").read_text().strip() == NAME:
                found.append(pid)
    return found


async def kill_a_page_reader(services: Fleet) -> None:
    async with asyncio.timeout(240):
        while True:
            for instance in services.instances:
                if instance.service == "ocr" and (readers := page_readers(instance.process.pid)):
                    os.kill(readers[0], signal.SIGKILL)
                    return
            await asyncio.sleep(0.01)


def pages_read(logs: Path) -> list[tuple[int, datetime]]:
    """Every recognition that any process finished: the page, and when it was begun."""
    found = []
    for log in logs.glob("ocr-*.log"):
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            if entry["event"] == "page_read":
                ended = datetime.fromisoformat(entry["timestamp"])
                found.append((entry["page"], ended - timedelta(seconds=entry["seconds"])))
    return found


async def test_forty_pages_survive_kills_and_no_finished_page_is_read_again(
    own_server: EmbeddedPostgres,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    admin_url = own_server.ensure_started().admin_url
    database = Database(admin_url, "pages")
    admin = await connect(admin_url, application_name="test")
    await admin.execute(f"create database {database.name} template {TEMPLATE} owner {OWNER}")
    # A copy's sequences count on WAL that only the original has: without it, a crash makes them give out again.
    await admin.execute("checkpoint")
    await admin.close()
    owner = await database.connect()
    user, patient = [await owner.fetchval("select gen_random_uuid()") for _ in range(2)]
    await owner.execute("insert into user_profiles (id, owner_user_id) values ($1, $2)", patient, user)
    file = tmp_path / "scan.pdf"
    await asyncio.to_thread(scan, file)
    settings = {
        "STORAGE_URL": (tmp_path / "storage").as_uri(),
        "LOG_LEVEL": "debug",
        "WORKER_CONCURRENCY": "1",
        # Long enough for a busy machine: a lease that is lost for want of a core is no kill of ours.
        "LEASE_SECONDS": "15",
    }
    document = await upload(owner, user, patient, file.read_bytes())

    async def content():  # type: ignore[no-untyped-def]
        yield file.read_bytes()

    path = await owner.fetchval("select storage_path from shell_files")
    await open_storage(settings["STORAGE_URL"]).put(path, content())
    kills = Counter[str]()
    async with fleet(database, tmp_path, settings, services=("ocr", "sweeper")) as services:
        await services.start(("ocr",), 1)
        workers = [instance for instance in services.instances if instance.service == "ocr"]
        await until(owner, READ, 3, seconds=240)
        await kill_a_page_reader(services)
        kills["page readers"] += 1
        await until(owner, READ, 10, seconds=240)
        await services.kill(workers[0])
        kills["workers"] += 1
        await until(owner, READ, 18, seconds=240)
        data = own_server.ensure_started().data_directory
        os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        kills["Postgres"] += 1
        owner.terminate()
        await asyncio.to_thread(own_server.ensure_started)
        owner = await database.connect()
        await until(owner, READ, 26, seconds=240)
        for worker in workers:
            await services.kill(worker)
            kills["workers"] += 1
        await until(owner, "exists (select from chartloom.job_queue where job_type = 'ai_detect')", seconds=240)
        assert await services.stop() is not None

    reads = pages_read(tmp_path)
    kept = {row["page"]: row["created_at"] for row in await owner.fetch("select page, created_at from ocr_pages")}
    lost = await owner.fetchval("select count(*) from chartloom.processing_errors where kind = 'lease_lost'")
    figures = {
        "pages": len(kept),
        "recognitions": len(reads),
        "read again after they were kept": sum(began > kept[page] for page, began in reads),
        "page readers killed": kills["page readers"],
        "workers killed": kills["workers"],
        "times Postgres was killed": kills["Postgres"],
        "leases lost": lost,
        "jobs": await owner.fetchval("select count(*) from chartloom.job_archive where job_type like 'ocr%'"),
    }
    for name, value in figures.items():
        record_property(name, value)
    with capsys.disabled():
        print("\n" + "\n".join(f"  {value:5} {name}" for name, value in figures.items()))
    assert sorted(kept) == list(range(1, PAGES + 1))
    assert figures["read again after they were kept"] == 0
    # What was in hand at a kill, and was not finished, is all that may be read twice.
    assert len(reads) <= PAGES + kills["workers"] + 2 * kills["Postgres"]
    assert await owner.fetchval("select count(*) from chartloom.job_queue where job_type = 'ai_detect'") == 1
    assert await owner.fetchval("select status from shell_files where id = $1", document) == "processing"
    assert await owner.fetchval("select count(*) from chartloom.job_queue where status = 'dead_letter'") == 0
    texts = await owner.fetch("select page, text from ocr_pages")
    assert all(f"number {row['page']}" in row["text"] for row in texts)
    await owner.close()
