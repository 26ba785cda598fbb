"""What may be somebody else's, what OCR doubts, what a model passed over: it waits. And runs again, and beside."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.persister.identity import Contradiction
from services.persister.rows import clinical_rows
from shared.contract.findings import (
    Attribute,
    Detection,
    Engine,
    Enrichment,
    Entity,
    Finding,
    Link,
    Narration,
    Sentence,
    Source,
    TimelineEntry,
)
from tests.conftest import Database, Patient
from tests.pipeline import persist_again, persist_document
from tests.users import as_user

TEXT = "Patient: Bridget Kelly. Potassium 5.9 mmol/L. Gout. Asthma."
REVIEW = "select review_finding($1, $2, $3)"
KEYED_BY = UUID("6a1f0c57-6f0e-4b5e-9f0a-1f2d3c4b5a69")
FOUND_BY = Engine(provider="openai", model="finder", prompt_version="d", schema_version="1", terminology="ICD 1")
ENGINE = Engine(provider="openai", model="reader", prompt_version="e", schema_version="1", terminology="ICD 1")
SOMEBODY_ELSE = (Contradiction(field="name", page=1, start=9, end=22, quote="Bridget Kelly"),)
COUNTING = """
select (select count(*) from patient_clinical_events where superseded_at is null) as findings,
    (select count(*) from healthcare_timeline_events where superseded_at is null) as entries,
    (select count(*) from clinical_narratives where superseded_at is null) as narratives,
    (select count(*) from patient_timeline) as lines
