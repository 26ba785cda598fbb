"""Documents in, findings out: each tied to its page, its words and its boxes."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from cli import doctor
from cli.deployment import open_deployment
from shared.database import connect
from tests.conftest import REPOSITORY, SHARED_DATA, Database
from tests.end_to_end.conftest import SAMPLES, chartloom, process

SCANS = SHARED_DATA / "scans"
DOCUMENT_KEYS = {
    "file", "shell_file_id", "patient_id", "status", "error", "trace_id", "scan", "pages", "entities", "narrative",
    "timeline", "waiting", "stages",
}  # fmt: skip
ENTITY_KEYS = {
    "id", "kind", "label", "text", "assertion", "subject", "attributes", "codes", "links", "uncertain", "source",
    "engine", "model",
}  # fmt: skip


@pytest.fixture(scope="module")
def samples(session_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("CHARTLOOM_HOME", str(session_home))
        yield process(*SAMPLES, out=tmp_path_factory.mktemp("samples") / "out.json")


def assert_grounded(document: dict[str, Any]) -> None:
    """Every entity and attribute: the quote is the page's text at its offsets, and its boxes cover those words."""
    pages = {page["page"]: page for page in document["pages"]}
    for page in pages.values():
        for word in page["words"]:
            assert page["text"][word["start"] : word["end"]] == word["text"]
            x0, y0, x1, y1 = word["box"]
            assert 0 <= x0 < x1 <= page["width"]
            assert 0 <= y0 < y1 <= page["height"]
            assert 0 <= word["confidence"] <= 1
    for entity in document["entities"]:
        for source in [entity["source"], *(value["source"] for value in entity["attributes"].values())]:
            page = pages[source["page"]]
            assert page["text"][source["start"] : source["end"]] == source["quote"]
            covered = [
                word for word in page["words"] if word["start"] < source["end"] and word["end"] > source["start"]
            ]
            assert covered, source
            for word in covered:
                assert any(_covers(box, word["box"]) for box in source["boxes"]), (source, word)
            for box in source["boxes"]:
                assert any(_covers(box, word["box"]) for word in covered), "a box that covers none of its words"


def _covers(outer: list[float], inner: list[float]) -> bool:
    return (
        outer[0] <= inner[0] + 0.5
        and outer[1] <= inner[1] + 0.5
        and outer[2] >= inner[2] - 0.5
        and outer[3] >= inner[3] - 0.5
    )


def test_each_sample_completes_in_the_shape_that_others_build_on(samples: list[dict[str, Any]]) -> None:
    assert [Path(document["file"]).name for document in samples] == [path.name for path in SAMPLES]
    for document in samples:
        assert document.keys() == DOCUMENT_KEYS
        assert document["error"] is None
        assert (document["scan"]["decision"], document["scan"]["antivirus"]) == ("allow", "not_scanned")
        assert [stage["job_type"] for stage in document["stages"]] == [
            "ocr", "ai_detect", "ai_enrich", "ai_narrate", "persist",
        ]  # fmt: skip
        assert {stage["status"] for stage in document["stages"]} == {"completed"}
        assert {stage["attempts"] for stage in document["stages"]} == {1}
        ids = {entity["id"] for entity in document["entities"]}
        assert len(ids) == len(document["entities"]) > 0
        for entity in document["entities"]:
            assert entity.keys() == ENTITY_KEYS
        for entry in document["timeline"]:
            assert set(entry["entity_ids"]) <= ids
        assert document["narrative"]
    assert sum(len(document["entities"]) for document in samples) >= 20


def test_every_finding_of_the_samples_stands_on_its_page(samples: list[dict[str, Any]]) -> None:
    for document in samples:
        assert_grounded(document)


def test_no_value_is_given_to_two_findings(samples: list[dict[str, Any]]) -> None:
    for document in samples:
        values = [
            (source["page"], source["start"])
            for entity in document["entities"]
            if "value" in entity["attributes"]
            for source in [entity["attributes"]["value"]["source"]]
        ]
        assert len(values) == len(set(values))


def find(document: dict[str, Any], text: str) -> list[dict[str, Any]]:
    return [entity for entity in document["entities"] if entity["source"]["quote"].lower() == text]


def test_the_samples_facts_are_found(samples: list[dict[str, Any]]) -> None:
    letter, scan, photo = samples
    assert {entity["assertion"] for entity in find(letter, "haemoptysis")} == {"negated"}
    apixaban = [entity for entity in find(letter, "apixaban") if "dose" in entity["attributes"]]
    assert [entity["attributes"]["dose"]["text"] for entity in apixaban] == ["5 mg"]
    methotrexate = [entity for entity in find(scan, "methotrexate") if "frequency" in entity["attributes"]]
    assert methotrexate[0]["kind"] == "intervention"
    results = {name: find(scan, name)[0]["attributes"]["value"]["normalised"] for name in ("c-reactive protein", "esr")}
    assert results == {"c-reactive protein": 28, "esr": 41}
    ferritin = [entity for entity in find(photo, "ferritin") if "unit" in entity["attributes"]]
    assert ferritin[0]["attributes"]["value"]["normalised"] == 6
    assert ferritin[0]["attributes"]["unit"]["normalised"] == "ug/L"


