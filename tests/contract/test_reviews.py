"""A person's word on a finding: it changes what the record says, and it outlives every later run."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.persister.rows import clinical_rows
from shared.contract.findings import (
    Attribute,
    Engine,
    Enrichment,
    Entity,
    Narration,
    RejectedFinding,
    Sentence,
    Source,
    TimelineEntry,
)
from tests.conftest import Database, Patient
from tests.pipeline import persist_again, persist_document
from tests.users import as_user

TEXT = "Potassium 5.9 mmol/L on 3 May 2024. Metformin 500 mg. Asthma. Asthma."
Rows = Callable[[UUID], dict[str, list[dict[str, Any]]]]
REVIEW = "select review_finding($1, $2, $3)"
CURRENT = "select * from patient_clinical_events where superseded_at is null order by char_start"


def source(quote: str, start: int | None = None) -> Source:
    at = TEXT.index(quote) if start is None else start
    return Source(page=1, start=at, end=at + len(quote), quote=quote, boxes=())


def said(quote: str, normalised: str | float | None = None) -> Attribute:
    return Attribute(text=quote, normalised=normalised, source=source(quote))


POTASSIUM = Entity(
    id="e1",
    kind="observation",
    label="test",
    text="Potassium",
    source=source("Potassium"),
    alignment="exact",
    attributes={
        "value": said("5.9", 5.9),
        "unit": said("mmol/L", "mmol/L"),
        "time": said("3 May 2024", "2024-05-03"),
    },
)
METFORMIN = Entity(
    id="e2",
    kind="intervention",
    label="medication",
    text="Metformin",
    source=source("Metformin"),
    alignment="fuzzy",
    attributes={"dose": said("500 mg", "500 mg")},
)
ASTHMA, AGAIN = (
    Entity(
        id=f"e{number}",
        kind="event",
        label="disease",
        text="Asthma",
        source=source("Asthma", start),
        alignment="exact",
        occurrence=occurrence,
    )
    for number, occurrence, start in ((3, 1, TEXT.index("Asthma")), (4, 2, TEXT.rindex("Asthma")))
)
INVENTED = RejectedFinding(kind="event", label="disease", quote="Gout", page=1, reason="quote_not_found")


KEYED_BY = UUID("6a1f0c57-6f0e-4b5e-9f0a-1f2d3c4b5a69")
"""What the tests make keys of, in place of the document's id: any id will do, as long as the runs share it."""


def run_by(model: str, *entities: Entity, rejected: tuple[RejectedFinding, ...] = ()) -> Rows:
    """What a run of this model leaves: a sentence and a timeline entry for each entity."""
    engine = Engine(provider="test", model=model, prompt_version="1", schema_version="1")
    narration = Narration(
        engine=engine,
        sentences=tuple(Sentence(text=f"There is {e.text}.", entity_ids=(e.id,)) for e in entities),
        timeline=tuple(TimelineEntry(date=None, title=f"{e.text} as told", entity_ids=(e.id,)) for e in entities),
    )
    enrichment = Enrichment(engine=engine, document_date=None, entities=entities)
    return lambda run_id: clinical_rows(run_id, KEYED_BY, enrichment, narration, rejected)


ALL = (POTASSIUM, METFORMIN, ASTHMA, AGAIN)


@pytest.fixture
async def document(database: Database, owner: asyncpg.Connection, patient: Patient) -> UUID:
    rows = run_by("first", *ALL, rejected=(INVENTED,))
    return await persist_document(database, owner, patient, rows, text=TEXT)


async def key_of(owner: asyncpg.Connection, text: str, occurrence: int = 0) -> UUID:
    rows = await owner.fetch(
        "select finding_key from patient_clinical_events where text = $1 and superseded_by_run_id is null "
        "order by char_start",
        text,
    )
    key: UUID = rows[occurrence]["finding_key"]
    return key


