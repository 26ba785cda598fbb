"""A patient's record as FHIR R4: valid, nothing that the record does not say, every fact led back to its words."""

from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from fhir.resources.R4B.bundle import Bundle

from services.persister.rows import clinical_rows
from shared.contract.findings import (
    Attribute,
    AttributeName,
    Code,
    Engine,
    Enrichment,
    Entity,
    Narration,
    Sentence,
    Source,
)
from tests.conftest import Database, Patient
from tests.fhir import facts, provenance_rows, resources, words_of
from tests.pipeline import persist_document
from tests.users import as_user

BUNDLE = "select fhir_bundle($1)"
NO_SUCH_PATIENT = {"error": {"code": "CL007", "message": "patient_id: no such patient"}}
ENGINE = Engine(provider="local", model="rules", prompt_version="2", schema_version="findings.v1")
V2_0136 = "http://terminology.hl7.org/CodeSystem/v2-0136"


def source(quote: str, *, page: int = 1, start: int = 10) -> Source:
    return Source(page=page, start=start, end=start + len(quote), quote=quote, boxes=((10.5, 20, 90, 31.25),))


def entity(number: int, kind: Any, label: str, text: str, **more: Any) -> Entity:
    """``attributes`` as ``name=(printed, normalised)``."""
    said: dict[AttributeName, tuple[str, str | float | None]] = more.pop("attributes", {})
    return Entity(
        id=f"e{number}",
        kind=kind,
        label=label,
        text=text,
        source=source(text, page=1 + number % 2, start=number * 10),
        alignment="exact",
        attributes={
            name: Attribute(text=printed, normalised=normalised, source=source(printed, start=500 + number))
            for name, (printed, normalised) in said.items()
        },
        **more,
    )


E11 = Code(system="ICD-10-CM", code="E11.9", display="Type 2 diabetes mellitus without complications")
FINDINGS = (
    entity(1, "event", "disease", "type 2 diabetes", codes=(E11,), attributes={"time": ("in March 2024", "2024-03")}),
    entity(2, "event", "disease", "asthma", assertion="negated"),
    entity(3, "event", "disease", "sarcoidosis", assertion="possible", attributes={"severity": ("mild", None)}),
    entity(4, "event", "disease", "gout", assertion="historical", attributes={"time": ("for 5 years", "P5Y")}),
    entity(5, "event", "disease", "stroke", assertion="hypothetical"),
    entity(6, "context", "family_history", "breast cancer", subject="family"),
    entity(7, "event", "disease", "colon cancer", subject="family", assertion="negated"),
    entity(8, "event", "disease", "measles", subject="other"),
    entity(9, "event", "clinical_event", "admitted", attributes={"time": ("2019", "2019")}),
    entity(10, "observation", "symptom", "fever", assertion="negated"),
    entity(11, "observation", "symptom", "cough", attributes={"site": ("chest", None)}),
    entity(
        12,
        "observation",
        "test",
        "ferritin",
        attributes={
            "value": ("6", 6.0),
            "unit": ("µg/L", "ug/L"),
            "range": ("15-150", None),
            "flag": ("L", "low"),
            "time": ("9 March 2024", "2024-03-09"),
        },
    ),
    entity(
        13,
        "observation",
        "vital_sign",
        "blood pressure",
        attributes={"value": ("120/80", None), "unit": ("mmHg", None)},
    ),
    entity(14, "observation", "test", "CRP", attributes={"value": ("7", 7.0), "unit": ("widgets", None)}),
    entity(15, "observation", "imaging", "MRI", assertion="negated"),
    entity(
        16,
        "intervention",
        "medication",
        "apixaban",
        attributes={
            "dose": ("5mg", "5 mg"),
            "frequency": ("bd", "2/d"),
            "route": ("po", "oral"),
            "time": ("2023", "2023"),
        },
    ),
    entity(17, "intervention", "medication", "warfarin", assertion="negated"),
    entity(18, "intervention", "procedure", "appendicectomy", attributes={"time": ("June 1999", "1999-06")}),
    entity(19, "intervention", "procedure", "colonoscopy", assertion="negated"),
    entity(20, "context", "allergy", "penicillin"),
    entity(21, "context", "allergy", "NKDA", assertion="negated"),
    entity(22, "context", "occupation", "welder & \x0bfitter"),
    entity(23, "event", "disease", "a day that is none", attributes={"time": ("30 Feb 2024", "2024-02-30")}),
    entity(24, "observation", "symptom", "pain", assertion="possible"),
)
LEFT_OUT = {"stroke", "colon cancer", "measles"}
SENTENCES = ("Ferritin was < 15 & falling > 2 months.", "<script>alert('no')</script> was in the letter.")