"""
NOTHING, ALL = (0, 0, 0, 0), (2, 2, 1, 2)


def source(quote: str) -> Source:
    at = TEXT.index(quote)
    return Source(page=1, start=at, end=at + len(quote), quote=quote, boxes=())


POTASSIUM = Entity(
    id="e1",
    kind="observation",
    label="test",
    text="Potassium",
    source=source("Potassium"),
    alignment="exact",
    attributes={"value": Attribute(text="5.9", normalised=5.9, source=source("5.9"), uncertain=True)},
    links=(Link(relation="shows", to="e2"),),
)
GOUT = Entity(id="e2", kind="event", label="disease", text="Gout", source=source("Gout"), alignment="exact")
ASTHMA = Finding(id="e3", kind="event", label="disease", text="Asthma", source=source("Asthma"), alignment="exact")


def rows(
    contradictions: tuple[Contradiction, ...] = (), missed: tuple[Finding, ...] = (), keyed_by: UUID = KEYED_BY
) -> Callable[[UUID], dict[str, list[dict[str, Any]]]]:
    entities = (POTASSIUM, GOUT)
    local = Engine(provider="local", model="rules", prompt_version="l", schema_version="1")
    detection = Detection(engine=FOUND_BY, findings=(), missed=missed, checked_by=local)
    enrichment = Enrichment(engine=ENGINE, document_date=None, entities=entities)
    narration = Narration(
        engine=ENGINE,
        sentences=tuple(Sentence(text=f"There is {e.text}.", entity_ids=(e.id,)) for e in entities),
        timeline=tuple(TimelineEntry(date=None, title=e.text, entity_ids=(e.id,)) for e in entities),
    )
    return lambda run_id: clinical_rows(
        run_id, keyed_by, enrichment, narration, (), detection=detection, contradictions=contradictions
    )


async def key_of(owner: asyncpg.Connection, reason: str) -> UUID:
    key: UUID = await owner.fetchval("select finding_key from finding_reviews where reason = $1", reason)
    return key


async def status_of(owner: asyncpg.Connection, reason: str) -> str:
    status: str = await owner.fetchval("select status from finding_reviews where reason = $1", reason)
    return status


async def test_a_document_of_somebody_else_counts_only_when_a_person_says_so(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    await persist_document(database, owner, patient, rows(SOMEBODY_ELSE), text=TEXT)
    document = await key_of(owner, "other_person")
    gout = await owner.fetchval("select finding_key from patient_clinical_events where text = 'Gout'")
    assert await owner.fetchrow(COUNTING) == NOTHING
    claim = await owner.fetchval("select claim from finding_reviews where finding_key = $1", document)
    assert claim["contradictions"][0]["quote"] == "Bridget Kelly"

    # A word on one finding is not one on whose it is.
    await as_user(owner, patient.user_id, REVIEW, gout, "accept", None)
    assert await owner.fetchrow(COUNTING) == NOTHING
    await as_user(owner, patient.user_id, REVIEW, gout, "dismiss", None)
    with pytest.raises(asyncpg.PostgresError) as refused:
        await as_user(owner, patient.user_id, REVIEW, document, "correct", {"label": "x"})
    assert refused.value.sqlstate == "CL005"

    answer = await as_user(owner, patient.user_id, REVIEW, document, "accept", None)
    assert answer == {"finding_key": str(document), "status": "accepted", "event_id": None}
    assert await owner.fetchrow(COUNTING) == (1, 1, 1, 1)
    await as_user(owner, patient.user_id, REVIEW, gout, "accept", None)
    assert await owner.fetchrow(COUNTING) == ALL
    assert "Gout" in await owner.fetchval("select narrative from clinical_narratives")

    await as_user(owner, patient.user_id, REVIEW, document, "dismiss", None)
    assert await owner.fetchrow(COUNTING) == NOTHING
    bundle = await as_user(owner, patient.user_id, "select fhir_bundle($1)", patient.profile_id)
    assert {entry["resource"]["resourceType"] for entry in bundle["entry"]} == {"Patient", "DocumentReference"}


@pytest.mark.parametrize(
    ("decision", "then", "counting", "status"),
    [
        ("dismiss", (), NOTHING, "dismissed"),
        ("accept", SOMEBODY_ELSE, ALL, "accepted"),
        (None, SOMEBODY_ELSE, NOTHING, "waiting"),
        (None, (), ALL, "withdrawn"),
    ],
)
async def test_what_a_person_said_of_a_document_holds_for_later_runs(
    database: Database,
    owner: asyncpg.Connection,
    patient: Patient,
    decision: str | None,
    then: tuple[Contradiction, ...],
    counting: tuple[int, ...],
    status: str,
) -> None:
    document = await persist_document(database, owner, patient, rows(SOMEBODY_ELSE), text=TEXT)
    if decision:
        await as_user(owner, patient.user_id, REVIEW, await key_of(owner, "other_person"), decision, None)
    await persist_again(database, owner, document, rows(then))
    assert await owner.fetchrow(COUNTING) == counting
    assert await status_of(owner, "other_person") == status


async def test_rows_say_who_found_and_who_understood_what_was_doubted_and_what_belongs_together(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    await persist_document(database, owner, patient, rows(), text=TEXT)
    potassium, gout = await owner.fetch("select * from patient_clinical_events order by char_start")
    assert (potassium["model"], potassium["found_by"]["model"], potassium["terminology"]) == (
        "reader",
        "finder",
        "ICD 1",
    )
    assert potassium["links"] == [{"relation": "shows", "event_id": str(gout["id"])}]
    assert potassium["attributes"]["value"]["uncertain"] is True
    assert not potassium["uncertain"]
    assert await owner.fetchval("select is_uncertain from patient_observations") is True
    for table in ("clinical_narratives", "healthcare_timeline_events"):
        assert await owner.fetch(f"select distinct model, schema_version, terminology from {table}") == [
            ("reader", "1", "ICD 1")
        ]
    waiting = await owner.fetchrow("select reason, claim from finding_reviews")
    assert waiting["reason"] == "number_uncertain"
    assert waiting["claim"] == {"attributes": [{"name": "value", "quote": "5.9"}]}
    bundle = await as_user(owner, patient.user_id, "select fhir_bundle($1)", patient.profile_id)
    marked = [
        [part["valueString"] for part in extension["extension"] if part["url"] == "quote"]
        for entry in bundle["entry"]
        for entity in entry["resource"].get("entity", [])
        for extension in entity.get("extension", [])
        if {"url": "uncertain", "valueBoolean": True} in extension["extension"]
    ]
    assert marked == [["5.9"]]


async def test_what_a_model_passed_over_becomes_a_fact_by_a_persons_word(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    document = await persist_document(database, owner, patient, rows(missed=(ASTHMA,)), text=TEXT)
    key = await key_of(owner, "missed")
    assert await owner.fetchrow(COUNTING) == ALL
    answer = await as_user(owner, patient.user_id, REVIEW, key, "accept", None)
    event = await owner.fetchrow("select * from patient_clinical_events where id = $1", UUID(answer["event_id"]))
    assert (event["text"], event["quote"], event["kind"], event["model"]) == ("Asthma", "Asthma", "event", "rules")
    # It is there in the next run, too.
    await persist_again(database, owner, document, rows(missed=(ASTHMA,)))
    current = "select count(*) from patient_clinical_events where superseded_at is null and text = 'Asthma'"
    assert await owner.fetchval(current) == 1


# -- again, and beside ------------------------------------------------------------------------------------------------


async def processed(database: Database, owner: asyncpg.Connection, patient: Patient, *models: str) -> UUID:
    """A document whose passes are kept, each done by the model of its place."""
    document = await persist_document(
        database, owner, patient, rows(keyed_by=uuid4()), content=repr(models).encode(), text=TEXT
    )
    for name, model in zip(("detect", "enrich", "narrate"), models, strict=True):
        await owner.execute(
            "insert into ai_pass_results (run_id, pass, shell_file_id, patient_id, provider, model, prompt_version, "
            "schema_version, result) select current_run_id, $2, id, patient_id, 'p', $3, '1', '1', "
            "jsonb_build_object('by', $3::text) from shell_files where id = $1",
            document,
            name,
            model,
        )
    return document


async def claim_soon(worker: asyncpg.Connection, job_type: str) -> asyncpg.Record:
    """A priority that is new to the queue is met by a later claim."""
    async with asyncio.timeout(30):
        while not (jobs := await worker.fetch("select * from chartloom.claim_jobs('test', array[$1], 1)", job_type)):
            await asyncio.sleep(0.05)
    return jobs[0]


AGAIN = "select shell_file_id from chartloom.reprocess_documents($1, $2, $3)"


async def test_documents_are_done_again_from_a_pass_on_by_who_did_them(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    old = await processed(database, owner, patient, "a", "a", "a")
    mixed = await processed(database, owner, patient, "a", "b", "b")
    assert await owner.fetch(AGAIN, 2, "c", None) == []
    assert await owner.fetch(AGAIN, 2, "a", None) == [(old,)]
    # It is on its way: not once more.
    assert await owner.fetch(AGAIN, 2, "a", None) == []
    assert await owner.fetchval("select status from shell_files where id = $1", old) == "queued"
    taken_over = await owner.fetch(
        "select pass, model, result from ai_pass_results as r join shell_files as f on f.current_run_id = r.run_id "
        "where f.id = $1",
        old,
    )
    assert taken_over == [("detect", "a", {"by": "a"})]

    worker = await database.connect("chartloom_ai")
    assert (await worker.fetch("select * from chartloom.claim_jobs('t', array['ai_detect', 'ai_narrate'], 5)")) == []
    job = await claim_soon(worker, "ai_enrich")
    page = await worker.fetchval("select text from chartloom.read_pages($1, $2)", job["job_id"], job["lease_token"])
    assert page == TEXT
    await worker.close()
    # What counted counts until the new rows are there.
    assert await owner.fetchval("select count(*) from patient_clinical_events where superseded_at is null") == 4

    assert await owner.fetch(AGAIN, 1, "a", [mixed]) == [(mixed,)]
    assert await owner.fetchval("select priority from chartloom.job_queue where job_type = 'ai_detect'") == -10


async def test_what_a_later_pass_needs_must_be_there(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    document = await processed(database, owner, patient, "a", "a", "a")
    await owner.execute("delete from ai_pass_results where pass = 'detect'")
    assert await owner.fetch(AGAIN, 3, None, [document]) == []
    with pytest.raises(asyncpg.PostgresError) as refused:
        await owner.fetch(AGAIN, 4, None, None)
    assert refused.value.sqlstate == "CL005"


async def test_a_shadow_run_becomes_no_clinical_row_and_never_the_current_one(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    document = await processed(database, owner, patient, "a", "a", "a")
    before = await owner.fetchrow(
        "select status, current_run_id, completed_at from shell_files where id = $1", document
    )
    (shadow,) = await owner.fetch("select * from chartloom.shadow_documents(null, 5)")
    worker = await database.connect("chartloom_ai")
    job = await claim_soon(worker, "ai_shadow")
    lease = (job["job_id"], job["lease_token"])
    assert await worker.fetchval("select text from chartloom.read_pages($1, $2)", *lease) == TEXT
    result = {"engine": {"provider": "p", "model": "candidate", "prompt_version": "1", "schema_version": "1"}}
    for name in ("detect", "enrich", "narrate"):
        await worker.execute("select chartloom.save_ai_pass($1, $2, $3, $4)", *lease, name, result)
    await worker.execute("select chartloom.complete_job($1, $2)", *lease)
    await worker.close()
    kept = await owner.fetch("select distinct run_id from ai_pass_results where model = 'candidate'")
    assert kept == [(shadow["run_id"],)]
    after = await owner.fetchrow("select status, current_run_id, completed_at from shell_files where id = $1", document)
    assert after == before
    assert await owner.fetchval("select count(*) from chartloom.job_queue") == 0
    assert await owner.fetchrow(COUNTING) == ALL
