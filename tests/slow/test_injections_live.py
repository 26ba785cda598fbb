"""Thirty documents that give orders, through real services and a model that follows every one of them."""

import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from services.ai import instructions
from shared.storage import open_storage
from tests.conftest import Database
from tests.end_to_end.test_traces import otlp
from tests.fakes.openai_server import FakeOpenAI
from tests.fleet import fleet
from tests.injected import CANARIES, INVENTIONS, documents, obey
from tests.letters import FINAL, Letter, Owner, Patient, announce, upload
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

__all__ = ["otlp"]

CLINICAL = (
    "patient_clinical_events",
    "patient_observations",
    "patient_interventions",
    "clinical_narratives",
    "healthcare_timeline_events",
)
UNGROUNDED = """
with said as (
    select e.run_id, e.page, e.char_start, e.char_end, e.quote from patient_clinical_events as e
    union all
    select e.run_id, (a.value #>> '{source,page}')::integer, (a.value #>> '{source,start}')::integer,
        (a.value #>> '{source,end}')::integer, a.value #>> '{source,quote}'
    from patient_clinical_events as e, jsonb_each(e.attributes) as a
)
select count(*) filter (where substr(p.text, s.char_start + 1, s.char_end - s.char_start) is distinct from s.quote),
    count(*)
from said as s
join chartloom.document_runs as r on r.id = s.run_id
left join ocr_pages as p on p.run_id = r.ocr_run_id and p.page = s.page
"""


@pytest.fixture
async def endpoint() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI().serving() as server:
        server.script = obey
        yield server


async def contents(owner: asyncpg.Connection, *, of: tuple[str, ...] | None = None) -> str:
    """All rows of these tables, or of all that we have but the pages, as text."""
    tables = of or [
        row["name"]
        for row in await owner.fetch(
            "select c.oid::regclass::text as name from pg_class as c where c.relkind in ('r', 'p') "
            "and c.relnamespace in ('public'::regnamespace, 'chartloom'::regnamespace)"
        )
        if row["name"] != "ocr_pages"
    ]
    return "\n".join(
        [str(await owner.fetchval(f"select string_agg(t::text, ' ') from {name} as t")) for name in tables]
    )


def copied(text: str) -> list[str]:
    """Runs of eight words of what the model was told, examples aside."""
    said = " ".join(re.findall(r"\w+", text.casefold()))
    told = [re.sub(r"(?ms)^```.*?^```", "", instructions.text(task)) for task in instructions.VERSIONS]
    runs = {
        " ".join(words[first : first + 8])
        for words in (re.findall(r"\w+", text.casefold()) for text in told)
        for first in range(len(words) - 7)
    }
    return [run for run in runs if run in said]


async def test_nothing_that_was_ordered_is_persisted_and_no_word_gets_out(
    database: Database, owner: asyncpg.Connection, endpoint: FakeOpenAI, otlp: tuple[str, Path], tmp_path: Path
) -> None:
    address, received = otlp
    patient = Patient(uuid4(), uuid4())
    injected = documents()
    letters = [Letter(patient, f"{number}.txt", one.text.encode(), 0) for number, one in enumerate(injected)]
    ids = await announce(database, letters)
    settings = {
        "STORAGE_URL": (tmp_path / "storage").as_uri(),
        "AI_PROVIDER": "openai",
        "AI_MODEL": "obedient",
        "OPENAI_API_KEY": "sk-none",
        "OPENAI_BASE_URL": endpoint.url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": address,
        "LEASE_SECONDS": "30",
    }
    logs = tmp_path / "logs"
    logs.mkdir()
    async with fleet(database, logs, settings) as services:
        for letter in letters:
            await upload(Owner(database), open_storage(settings["STORAGE_URL"]), letter, ids[letter.sha256])
        await until(owner, FINAL, seconds=300)
        assert set((await services.stop()).values()) == {0}
    assert await owner.fetchval("select count(*) from shell_files where status = 'completed'") == 30

    ungrounded, checked = await owner.fetchrow(UNGROUNDED)
    assert ungrounded == 0
    assert checked > 60
    assert copied(await contents(owner)) == []
    clinical = await contents(owner, of=CLINICAL)
    assert [
        words for words in (*INVENTIONS, "77777", "88888", "HACK-1", "Blackadder", "example.org") if words in clinical
    ] == []
    waiting = await contents(owner, of=("finding_reviews",))
    assert [words for words in (*INVENTIONS, "77777", "88888 mg") if words not in waiting] == []
    silenced = {ids[hashlib.sha256(one.text.encode()).hexdigest()] for one in injected if "silence" in one.name}
    flagged = await owner.fetch("select distinct shell_file_id from finding_reviews where reason = 'missed'")
    assert silenced <= {row["shell_file_id"] for row in flagged}

    told = await owner.fetchval(
        "select concat((select string_agg(e::text, ' ') from chartloom.processing_errors as e), "
        "(select string_agg(concat(h.result, h.error), ' ') from chartloom.job_history as h))"
    )
    spans = received.read_text()
    assert spans.count("chat obedient") >= 60
    measured = Path(f"{received}.metrics").read_text()
    said = {"logs": "".join(path.read_text() for path in logs.glob("*.log")), "spans": spans, "metrics": measured}
    leaks = [
        (canary, place) for place, text in (*said.items(), ("errors", told)) for canary in CANARIES if canary in text
    ]
    assert leaks == []
    assert copied("\n".join(said.values())) == []
    print(f"{checked} quotes stand on their pages; {len(flagged)} documents have findings that the model passed over")
