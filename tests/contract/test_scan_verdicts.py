"""The verdict on a file is a row, and a file in quarantine is neither read again nor lost."""

from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.conftest import Database, Patient
from tests.pipeline import claim
from tests.users import as_user, upload

HELD = "file_has_active_content"


def verdict(decision: str = "quarantine", reason: str | None = HELD) -> dict[str, Any]:
    return {
        "decision": decision,
        "reason": reason,
        "file_kind": "pdf",
        "pages": 2,
        "is_encrypted": False,
        "findings": [{"kind": "launch", "count": 1, "action": "quarantine"}],
        "antivirus": {"status": "not_scanned", "signature": None, "engine": None},
    }


@pytest.fixture
async def document(owner: asyncpg.Connection, patient: Patient) -> UUID:
    return await upload(owner, patient.user_id, patient.profile_id)


async def judge(database: Database, said: dict[str, Any], *, code: str | None) -> int:
    """As the OCR service does: the verdict first, then, where there is an objection, the end of the job."""
    worker = await database.connect("chartloom_ocr")
    job = await claim(worker, "ocr")
    lease = (job["job_id"], job["lease_token"])
    await worker.execute("select chartloom.save_scan_verdict($1, $2, $3)", *lease, said)
    if code:
        await worker.execute("select chartloom.fail_job($1, $2, $3, 'advice', false)", *lease, code)
    await worker.close()
    job_id: int = job["job_id"]
    return job_id


async def status_of(owner: asyncpg.Connection, document: UUID) -> tuple[str, str | None]:
    row = await owner.fetchrow(
        "select status, processing_error ->> 'code' as code from shell_files where id = $1", document
    )
    assert row is not None
    return row["status"], row["code"]


async def test_a_file_that_the_verdict_holds_back_ends_in_quarantine(
    database: Database, owner: asyncpg.Connection, document: UUID
) -> None:
    await judge(database, verdict(), code=HELD)
    assert await status_of(owner, document) == ("quarantined", HELD)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (verdict("refuse", "file_corrupt"), "file_corrupt"),
        (verdict("flag", None), "page_timed_out"),
        (verdict(), "page_timed_out"),
    ],
)
async def test_every_other_end_is_a_failure(
    database: Database, owner: asyncpg.Connection, document: UUID, said: dict[str, Any], code: str
) -> None:
    await judge(database, said, code=code)
    assert await status_of(owner, document) == ("failed", code)


async def test_the_same_bytes_again_stay_in_quarantine(
    database: Database, owner: asyncpg.Connection, patient: Patient, document: UUID
) -> None:
    await judge(database, verdict(), code=HELD)
    assert await upload(owner, patient.user_id, patient.profile_id) == document
    assert await status_of(owner, document) == ("quarantined", HELD)
    assert await owner.fetchval("select count(*) from chartloom.job_queue where status <> 'dead_letter'") == 0


async def test_an_operator_may_have_it_scanned_anew(
    database: Database, owner: asyncpg.Connection, document: UUID
) -> None:
    job_id = await judge(database, verdict(), code=HELD)
    assert await owner.fetchval("select chartloom.redrive_jobs(array[$1::bigint])", job_id) == job_id
    assert await status_of(owner, document) == ("processing", None)
    await judge(database, verdict("flag", None), code=None)
    rows = await owner.fetch("select decision from scan_verdicts where shell_file_id = $1", document)
    assert [row["decision"] for row in rows] == ["flag"]


async def test_the_owner_and_operators_see_the_verdict(
    database: Database, owner: asyncpg.Connection, patient: Patient, document: UUID
) -> None:
    await judge(database, verdict(), code=HELD)
    assert await as_user(owner, patient.user_id, "select reason from scan_verdicts") == HELD
    assert await as_user(owner, document, "select count(*) from scan_verdicts") == 0


async def test_only_the_holder_of_the_lease_writes_a_verdict(database: Database, document: UUID) -> None:
    worker = await database.connect("chartloom_ocr")
    job = await claim(worker, "ocr")
    with pytest.raises(asyncpg.PostgresError) as refused:
        await worker.execute("select chartloom.save_scan_verdict($1, $2, $3)", job["job_id"], document, verdict())
    assert refused.value.sqlstate == "CL001"
    await worker.close()


async def test_the_service_learns_of_a_name_only_its_ending(database: Database, document: UUID) -> None:
    worker = await database.connect("chartloom_ocr")
    job = await claim(worker, "ocr")
    announced = await worker.fetchrow(
        "select * from chartloom.read_announced_type($1, $2)", job["job_id"], job["lease_token"]
    )
    assert tuple(announced) == ("pdf", None)
    await worker.close()