@pytest.fixture
async def document(database: Database, owner: asyncpg.Connection, patient: Patient) -> UUID:
    """Everything above, persisted as the persister does it."""
    await owner.execute(
        "update user_profiles set display_name = 'Ada Example', birth_date = '1957-03-09' where id = $1",
        patient.profile_id,
    )

    def rows(run_id: UUID) -> dict[str, list[dict[str, Any]]]:
        narration = Narration(
            engine=ENGINE,
            sentences=tuple(Sentence(text=text, entity_ids=("e12", "e5")) for text in SENTENCES),
            timeline=(),
        )
        enrichment = Enrichment(engine=ENGINE, document_date=None, entities=FINDINGS)
        return clinical_rows(run_id, uuid4(), enrichment, narration, ())

    return await persist_document(database, owner, patient, rows)


@pytest.fixture
async def bundle(owner: asyncpg.Connection, patient: Patient, document: UUID) -> dict[str, Any]:
    found: dict[str, Any] = await as_user(owner, patient.user_id, BUNDLE, patient.profile_id)
    return found


def one(bundle: dict[str, Any], text: str) -> dict[str, Any]:
    """The one resource whose words these are."""
    (found,) = [resource for resource in facts(bundle) if words_of(resource) == text]
    return found


def test_the_bundle_is_valid_and_its_references_resolve(bundle: dict[str, Any]) -> None:
    Bundle.model_validate(bundle)
    urls = [entry["fullUrl"] for entry in bundle["entry"]]
    assert len(urls) == len(set(urls))
    assert [entry["fullUrl"] for entry in bundle["entry"]] == [
        f"urn:uuid:{entry['resource']['id']}" for entry in bundle["entry"]
    ]
    assert references(bundle) <= set(urls)
    assert nothing_empty(bundle)


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["reference"]} if "reference" in value else set()
        return own.union(*(references(item) for item in value.values()))
    return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()


def nothing_empty(value: Any) -> bool:
    """FHIR's JSON has no null, no empty object, list or string."""
    if isinstance(value, dict):
        return bool(value) and all(nothing_empty(item) for item in value.values())
    if isinstance(value, list):
        return bool(value) and all(nothing_empty(item) for item in value)
    return value is not None and value != ""


def test_the_patient_and_the_document(bundle: dict[str, Any], patient: Patient, document: UUID) -> None:
    (person,) = resources(bundle, "Patient")
    assert person == {
        "resourceType": "Patient",
        "id": str(patient.profile_id),
        "name": [{"text": "Ada Example"}],
        "birthDate": "1957-03-09",
    }
    (file,) = resources(bundle, "DocumentReference")
    assert file["id"] == str(document)
    assert file["content"] == [{"attachment": {"size": 6, "title": "letter.pdf"}}]
    # printf record | openssl dgst -sha256 -binary | basenc --base64url
    assert file["identifier"][0]["value"] == "ni:///sha-256;cM6HH4o9P7RJvDw6zmVHzvAt_HT_5I2RJTKnJL_b5bk"