async def titles(owner: asyncpg.Connection) -> list[str]:
    rows = await owner.fetch(
        "select title from healthcare_timeline_events where superseded_at is null order by position"
    )
    return [row["title"] for row in rows]


@pytest.mark.usefixtures("document")
async def test_what_is_dismissed_is_no_fact_any_more_and_nothing_tells_of_it(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    key = await key_of(owner, "Asthma")
    answer = await as_user(owner, patient.user_id, REVIEW, key, "dismiss", None)
    assert answer["status"] == "dismissed"
    assert [row["text"] for row in await owner.fetch(CURRENT)] == ["Potassium", "Metformin", "Asthma"]
    assert await titles(owner) == ["Potassium as told", "Metformin as told", "Asthma as told"]
    narrative = await owner.fetchval("select narrative from clinical_narratives")
    assert narrative == "There is Potassium.\nThere is Metformin.\nThere is Asthma."
    assert await owner.fetchval("select as_told ->> 2 is not null from clinical_narratives")

    # A person may think again.
    await as_user(owner, patient.user_id, REVIEW, key, "accept", None)
    assert [row["text"] for row in await owner.fetch(CURRENT)] == ["Potassium", "Metformin", "Asthma", "Asthma"]
    assert len(await titles(owner)) == 4
    assert (await owner.fetchval("select narrative from clinical_narratives")).count("Asthma") == 2


@pytest.mark.usefixtures("document")
async def test_a_correction_is_what_the_record_says_and_keeps_what_was_found(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    key = await key_of(owner, "Potassium")
    correction = {"attributes": {"value": {"text": "3.9", "normalised": 3.9}, "unit": None}}
    answer = await as_user(owner, patient.user_id, REVIEW, key, "correct", correction)
    event = await owner.fetchrow("select * from patient_clinical_events where id = $1", UUID(answer["event_id"]))
    assert event["review"] == "corrected"
    assert event["as_found"]["attributes"]["value"]["text"] == "5.9"
    assert event["attributes"]["value"]["normalised"] == 3.9
    # Still tied to the words on the page.
    assert event["attributes"]["value"]["source"]["quote"] == "5.9"
    assert "unit" not in event["attributes"]
    spoke = await owner.fetchrow("select value_number, unit from patient_observations where event_id = $1", event["id"])
    assert tuple(spoke) == (3.9, None)
    assert (await titles(owner))[0] == "Potassium 3.9"
    assert "Potassium" not in await owner.fetchval("select narrative from clinical_narratives")
    assert await owner.fetchval("select decided_by from finding_reviews where finding_key = $1", key) == patient.user_id

    await as_user(owner, patient.user_id, REVIEW, key, "correct", {"kind": "intervention", "label": "procedure"})
    # Said anew, from what was found: the first correction is gone, and the spoke has changed its table.
    assert (await titles(owner))[0] == "Potassium 5.9 mmol/L"
    assert await owner.fetchval("select count(*) from patient_observations") == 0
    assert await owner.fetchval("select count(*) from patient_interventions where event_id = $1", event["id"]) == 1


@pytest.mark.usefixtures("document")
async def test_a_second_thought_undoes_the_first(owner: asyncpg.Connection, patient: Patient) -> None:
    key = await key_of(owner, "Potassium")
    told = "select title, event_date, fact_key from healthcare_timeline_events order by position limit 1"
    await owner.execute(
        "update healthcare_timeline_events set event_date = '2024-05-03', fact_key = 'k' where position = 1"
    )
    before = await owner.fetchrow(told)
    for time, date in (({"text": "May 2023", "normalised": "2023-05"}, "2023-05"), (None, None)):
        await as_user(owner, patient.user_id, REVIEW, key, "correct", {"attributes": {"time": time}})
        assert tuple(await owner.fetchrow(told)) == ("Potassium 5.9 mmol/L", date, None)
    await as_user(owner, patient.user_id, REVIEW, key, "accept", None)
    assert await owner.fetchrow(told) == before


@pytest.mark.parametrize("decision", ["accept", "correct", "dismiss"])
async def test_a_decision_holds_for_what_another_model_finds_in_its_place(
    database: Database, owner: asyncpg.Connection, patient: Patient, document: UUID, decision: str
) -> None:
    key = await key_of(owner, "Asthma", 1)
    correction = {"assertion": "negated"} if decision == "correct" else None
    await as_user(owner, patient.user_id, REVIEW, key, decision, correction)
    before = await owner.fetchval("select count(*) from patient_clinical_events where superseded_at is null")
    # It misses the first of the two, so that its second is the only one.
    only = AGAIN.model_copy(update={"id": "e1"})
    run_id = await persist_again(database, owner, document, run_by("second", only))
    rows = await owner.fetch("select * from patient_clinical_events where superseded_by_run_id is null")
    assert [(row["run_id"], row["model"], row["finding_key"]) for row in rows] == [(run_id, "second", key)]
    (row,) = rows
    expected = {"accept": "accepted", "correct": "corrected", "dismiss": "dismissed"}[decision]
    assert row["review"] == expected
    assert (row["superseded_at"] is None) == (decision != "dismiss")
    assert row["assertion"] == ("negated" if decision == "correct" else "affirmed")
    assert len(await titles(owner)) == (0 if decision == "dismiss" else 1)
    # The earlier run's rows are still there to be read.
    assert await owner.fetchval("select count(*) from patient_clinical_events") == before + 1 + (decision == "dismiss")


@pytest.mark.usefixtures("document")
async def test_what_waits_for_a_person(owner: asyncpg.Connection, patient: Patient) -> None:
    waiting = await owner.fetch("select reason, claim, finding_key from finding_reviews order by reason")
    assert [(row["reason"], (row["claim"] or {}).get("quote")) for row in waiting] == [
        ("quote_not_found", "Gout"),
        ("words_differ", None),
    ]
    # Invented words are in no clinical table.
    assert await owner.fetchval("select count(*) from patient_clinical_events where text = 'Gout'") == 0
    await as_user(owner, patient.user_id, REVIEW, await key_of(owner, "Metformin"), "accept", None)
    assert await owner.fetchval("select count(*) from finding_reviews where status = 'waiting'") == 1


async def test_what_the_next_run_no_longer_claims_waits_no_longer(
    database: Database, owner: asyncpg.Connection, document: UUID
) -> None:
    statuses = "select reason || ' ' || status from finding_reviews order by 1"
    await persist_again(database, owner, document, run_by("second", *ALL))
    assert [row[0] for row in await owner.fetch(statuses)] == ["quote_not_found withdrawn", "words_differ waiting"]
    await persist_again(database, owner, document, run_by("third", POTASSIUM, rejected=(INVENTED,)))
    assert [row[0] for row in await owner.fetch(statuses)] == ["quote_not_found waiting", "words_differ withdrawn"]


async def test_an_attribute_that_is_not_on_the_page_waits_with_its_finding(
    database: Database, owner: asyncpg.Connection, document: UUID
) -> None:
    missing = RejectedFinding(
        kind="event", label="severity", quote="severe", page=1, finding_id="e3", reason="attribute_not_found"
    )
    await persist_again(database, owner, document, run_by("second", ASTHMA, rejected=(missing,)))
    row = await owner.fetchrow("select * from finding_reviews where reason = 'attribute_not_found'")
    assert row["finding_key"] == await key_of(owner, "Asthma")
    assert row["claim"] == {"attributes": [{"name": "severity", "quote": "severe"}]}


async def test_a_claim_becomes_a_fact_only_where_a_person_finds_its_words(
    database: Database, owner: asyncpg.Connection, patient: Patient, document: UUID
) -> None:
    key = await owner.fetchval("select finding_key from finding_reviews where reason = 'quote_not_found'")
    for decision, correction, message in (
        ("accept", None, "where its words are"),
        ("correct", {"label": "disease"}, "place"),
        ("correct", {"place": {"page": 1, "start": 10, "end": 1000}}, "place"),
        ("correct", {"place": {"page": 9, "start": 10, "end": 13}}, "place"),
        # The words of a finding that is there.
        ("correct", {"place": {"page": 1, "start": TEXT.index("Asthma"), "end": TEXT.index("Asthma") + 6}}, "place"),
    ):
        with pytest.raises(asyncpg.PostgresError, match=message) as refused:
            await as_user(owner, patient.user_id, REVIEW, key, decision, correction)
        assert refused.value.sqlstate == "CL005"
    at = TEXT.index("mmol/L")
    await as_user(
        owner,
        patient.user_id,
        REVIEW,
        key,
        "correct",
        {"place": {"page": 1, "start": at, "end": at + 6}, "label": "other"},
    )
    row = await owner.fetchrow("select * from patient_clinical_events where finding_key = $1", key)
    assert (row["quote"], row["label"], row["alignment"]) == ("mmol/L", "other", "reviewer")
    assert row["boxes"] == [[1, 2, 3, 4]]
    # Said again, and taken back, and said again: the words stay those that a person found.
    for decision, correction in (("correct", {"label": "device"}), ("dismiss", None), ("accept", None)):
        await as_user(owner, patient.user_id, REVIEW, key, decision, correction)
    # And again in a run that claims it again, or does not.
    for rejected in ((INVENTED,), ()):
        await persist_again(database, owner, document, run_by("second", POTASSIUM, rejected=rejected))
        rows = await owner.fetch(CURRENT)
        assert [row["quote"] for row in rows] == ["Potassium", "mmol/L"]


@pytest.mark.usefixtures("document")
@pytest.mark.parametrize(
    ("decision", "correction", "message"),
    [
        ("approve", None, "accept, correct or dismiss"),
        (None, None, "accept, correct or dismiss"),
        ("correct", None, "belongs to the decision"),
        ("dismiss", {"label": "x"}, "belongs to the decision"),
        ("correct", {}, "must be an object"),
        ("correct", [], "must be an object"),
        ("correct", {"quote": "x"}, '"quote"'),
        ("correct", {"place": {"page": 1, "start": 0, "end": 1}}, "only for what is not on the page"),
        ("correct", {"kind": "wonder"}, '"kind"'),
        ("correct", {"kind": None}, '"kind"'),
        ("correct", {"attributes": {"mood": {"text": "x"}}}, '"mood"'),
        ("correct", {"attributes": {"value": {"text": "x", "source": {}}}}, '"value"'),
        ("correct", {"attributes": {"value": "x"}}, '"value"'),
    ],
)
async def test_a_wrong_review_names_what_is_wrong_and_changes_nothing(
    owner: asyncpg.Connection, patient: Patient, decision: str | None, correction: Any, message: str
) -> None:
    key = await key_of(owner, "Potassium")
    with pytest.raises(asyncpg.PostgresError, match=message) as refused:
        await as_user(owner, patient.user_id, REVIEW, key, decision, correction)
    assert refused.value.sqlstate == "CL005"
    assert await owner.fetchval("select count(*) from patient_clinical_events where review is not null") == 0


@pytest.mark.usefixtures("document")
async def test_only_who_may_write_to_the_profile_reviews(owner: asyncpg.Connection, patient: Patient) -> None:
    key = await key_of(owner, "Potassium")
    reader, writer, stranger = uuid4(), uuid4(), uuid4()
    for user, level in ((reader, "read"), (writer, "write")):
        await owner.execute(
            "insert into profile_access (grantee_user_id, profile_id, access_level) values ($1, $2, $3)",
            user,
            patient.profile_id,
            level,
        )
    for user in (reader, stranger):
        answer = await as_user(owner, user, REVIEW, key, "dismiss", None)
        assert answer["error"]["code"] == "CL007"
        assert answer == await as_user(owner, user, REVIEW, uuid4(), "dismiss", None)
    assert len(await owner.fetch(CURRENT)) == 4
    denied = await owner.fetch("select actor_user_id from audit_log where action = 'denied' order by seq")
    assert [row["actor_user_id"] for row in denied] == [reader, stranger]
    assert (await as_user(owner, writer, REVIEW, key, "dismiss", None))["status"] == "dismissed"
    assert await owner.fetchval("select count(*) from audit_log where actor_user_id = $1", writer) > 0
    assert await owner.fetch("select * from chartloom.verify_audit()") == []


# ── one timeline over all documents ──────────────────────────────────────────────────────────────────────────────────


def timeline_of(*entries: tuple[str | None, str, str | None]) -> Rows:
    """A document with a finding for each entry: its date, its title, what makes it the same fact elsewhere."""
    engine = Engine(provider="test", model="m", prompt_version="1", schema_version="1")
    entities = tuple(
        ASTHMA.model_copy(update={"id": f"e{number}", "text": title, "occurrence": number})
        for number, (_, title, _) in enumerate(entries, start=1)
    )
    narration = Narration(
        engine=engine,
        sentences=(),
        timeline=tuple(
            TimelineEntry(date=date, title=title, entity_ids=(f"e{number}",), fact_key=fact_key)
            for number, (date, title, fact_key) in enumerate(entries, start=1)
        ),
    )
    enrichment = Enrichment(engine=engine, document_date=None, entities=entities)
    key = uuid4()
    return lambda run_id: clinical_rows(run_id, key, enrichment, narration, ())


TIMELINE = """
select event_date, title, cardinality(shell_file_ids) as documents, cardinality(event_ids) as findings
from patient_timeline order by sort_key nulls last, event_date, position
"""


async def test_the_same_fact_in_two_documents_is_one_line_with_both_sources(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    medicine, result = "medication/affirmed/metformin///500 mg", "test/affirmed/potassium/5.9/mmol/l/"
    first = timeline_of(
        ("2024-05-03", "Potassium 5.9", result), ("2024-03", "Metformin 500 mg", medicine), (None, "Gout", None)
    )
    second = timeline_of(
        (None, "Metformin 500mg", medicine),
        ("2024-05-03", "Potassium 5.9 mmol/L", result),
        ("2024-05-04", "Potassium 5.9", result),
        (None, "Gout", None),
    )
    await persist_document(database, owner, patient, first, content=b"first", text=TEXT)
    await persist_document(database, owner, patient, second, content=b"second", text=TEXT)
    found = [tuple(row) for row in await owner.fetch(TIMELINE)]
    assert found == [
        ("2024-03", "Metformin 500 mg", 2, 2),
        ("2024-05-03", "Potassium 5.9 mmol/L", 2, 2),
        ("2024-05-04", "Potassium 5.9", 1, 1),
        # What has no date and is no medicine stands for itself: two attacks of gout are two.
        (None, "Gout", 1, 1),
        (None, "Gout", 1, 1),
    ]


async def test_partial_and_missing_dates_have_their_place_in_the_order(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    dates = ["2024-02-30", None, "2024-03", "2024", "2024-02-29", "2023-12-31", "2024-01-01", "2024-03-01"]
    rows = timeline_of(*((date, f"On {date}", None) for date in dates))
    await persist_document(database, owner, patient, rows, text=TEXT)
    assert [row["event_date"] for row in await owner.fetch(TIMELINE)] == [
        "2023-12-31", "2024", "2024-01-01", "2024-02-29", "2024-02-30", "2024-03", "2024-03-01", None,
    ]  # fmt: skip


async def test_a_user_sees_the_timeline_of_those_whose_record_is_open_to_them(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    await persist_document(database, owner, patient, timeline_of(("2024", "Gout", None)), text=TEXT)
    counted = "select count(*) from patient_timeline"
    assert await as_user(owner, patient.user_id, counted) == 1
    assert await as_user(owner, uuid4(), counted) == 0
