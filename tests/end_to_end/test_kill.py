"""kill -9 of each service in the middle of a document: nothing lost, nothing doubled."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from cli import documents
from cli.deployment import SERVICES, Deployment
from cli.supervisor import Supervisor
from shared.database import connect
from shared.storage import open_storage
from tests.end_to_end.conftest import SAMPLES
from tests.waiting import until_true

LETTER = SAMPLES[0]
ROWS = {
    "ocr_pages": "page, width, height, text, words, text_source",
    "patient_clinical_events": "entity_id, kind, label, text, assertion, subject, attributes, codes, page, char_start",
    "patient_observations": "value_text, value_number, unit, reference_range, flag, observed_on",
    "patient_interventions": "dose, route, frequency, performed_on",
    "clinical_narratives": "narrative",
    "healthcare_timeline_events": "position, event_date, title, fact_key",
    "finding_reviews": "reason, claim, status",
}
"""What a run leaves, ids and times aside."""


@pytest.fixture
async def supervisor(deployment: Deployment) -> AsyncIterator[Supervisor]:
    running = Supervisor(deployment)
    assert running.acquire()
    running.start()
    yield running
    await running.stop()


@pytest.fixture
async def connection(deployment: Deployment) -> AsyncIterator[asyncpg.Connection]:
    async with deployment.owner() as opened:
        yield opened


async def submit(deployment: Deployment, connection: asyncpg.Connection) -> UUID:
    patient = await documents.ensure_patient(connection, None)
    storage = open_storage(deployment.storage_url)
    return (await documents.submit(connection, storage, LETTER, patient)).shell_file_id


async def until_completed(connection: asyncpg.Connection, document: UUID) -> None:
    async with asyncio.timeout(60):
        while (await documents.statuses(connection, [document]))[document] != "completed":
            await asyncio.sleep(0.05)


async def rows_of(connection: asyncpg.Connection, document: UUID) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for table, columns in ROWS.items():
        if table in ("patient_observations", "patient_interventions"):
            source = f"{table} join patient_clinical_events e on e.id = event_id where e.shell_file_id = $1"
        else:
            source = f"{table} where shell_file_id = $1"
        rows: list[Any] = await connection.fetch(f"select {columns} from {source}", document)
        found[table] = sorted(repr(tuple(row.values())) for row in rows)
    return found


HELD_UP_AT = {
    "ocr": "scan_verdicts",
    "ai": "ai_checkpoints",
    "persister": "patient_clinical_events",
    "sweeper": "scan_verdicts",
}
"""The table whose lock holds the service up in the middle of a job: as it reads, or, the persister, in the statement
that writes and completes. The sweeper has no job: it dies together with the one whose job it should have rescued."""
LOST_LEASES = {"ocr": 1, "ai": 1, "persister": 0, "sweeper": 1}
"""What the server was told in one statement it ends without who told it."""


@pytest.mark.parametrize("service", SERVICES)
async def test_a_document_survives_kill_nine_of(
    service: str, deployment: Deployment, supervisor: Supervisor, connection: asyncpg.Connection
) -> None:
    undisturbed = await submit(deployment, connection)
    await until_completed(connection, undisturbed)

    table = HELD_UP_AT[service]
    blocker = await connect(deployment.owner_url, application_name="test")
    gate = blocker.transaction()
    await gate.start()
    await blocker.execute(f"lock table {table} in access exclusive mode")
    document = await submit(deployment, connection)
    await _until_waiting_for(connection, table)
    victims = {service} if service != "sweeper" else {"sweeper", "ocr"}
    killed = {name: supervisor.pids[name] for name in victims}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    await gate.rollback()
    await blocker.close()

    await until_completed(connection, document)
    assert await rows_of(connection, document) == await rows_of(connection, undisturbed)
    jobs = await connection.fetch(
        "select job_type, status, retry_count from chartloom.job_history where shell_file_id = $1 order by id", document
    )
    assert [row["job_type"] for row in jobs] == ["ocr", "ai_detect", "ai_enrich", "ai_narrate", "persist"]
    assert {row["status"] for row in jobs} == {"completed"}
    # A kill is no fault of the job's: it spends a lease, not a retry.
    assert {row["retry_count"] for row in jobs} == {0}
    lost = await connection.fetchval(
        "select count(*) from chartloom.processing_errors where shell_file_id = $1 and kind = 'lease_lost'", document
    )
    assert lost == LOST_LEASES[service]
    await until_true(
        lambda: all(supervisor.pids.get(name, pid) != pid for name, pid in killed.items()), what="new processes"
    )


async def _until_waiting_for(connection: asyncpg.Connection, table: str) -> None:
    """Until a service stands before the lock, in the middle of its job."""
    async with asyncio.timeout(30):
        while not await connection.fetchval(
            "select exists (select from pg_locks where relation = $1::text::regclass and not granted)", table
        ):
            await asyncio.sleep(0.005)