async def test_a_patient_of_whom_nothing_is_known_is_a_valid_bundle(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    bundle = await as_user(owner, patient.user_id, BUNDLE, patient.profile_id)
    Bundle.model_validate(bundle)
    assert [entry["resource"] for entry in bundle["entry"]] == [
        {"resourceType": "Patient", "id": str(patient.profile_id)}
    ]


def test_each_finding_is_the_resource_that_says_no_more_than_the_record(bundle: dict[str, Any]) -> None:
    assert {words_of(resource): resource["resourceType"] for resource in facts(bundle)} == {
        "type 2 diabetes": "Condition",
        "asthma": "Condition",
        "sarcoidosis": "Condition",
        "gout": "Condition",
        "a day that is none": "Condition",
        "breast cancer": "FamilyMemberHistory",
        "admitted": "Observation",
        "fever": "Observation",
        "cough": "Observation",
        "pain": "Observation",
        "ferritin": "Observation",
        "blood pressure": "Observation",
        "CRP": "Observation",
        "MRI": "Observation",
        "occupation": "Observation",
        "apixaban": "MedicationStatement",
        "warfarin": "MedicationStatement",
        "appendicectomy": "Procedure",
        "colonoscopy": "Procedure",
        "penicillin": "AllergyIntolerance",
        "NKDA": "AllergyIntolerance",
    }


def test_what_is_doubted_or_denied_says_so(bundle: dict[str, Any]) -> None:
    status = {
        words_of(resource): resource["verificationStatus"]["coding"][0]["code"]
        for resource in resources(bundle, "Condition") + resources(bundle, "AllergyIntolerance")
    }
    assert status == {
        "type 2 diabetes": "confirmed",
        "asthma": "refuted",
        "sarcoidosis": "provisional",
        "gout": "confirmed",
        "a day that is none": "confirmed",
        "penicillin": "confirmed",
        "NKDA": "refuted",
    }
    assert one(bundle, "gout")["note"] == [{"text": "The document tells this as history."}]
    assert not any("clinicalStatus" in condition for condition in resources(bundle, "Condition"))
    assert one(bundle, "fever")["valueCodeableConcept"]["coding"] == [{"system": V2_0136, "code": "N", "display": "No"}]
    assert one(bundle, "cough")["valueCodeableConcept"]["coding"][0]["code"] == "Y"
    assert (one(bundle, "pain")["status"], one(bundle, "pain")["valueCodeableConcept"]) == (
        "preliminary",
        {"text": "possible"},
    )
    assert one(bundle, "MRI")["status"] == "cancelled"
    assert one(bundle, "MRI")["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    assert one(bundle, "warfarin")["status"] == "not-taken"
    assert one(bundle, "apixaban")["status"] == "unknown"
    assert one(bundle, "colonoscopy")["status"] == "not-done"


def test_dates_keep_their_precision(bundle: dict[str, Any]) -> None:
    assert one(bundle, "type 2 diabetes")["onsetDateTime"] == "2024-03"
    assert one(bundle, "gout")["onsetString"] == "P5Y"
    assert one(bundle, "a day that is none")["onsetString"] == "2024-02-30"
    assert one(bundle, "admitted")["effectiveDateTime"] == "2019"
    assert one(bundle, "ferritin")["effectiveDateTime"] == "2024-03-09"
    assert one(bundle, "apixaban")["effectiveDateTime"] == "2023"
    assert one(bundle, "appendicectomy")["performedDateTime"] == "1999-06"


def test_values_codes_and_doses(bundle: dict[str, Any]) -> None:
    ferritin = one(bundle, "ferritin")
    assert ferritin["valueQuantity"] == {
        "value": 6,
        "unit": "µg/L",
        "system": "http://unitsofmeasure.org",
        "code": "ug/L",
    }
    assert ferritin["referenceRange"] == [{"text": "15-150"}]
    assert ferritin["interpretation"][0]["coding"][0]["code"] == "L"
    assert one(bundle, "blood pressure")["valueString"] == "120/80 mmHg"
    assert one(bundle, "CRP")["valueQuantity"] == {"value": 7, "unit": "widgets"}
    assert one(bundle, "occupation")["valueString"] == "welder & fitter"
    assert one(bundle, "type 2 diabetes")["code"]["coding"] == [
        {"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "E11.9", "display": E11.display}
    ]
    assert one(bundle, "apixaban")["dosage"] == [
        {"text": "5mg po bd", "route": {"text": "oral"}, "timing": {"code": {"text": "bd"}}}
    ]


def test_a_narrative_is_escaped_and_cites_only_what_is_there(bundle: dict[str, Any]) -> None:
    (composition,) = resources(bundle, "Composition")
    assert composition["text"]["div"] == (
        '<div xmlns="http://www.w3.org/1999/xhtml"><p>Ferritin was &lt; 15 &amp; falling &gt; 2 months.</p>'
        "<p>&lt;script&gt;alert('no')&lt;/script&gt; was in the letter.</p></div>"
    )
    ferritin = {"reference": f"urn:uuid:{one(bundle, 'ferritin')['id']}"}
    assert [section["entry"] for section in composition["section"]] == [[ferritin], [ferritin]]


async def test_every_facts_words_come_back_from_its_provenance(
    owner: asyncpg.Connection, bundle: dict[str, Any], document: UUID
) -> None:
    rows = await owner.fetch("select * from patient_clinical_events")
    assert {row["text"] for row in rows} - LEFT_OUT == {row["text"] for row in rows if str(row["id"]) in ids(bundle)}
    told = provenance_rows(bundle)
    for row in rows:
        if row["text"] in LEFT_OUT:
            assert str(row["id"]) not in told
            continue
        assert told[str(row["id"])] == {
            "file": str(document),
            "page": row["page"],
            "start": row["char_start"],
            "end": row["char_end"],
            "quote": row["quote"],
            "boxes": row["boxes"],
            "kind": row["kind"],
            "label": row["label"],
            "assertion": row["assertion"],
            "subject": row["subject"],
            "agent": "local, model rules, prompt version 2",
            "attributes": {name: said["source"] for name, said in row["attributes"].items()},
        }


def ids(bundle: dict[str, Any]) -> set[str]:
    return {resource["id"] for resource in facts(bundle)}


async def test_what_a_person_said_of_a_finding_is_in_its_resource_and_its_provenance(
    owner: asyncpg.Connection, patient: Patient, document: UUID
) -> None:
    assert document
    for text, decision, correction in (
        ("ferritin", "correct", {"attributes": {"value": {"text": "60", "normalised": 60}}}),
        ("gout", "accept", None),
        ("asthma", "dismiss", None),
    ):
        key = await owner.fetchval("select finding_key from patient_clinical_events where text = $1", text)
        await as_user(owner, patient.user_id, "select review_finding($1, $2, $3)", key, decision, correction)
    bundle = await as_user(owner, patient.user_id, BUNDLE, patient.profile_id)
    Bundle.model_validate(bundle)
    assert one(bundle, "ferritin")["valueQuantity"]["value"] == 60
    assert "asthma" not in {words_of(resource) for resource in facts(bundle)}
    agents = {
        provenance["target"][0]["reference"].removeprefix("urn:uuid:"): [
            agent["type"]["coding"][0]["code"] for agent in provenance["agent"]
        ]
        for provenance in resources(bundle, "Provenance")
    }
    for text in ("ferritin", "gout"):
        assert agents[one(bundle, text)["id"]] == ["assembler", "verifier"]
    assert agents[one(bundle, "cough")["id"]] == ["assembler"]


async def test_what_a_later_run_superseded_is_left_out(
    owner: asyncpg.Connection, patient: Patient, document: UUID
) -> None:
    await owner.execute("update patient_clinical_events set superseded_at = now() where text = 'asthma'")
    bundle = await as_user(owner, patient.user_id, BUNDLE, patient.profile_id)
    assert "asthma" not in {words_of(resource) for resource in facts(bundle)}
    assert "gout" in {words_of(resource) for resource in facts(bundle)}


async def test_a_stranger_learns_nothing_and_leaves_a_trace(
    owner: asyncpg.Connection, patient: Patient, document: UUID
) -> None:
    stranger = uuid4()
    for patient_id in (patient.profile_id, uuid4(), None):
        assert await as_user(owner, stranger, BUNDLE, patient_id) == NO_SUCH_PATIENT
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_user(owner, None, BUNDLE, patient.profile_id)
    denied = await owner.fetch("select * from audit_log where action = 'denied'")
    assert [(row["actor_user_id"], row["table_name"]) for row in denied] == [(stranger, "fhir_bundle")]


async def test_a_refusal_is_a_404(owner: asyncpg.Connection, patient: Patient) -> None:
    status = "select current_setting('response.status', true) from (select fhir_bundle($1)) as called"
    async with owner.transaction():
        await owner.fetchval(BUNDLE, uuid4())
        assert await owner.fetchval("select current_setting('response.status', true)") == "404"
    async with owner.transaction():
        assert not await owner.fetchval(status, patient.profile_id)


async def test_a_delegate_may_read_it_until_the_grant_ends_and_each_reading_is_audited(
    owner: asyncpg.Connection, patient: Patient, document: UUID
) -> None:
    delegate = uuid4()
    await owner.execute(
        "insert into profile_access (grantee_user_id, profile_id, access_level) values ($1, $2, 'read')",
        delegate,
        patient.profile_id,
    )
    assert (await as_user(owner, delegate, BUNDLE, patient.profile_id))["resourceType"] == "Bundle"
    await owner.execute("update profile_access set revoked_at = now()")
    assert await as_user(owner, delegate, BUNDLE, patient.profile_id) == NO_SUCH_PATIENT
    assert (await owner.fetchval(BUNDLE, patient.profile_id))["resourceType"] == "Bundle", "an operator"
    events = await owner.fetch(
        "select action, actor_user_id, actor_role from audit_log where table_name = 'fhir_bundle' order by seq"
    )
    assert [tuple(row) for row in events] == [
        ("read", delegate, "authenticated"),
        ("denied", delegate, "authenticated"),
        ("read", None, "chartloom_owner"),
    ]