@pytest.mark.skipif(not SCANS.is_dir(), reason="the scans of other people lie beside the project, in ../shared/data")
def test_real_scans_complete_and_every_finding_stands_on_its_page(home: Path, tmp_path: Path) -> None:
    scans = sorted(path for path in SCANS.iterdir() if path.suffix in (".pdf", ".png"))
    assert len(scans) >= 9
    documents = process(*scans, out=tmp_path / "out.json")
    for document in documents:
        assert document["status"] == "completed"
        assert all(page["text"].strip() for page in document["pages"])
        assert_grounded(document)


def test_a_file_that_cannot_be_read_says_why_and_the_others_complete(home: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pdf"
    empty.touch()
    note = tmp_path / "note.txt"
    note.write_text("Diagnosis: asthma. No fever.\nSalbutamol 100 micrograms inhaled twice daily.\n")
    done = chartloom("process", empty, note, "--json", tmp_path / "out.json")
    assert done.returncode == 1
    assert "file_empty" in done.stdout
    assert "asthma" in done.stdout
    listed = chartloom("dead-letters", "list", "--code", "file_empty")
    assert "file_empty" in listed.stdout
    would = chartloom("dead-letters", "redrive", "999999", "--dry-run")
    assert "0 would run again" in would.stdout


def test_a_result_that_could_not_be_written_is_refused_before_the_work(home: Path, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("Diagnosis: gout.\n")
    done = chartloom("process", note, "--json", tmp_path / "nowhere" / "out.json")
    assert done.returncode == 2
    assert "--json" in done.stderr
    assert "read" not in done.stderr.split("--json")[0]


def test_a_database_url_that_is_none_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "nonsense")
    done = chartloom("status")
    assert done.returncode == 2
    assert "DATABASE_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_file_names_are_shown_as_they_are(home: Path, tmp_path: Path) -> None:
    note = tmp_path / "scan [copy].txt"
    note.write_text("Diagnosis: gout. Allopurinol 100 mg oral once daily since 2019.\n")
    done = chartloom("process", note)
    assert "scan [copy].txt: read done" in done.stderr
    assert "scan [copy].txt  completed" in done.stdout


def test_the_same_bytes_of_the_same_patient_are_read_once(home: Path, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text("Diagnosis: gout. Allopurinol 100 mg oral once daily.\n")
    patient = "11111111-1111-4111-8111-111111111111"
    seen = []
    for number in range(2):
        out = tmp_path / f"{number}.json"
        assert chartloom("process", note, "--patient", patient, "--json", out).returncode == 0
        seen.append(out.read_text())
    assert seen[0] == seen[1]


def test_the_operators_commands_answer(home: Path) -> None:
    for arguments in (["status"], ["jobs"], ["migrate"], ["doctor"], ["contract-check"], ["dead-letters", "list"]):
        done = chartloom(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    checked = chartloom("contract-check").stdout
    for job_type in ("ocr", "ai_detect", "ai_enrich", "ai_narrate", "persist"):
        assert f"ok  {job_type}" in checked


@pytest.mark.parametrize("service", ["ocr", "ai", "persister", "sweeper"])
def test_a_service_without_its_settings_names_the_variable(service: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"services.{service}"],
        cwd=REPOSITORY,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    assert "DATABASE_URL" in done.stderr


async def test_looking_at_a_database_does_not_migrate_it(
    postgres_admin_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = "looked_at"
    admin = await connect(postgres_admin_url, application_name="test")
    await admin.execute(f"create database {name}")
    monkeypatch.setenv("CHARTLOOM_HOME", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", urlsplit(postgres_admin_url)._replace(path=f"/{name}").geturl())
    for arguments in (["status"], ["jobs"], ["contract-check"]):
        done = await asyncio.to_thread(chartloom, *arguments)
        assert done.returncode == 2
        assert "chartloom migrate" in done.stderr
    examined = await asyncio.to_thread(chartloom, "doctor")
    assert "to apply: chartloom migrate" in examined.stdout
    assert (await asyncio.to_thread(chartloom, "migrate")).returncode == 0
    assert (await asyncio.to_thread(chartloom, "contract-check")).returncode == 0
    await admin.execute(f"drop database {name} with (force)")
    await admin.close()


async def test_doctor_names_the_roles_that_cannot_sign_in(database: Database) -> None:
    admin = await database.connect_as_superuser()
    assert (await doctor.sign_in(admin)).verdict == "ok"
    async with admin.transaction():
        await admin.execute("alter role chartloom_ai nologin")
        finding = await doctor.sign_in(admin)
        await admin.execute("alter role chartloom_ai login")
    assert finding.verdict == "missing"
    assert finding.detail == "can't sign in yet: alter role chartloom_ai login password '…'"
    await admin.close()


async def test_a_first_start_that_was_killed_half_way_is_finished_by_the_next(home: Path) -> None:
    async with open_deployment() as deployment, deployment.owner() as connection:
        await connection.execute("alter role chartloom_ocr nologin")
    async with open_deployment() as deployment:
        signed_in = await connect(deployment.service_urls["ocr"], application_name="test")
        await signed_in.close()
