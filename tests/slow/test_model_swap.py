"""Another model by one variable and a restart of services/ai while documents flow; then again, beside, compared."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from shared.storage import open_storage
from tests.conftest import REPOSITORY, Database
from tests.fakes.openai_server import FakeOpenAI, Play, document_of
from tests.fleet import Fleet, fleet
from tests.letters import FINAL, TERMS, Letter, Owner, announce, make_letters, upload
from tests.users import as_user
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

BEFORE, DURING = 20, 20
KINDS = {"chest pain", "cough", "fever", "headache", "nausea", "breathlessness"}
MISSED_BY_B = "fever"


def answers(body: dict[str, Any]) -> Play:
    """model-a takes every word for a fact; model-b sees no fever, and what is denied; model-c is like model-b."""
    form = body["response_format"]["json_schema"]["name"]
    if form == "detect":
        text = document_of(body)
        found = [
            {"quote": term, "occurrence": number, "kind": "observation", "label": "symptom"}
            for term in TERMS
            for number in range(1, 1 + text.count(term))
            if body["model"] == "model-a" or term != MISSED_BY_B
        ]
        return Play({"mentions": found})
    asked = body["messages"][-1]["content"]
    if form == "enrich":
        targets = json.loads(re.search(r"<findings-\w+>\n(.*?)\n</findings", asked, re.S)[1])["targets"]  # type: ignore[index]
        text = document_of(body)
        return Play({"entities": [_understood(target, text, body["model"]) for target in targets]})
    if form == "narrate":
        facts = json.loads(re.search(r"<facts-\w+>\n(.*?)\n</facts", asked, re.S)[1])["facts"]  # type: ignore[index]
        return Play(
            {"sentences": [{"text": f"There is {fact['text']}.", "entity_ids": [fact["id"]]} for fact in facts]}
        )
    return Play({})


def _understood(target: dict[str, Any], text: str, model: str) -> dict[str, Any]:
    is_denied = text[: target["start"]].endswith("No ")
    assertion = "negated" if is_denied and model != "model-a" else "affirmed"
    return {"id": target["id"], "assertion": assertion, "subject": "patient", "details": [], "links": [], "codes": None}


@pytest.fixture
async def endpoint() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI().serving() as server:
        server.script = answers
        yield server


async def chartloom(database: Database, home: Path, *arguments: str | Path) -> str:
    """A command of the operator's, beside the services."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "cli.main", *map(str, arguments)],
        cwd=REPOSITORY,
        env={**os.environ, "DATABASE_URL": database.url(), "CHARTLOOM_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def swap(services: Fleet, settings: dict[str, str], **changes: str) -> None:
    """As a redeploy does it: SIGTERM, and the same service with other variables."""
    (ai,) = [instance for instance in services.instances if instance.service == "ai"]
    settings.update(changes)
    ai.send(signal.SIGTERM)
    assert await ai.process.wait() == 0
    await services.restart(ai)


async def send(database: Database, storage: str, letters: list[Letter], documents: dict[str, Any]) -> None:
    owner = Owner(database)
    for letter in letters:
        await upload(owner, open_storage(storage), letter, documents[letter.sha256])


COMPLETED = "count(*) >= $1 from shell_files where status = 'completed'"


async def test_a_model_is_swapped_while_documents_flow_and_then_compared(
    database: Database, owner: asyncpg.Connection, endpoint: FakeOpenAI, tmp_path: Path
) -> None:
    letters = make_letters(random.Random(11), BEFORE + DURING, per_second=1, unreadable=0)
    documents = await announce(database, letters)
    storage = (tmp_path / "storage").as_uri()
    settings = {
        "STORAGE_URL": storage,
        "AI_PROVIDER": "openai",
        "AI_MODEL": "model-a",
        "OPENAI_API_KEY": "sk-none",
        "OPENAI_BASE_URL": endpoint.url,
        "LEASE_SECONDS": "30",
    }
    async with fleet(database, tmp_path, settings) as services:
        await send(database, storage, letters[:BEFORE], documents)
        await until(owner, COMPLETED, BEFORE, seconds=120)
        flowing = asyncio.create_task(send(database, storage, letters[BEFORE:], documents))
        await until(owner, COMPLETED, BEFORE + 2, seconds=60)
        await swap(services, settings, AI_MODEL="model-b")
        await flowing
        await until(owner, FINAL, seconds=120)
        await check_swap(owner)

        told = await chartloom(
            database, tmp_path, "reprocess", "--from-pass", "1", "--model-was", "model-a", "--limit", "20"
        )
        assert told.startswith("20 are queued again")
        await until(owner, FINAL, seconds=120)
        await check_superseded(owner)

        # A person says of one finding that it is none, of another that it holds.
        for decision, model in (("dismiss", "model-b"), ("accept", "model-b")):
            row = await owner.fetchrow(
                "select e.finding_key, p.owner_user_id from patient_clinical_events e "
                "join user_profiles p on p.id = e.patient_id "
                "join ai_pass_results r on r.shell_file_id = e.shell_file_id "
                "where e.superseded_at is null and e.review is null and r.model = 'model-a' and r.pass = 'enrich' "
                "and e.model = $1 limit 1",
                model,
            )
            await as_user(
                owner, row["owner_user_id"], "select review_finding($1, $2, null)", row["finding_key"], decision
            )
        out = tmp_path / "compared.json"
        shown = await chartloom(database, tmp_path, "compare", "model-a", "model-b", "--show", "--json", out)
        print(shown)
        check_comparison(json.loads(out.read_text()), shown)

        await swap(services, settings, AI_SHADOW_MODEL="model-c")
        rows = await owner.fetchval("select count(*) from patient_clinical_events")
        assert "5 are queued for the candidate" in await chartloom(database, tmp_path, "shadow", "--limit", "5")
        await until(owner, "not exists (select from chartloom.job_queue where job_type = 'ai_shadow')", seconds=60)
        assert await owner.fetchval("select count(*) from patient_clinical_events") == rows
        shown = await chartloom(database, tmp_path, "compare", "model-b", "model-c")
        assert "5 documents" in shown
        assert "0 altered, 0 added, 0 lost" in shown
        assert set((await services.stop()).values()) == {0}


async def check_swap(owner: asyncpg.Connection) -> None:
    """Nothing lost, nothing doubled, and each row names the model that it is of."""
    assert await owner.fetchval("select count(*) from shell_files where status = 'completed'") == BEFORE + DURING
    assert await owner.fetch("select distinct status from chartloom.job_history") == [("completed",)]
    assert not await owner.fetch(
        "select finding_key from patient_clinical_events where superseded_at is null group by 1 having count(*) > 1"
    )
    misnamed = await owner.fetchval(
        "select count(*) from patient_clinical_events e "
        "join ai_pass_results d on d.run_id = e.run_id and d.pass = 'detect' "
        "join ai_pass_results u on u.run_id = e.run_id and u.pass = 'enrich' "
        "where e.model <> u.model or e.found_by ->> 'model' <> d.model"
    )
    assert misnamed == 0
    # What only model-a finds is of model-a; what only model-b says is of model-b.
    finders = await owner.fetch(
        "select distinct found_by ->> 'model' from patient_clinical_events where text = $1", MISSED_BY_B
    )
    assert finders == [("model-a",)]
    sayers = await owner.fetch("select distinct model from patient_clinical_events where assertion = 'negated'")
    assert sayers == [("model-b",)]
    by_model = dict(
        await owner.fetch("select model, count(distinct shell_file_id) from patient_clinical_events group by model")
    )
    assert by_model.keys() == {"model-a", "model-b"}
    assert by_model["model-a"] >= BEFORE
    for table in ("clinical_narratives", "healthcare_timeline_events"):
        unnamed = f"select count(*) from {table} where model is null or schema_version is null or terminology is null"
        assert await owner.fetchval(unnamed) == 0


async def check_superseded(owner: asyncpg.Connection) -> None:
    assert await owner.fetchval("select count(distinct run_id) from ai_pass_results where pass = 'detect'") == 60
    again = "select shell_file_id from chartloom.document_runs group by 1 having count(*) = 2"
    assert await owner.fetch(
        f"select distinct model from patient_clinical_events where superseded_at is null and shell_file_id in ({again})"
    ) == [("model-b",)]
    # The rows of before can still be read.
    assert (
        await owner.fetchval(
            f"select count(distinct run_id) from patient_clinical_events where model = 'model-a' "
            f"and superseded_by_run_id is not null and shell_file_id in ({again})"
        )
        == 20
    )


def check_comparison(compared: dict[str, Any], shown: str) -> None:
    assert len(compared["documents"]) == 20
    assert "20 documents" in shown
    differences = [difference for document in compared["documents"] for difference in document["differences"]]
    lost = {difference["quote"] for difference in differences if difference["change"] == "lost"}
    assert lost == {MISSED_BY_B}
    altered = [difference["fields"] for difference in differences if difference["change"] == "altered"]
    assert altered
    assert all(fields == {"assertion": ["affirmed", "negated"]} for fields in altered)
    assert not [difference for difference in differences if difference["change"] == "added"]
    (score,) = compared["scores"]
    assert (score["by"], score["count"]) == ("reviewers' decisions", 2)
    assert (score["b"]["right"], score["b"]["wrong"]) == (1, 1)
