"""Hostile files through the real service: each ends, with a reason, within its limits, and nothing else suffers."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args
from uuid import UUID

import asyncpg
import pytest

from services.ocr.limits import MIB, ReaderLimits
from services.ocr.refusal import RefusalCode
from tests.conftest import Database, Patient
from tests.fleet import Fleet, fleet
from tests.memory import MemoryWatch
from tests.users import as_user
from tests.waiting import until

from .others import OTHERS
from .pdf_writer import one_page
from .pdfs import PDFS

FILES = {**PDFS, **OTHERS}
NAMES = ("letter.pdf", "\u202egnp.exe", "病歴 № 7.pdf", "a\tb\nc.pdf", "../../etc/passwd", "x" * 251 + ".pdf")
"""What users call them: no part of a path, and nothing that breaks."""

SCAN_SECONDS = 10
PAGE_SECONDS = 8
LONGEST_SECONDS = SCAN_SECONDS + 3 * PAGE_SECONDS + 10
"""Of an attempt: the scan, opening, a page that is read and one that takes too long; and starting two children."""
TOGETHER_SECONDS = 600

ENDS: dict[str, str] = {
    # Some whose end is known, by the code or "completed"; of the others it is enough that they have one.
    "100 000 pages": "file_too_long",
    "2 000 000 000 pages in one": "file_too_long",
    "510 000 objects": "file_too_complex",
    "a wall of text": "page_too_dense",
    "a text of half a million words": "page_too_dense",
    "a password": "file_encrypted",
    "JavaScript by escaped names": "completed",
    "a launch": "file_has_active_content",
    "a launch in an object stream, by escaped names": "file_has_active_content",
    "a launch as what comes next": "file_has_active_content",
    "an embedded EICAR": "file_has_active_content",
    "PNG of 3 600 000 000 pixels": "page_too_large",
    "TIFF of 10 000 frames": "file_too_long",
    "nothing": "file_empty",
    "ZIP": "file_type_unknown",
    "GIF": "file_type_unknown",
    "EICAR": "completed",
}

ENDED = """
select shell_file_id, status, error ->> 'code' as code, retry_count, lease_losses,
    extract(epoch from coalesce(completed_at, now()) - started_at)::float as seconds
from chartloom.job_history where job_type = 'ocr'
"""


@pytest.fixture
async def service(database: Database, tmp_path: Path) -> AsyncIterator[Fleet]:
    settings = {
        "STORAGE_URL": f"file://{tmp_path}/storage",
        "OCR_SCAN_SECONDS": str(SCAN_SECONDS),
        "OCR_PAGE_SECONDS": str(PAGE_SECONDS),
        # As on an instance of 512 MB.
        "OCR_PAGE_MEMORY_MEGABYTES": str(ReaderLimits().memory_bytes // MIB),
        "WORKER_CONCURRENCY": "2",
        "LEASE_SECONDS": "60",
    }
    async with fleet(database, tmp_path, settings, services=["ocr"]) as started:
        yield started


def say(line: str) -> None:
    """For who looks on, with ``pytest -s``."""
    print(line, flush=True)


async def upload(owner: asyncpg.Connection, patient: Patient, storage: Path, name: str, content: bytes) -> UUID:
    created = await as_user(
        owner,
        patient.user_id,
        "select create_upload($1, $2, $3, $4)",
        patient.profile_id,
        name,
        hashlib.sha256(content).hexdigest(),
        len(content),
    )
    path = storage / created["storage_path"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    await as_user(owner, patient.user_id, "select complete_upload($1)", UUID(created["shell_file_id"]))
    return UUID(created["shell_file_id"])


@pytest.mark.slow
@pytest.mark.timeout(TOGETHER_SECONDS + 60)
async def test_every_hostile_file_ends_with_a_reason_and_the_good_one_behind_them_completes(
    owner: asyncpg.Connection, patient: Patient, tmp_path: Path, service: Fleet
) -> None:
    names = {}
    # Each is written just before it is uploaded: together they are 80 MB.
    for number, (name, make) in enumerate(FILES.items()):
        called = NAMES[number % len(NAMES)]
        names[await upload(owner, patient, tmp_path / "storage", called, make())] = name
    good = await upload(owner, patient, tmp_path / "storage", "letter.pdf", one_page())
    assert len(names) == len(FILES) >= 60
    (worker,) = service.instances
    with MemoryWatch(worker.process.pid) as memory:
        await until(
            owner,
            "not exists (select from chartloom.job_queue where job_type = 'ocr' and status <> 'dead_letter')",
            seconds=TOGETHER_SECONDS,
        )
    assert worker.process.returncode is None
    rows = {row["shell_file_id"]: row for row in await owner.fetch(ENDED)}
    assert rows[good]["status"] == "completed"
    ends = {name: rows[file]["code"] or rows[file]["status"] for file, name in names.items()}
    say(f"{len(FILES)} files, together {memory.together // MIB} MB, largest child {memory.largest_child // MIB} MB")
    for file, name in names.items():
        say(f"{rows[file]['seconds']:6.1f} s  {ends[name]:24} {name}")
    assert {end for end in ends.values() if end not in ("completed", *get_args(RefusalCode))} == set()
    assert {name: end for name, end in ends.items() if end != ENDS.get(name, end)} == {}
    for row in rows.values():
        assert (row["retry_count"], row["lease_losses"]) == (0, 0)
        assert row["seconds"] < LONGEST_SECONDS, names.get(row["shell_file_id"])
    quarantined = await owner.fetch("select id, storage_path from shell_files where status = 'quarantined'")
    assert {names[row["id"]] for row in quarantined} == {
        name for name, end in ends.items() if end in ("file_infected", "file_has_active_content")
    }
    for row in quarantined:
        assert (tmp_path / "storage" / row["storage_path"]).is_file()
    assert await owner.fetchval("select count(*) from scan_verdicts") == len(FILES) + 1
    assert memory.largest_child <= ReaderLimits().memory_bytes
