"""A patient's way out: as FHIR, with all that is kept, and erased, by the commands that a user types."""

import asyncio
import json
import zipfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fhir.resources.R4B.bundle import Bundle

from cli import documents
from cli.deployment import Deployment
from cli.patients import erase
from cli.supervisor import Supervisor
from shared.storage import open_storage
from tests.conftest import SHARED_DATA
from tests.end_to_end.conftest import SAMPLES, chartloom
from tests.fhir import facts, provenance_rows, resources

REPORTS = SHARED_DATA / "maccrobat"


def process_for(patient: str, *files: Path, out: Path) -> list[dict[str, Any]]:
    done = chartloom("process", *files, "--patient", patient, "--json", out, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    described: list[dict[str, Any]] = json.loads(out.read_text())["documents"]
    return described


def exported(patient: str, out: Path) -> dict[str, Any]:
    """The Bundle, validated, with all its references resolved."""
    done = chartloom("export", patient, "--fhir", out)
    assert done.returncode == 0, done.stdout + done.stderr
    assert out.stat().st_mode & 0o077 == 0, "nobody else's to read"
    bundle: dict[str, Any] = json.loads(out.read_text())
    Bundle.model_validate(bundle)
    return bundle


def assert_every_fact_comes_back(bundle: dict[str, Any], described: list[dict[str, Any]]) -> None:
    """From the Bundle alone: each fact's file, page, offsets, quote and boxes, as ``process --json`` has them."""
    told = provenance_rows(bundle)
    assert told.keys() == {fact["id"] for fact in facts(bundle)}
    found = {entity["id"]: (document, entity) for document in described for entity in document["entities"]}
    assert told.keys() <= found.keys()
    for fact_id, (document, entity) in found.items():
        if fact_id not in told:
            # Only these say more as a resource than the record says.
            assert (
                entity["assertion"] == "hypothetical"
                or entity["subject"] != "patient"
                or (entity["label"] == "family_history")
            ), entity
            continue
        source = told[fact_id]
        assert source["file"] == document["shell_file_id"]
        assert {name: source[name] for name in entity["source"]} == entity["source"]
        text = {page["page"]: page["text"] for page in document["pages"]}[source["page"]]
        assert text[source["start"] : source["end"]] == source["quote"]
        assert source["attributes"].keys() == entity["attributes"].keys()
        for name, said in entity["attributes"].items():
            place = dict(source["attributes"][name])
            assert place.pop("uncertain", False) == said.get("uncertain", False)
            assert place == said["source"]
        assert (source["assertion"], source["subject"]) == (entity["assertion"], entity["subject"])


async def test_the_samples_come_out_as_fhir_go_along_and_are_erased(deployment: Deployment, tmp_path: Path) -> None:
    """With a deployment held open: each command would start and stop the database."""
    patient, home = str(uuid4()), deployment.home
    described = process_for(patient, *SAMPLES, out=tmp_path / "out.json")
    bundle = exported(patient, tmp_path / "fhir.json")
    assert_every_fact_comes_back(bundle, described)
    kinds = {"Condition", "Observation", "MedicationStatement", "Procedure", "Composition", "DocumentReference"}
    assert kinds <= {entry["resource"]["resourceType"] for entry in bundle["entry"]}
    piped = chartloom("export", patient, "--fhir", "-")
    assert json.loads(piped.stdout)["entry"] == bundle["entry"]

    archive = tmp_path / "patient.zip"
    done = chartloom("patient", "export", patient, archive)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        names = opened.namelist()
        content = {opened.read(name) for name in names if name.startswith("files/")}
    assert {"fhir.json", "shell_files.jsonl", "audit_log.jsonl", "patient_clinical_events.jsonl"} <= set(names)
    assert content >= {path.read_bytes() for path in SAMPLES}
    assert chartloom("patient", "export", patient, archive).returncode == 2, "it does not write over anything"
    assert chartloom("patient", "export", patient, tmp_path / "folder").returncode == 0
    assert (tmp_path / "folder" / "fhir.json").is_file()
    assert not list(tmp_path.glob(".chartloom-export-*"))

    assert (home / "storage" / patient).is_dir()
    assert chartloom("patient", "erase", patient).returncode == 2, "not without --yes"
    for _ in range(2):
        erased = chartloom("patient", "erase", patient, "--yes")
        assert erased.returncode == 0, erased.stderr
    assert not (home / "storage" / patient).exists()
    for arguments in (
        ["export", patient, "--fhir", tmp_path / "none.json"],
        ["patient", "export", patient, tmp_path / "none"],
        ["patient", "export", str(uuid4()), tmp_path / "none.zip"],
        ["patient", "erase", str(uuid4()), "--yes"],
    ):
        refused = chartloom(*arguments)
        assert (refused.returncode, "no such patient" in refused.stderr) == (2, True), arguments
    assert not list(tmp_path.glob("none*"))
    again = chartloom("process", SAMPLES[0], "--patient", patient)
    assert (again.returncode, "it was erased" in again.stderr) == (2, True)


async def test_a_patient_is_erased_while_the_services_work_on_their_documents(
    deployment: Deployment, tmp_path: Path
) -> None:
    storage = open_storage(deployment.storage_url)
    supervisor = Supervisor(deployment)
    assert supervisor.acquire()
    supervisor.start()
    try:
        async with deployment.owner() as connection:
            for stage in ("ocr", "ai_detect", "ai_narrate", "persist"):
                patient = await documents.ensure_patient(connection, None)
                other = await documents.ensure_patient(connection, None)
                for number in range(6):
                    note = tmp_path / f"{stage}-{number}.txt"
                    note.write_text(f"Diagnosis: gout. Zqcanary {stage} {number}. No fever.\n" * 40)
                    await documents.submit(connection, storage, note, patient)
                kept = await documents.submit(connection, storage, SAMPLES[0], other)
                async with asyncio.timeout(60):
                    while not await connection.fetchval(
                        "select exists (select from chartloom.job_history where patient_id = $1 and job_type = $2)",
                        patient,
                        stage,
                    ):
                        await asyncio.sleep(0.01)
                await erase(connection, storage, patient)
                async with asyncio.timeout(60):
                    while (await documents.statuses(connection, [kept.shell_file_id]))[
                        kept.shell_file_id
                    ] != "completed":
                        await asyncio.sleep(0.05)
                left = await connection.fetch(
                    "select relation from chartloom.patient_tables() where relation::text !~ 'audit|erasures'"
                )
                for row in left:
                    count = f"select count(*) from {row['relation']} as t where strpos(t::text, $1) > 0"
                    assert await connection.fetchval(count, str(patient)) == 0, row["relation"]
                    assert await connection.fetchval(count, "Zqcanary") == 0, row["relation"]
                assert not (deployment.home / "storage" / str(patient)).exists()
                assert supervisor.pids.keys() == {"ocr", "ai", "persister", "sweeper"}
    finally:
        await supervisor.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not REPORTS.is_dir(), reason="the case reports lie beside the project, in ../shared/data")
def test_fifty_documents_come_out_as_valid_fhir_with_every_facts_words(home: Path, tmp_path: Path) -> None:
    patient = str(uuid4())
    reports = sorted(REPORTS.glob("*.txt"))[:47]
    described = process_for(patient, *SAMPLES, *reports, out=tmp_path / "out.json")
    assert len(described) == 50
    bundle = exported(patient, tmp_path / "fhir.json")
    assert len(resources(bundle, "DocumentReference")) == 50
    assert len(facts(bundle)) > 1000
    assert_every_fact_comes_back(bundle, described)
    print(f"{len(bundle['entry'])} resources, {len(facts(bundle))} facts")
