"""The last look before rows are written: each quote on its page, and the document the patient's own."""

import logging
from collections.abc import AsyncIterator
from datetime import date

import asyncpg
import pytest

from services.persister.handler import PersistHandler
from services.persister.rows import ClinicalRows
from shared.contract.findings import Detection, Engine, Enrichment, Entity, Narration, Source
from shared.contract.payloads import DocumentPayload
from shared.database import open_pool
from shared.errors import TerminalError
from shared.jobs import claim_jobs
from tests.conftest import Database, Patient
from tests.pipeline import STEPS, claim, page
from tests.users import upload

TEXT = "Patient: Bridget Kelly   DOB: 04/06/1988\nDiagnosis: gout."
ENGINE = Engine(provider="p", model="m", prompt_version="1", schema_version="1")


def gout(*, start: int = TEXT.index("gout")) -> Entity:
    source = Source(page=1, start=start, end=start + 4, quote="gout", boxes=())
    return Entity(id="e1", kind="event", label="disease", text="gout", source=source, alignment="exact")


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    opened = await open_pool(database.url("chartloom_persister"), size=2, application_name="test")
    yield opened
    opened.terminate()


async def shaped(
    database: Database, owner: asyncpg.Connection, patient: Patient, pool: asyncpg.Pool, *entities: Entity
) -> ClinicalRows:
    """What the persister makes of a document with this text and these entities."""
    await upload(owner, patient.user_id, patient.profile_id)
    results = {
        "ai_detect": Detection(engine=ENGINE, findings=()),
        "ai_enrich": Enrichment(engine=ENGINE, document_date=None, entities=entities),
        "ai_narrate": Narration(engine=ENGINE, sentences=(), timeline=()),
    }
    for job_type in ("ocr", *results):
        worker = await database.connect(STEPS[job_type])
        job = await claim(worker, job_type)
        lease = (job["job_id"], job["lease_token"])
        if job_type == "ocr":
            await worker.fetchval("select chartloom.save_ocr_pages($1, $2, $3)", *lease, [page(TEXT)])
        else:
            result = results[job_type].model_dump(mode="json")
            await worker.execute(
                "select chartloom.save_ai_pass($1, $2, $3, $4)", *lease, job_type.removeprefix("ai_"), result
            )
        await worker.execute("select chartloom.complete_job($1, $2)", *lease)
        await worker.close()
    (claimed,) = await claim_jobs(pool, worker_id="t", job_types=["persist"], limit=1, lease_seconds=60)
    return await PersistHandler(pool=pool).shape_rows(claimed, DocumentPayload.model_validate(claimed.payload))


async def test_a_profile_that_the_document_contradicts_holds_it_and_stays_unsaid(
    database: Database,
    owner: asyncpg.Connection,
    patient: Patient,
    pool: asyncpg.Pool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await owner.execute("update user_profiles set display_name = 'Agnes Tolley', birth_date = $1", date(1950, 3, 12))
    with caplog.at_level(logging.DEBUG):
        rows = await shaped(database, owner, patient, pool, gout())
    (review,) = rows["finding_reviews"]
    assert review["reason"] == "other_person"
    said = [(one["field"], one["quote"]) for one in review["claim"]["contradictions"]]
    assert said == [("name", "Bridget Kelly"), ("birth_date", "04/06/1988")]
    assert "Tolley" not in str(rows) + caplog.text
    assert "1950" not in str(rows) + caplog.text


async def test_a_quote_that_is_not_on_its_page_is_never_written(
    database: Database, owner: asyncpg.Connection, patient: Patient, pool: asyncpg.Pool
) -> None:
    with pytest.raises(TerminalError) as refused:
        await shaped(database, owner, patient, pool, gout(start=0))
    assert refused.value.code == "finding_not_on_page"
    assert "gout" not in refused.value.message
