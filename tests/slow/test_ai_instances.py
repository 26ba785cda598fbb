"""Instances of services/ai as processes, before an endpoint that counts: what they share, and what a kill costs."""

import asyncio
import hashlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.conftest import Database, Patient
from tests.fakes.openai_server import FakeOpenAI, Play, document_of, form_of
from tests.fleet import fleet
from tests.pipeline import read_document
from tests.waiting import until, until_true

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MARK = re.compile(r"mark\d+")


def settings_for(endpoint: FakeOpenAI, **changes: str) -> dict[str, str]:
    return {
        "AI_PROVIDER": "openai",
        "AI_MODEL": "invented",
        "OPENAI_API_KEY": "key",
        "OPENAI_BASE_URL": endpoint.url,
        **changes,
    }


def asked_of(body: dict[str, Any]) -> str:
    text: str = body["messages"][-1]["content"]
    return text


def question_of(body: dict[str, Any]) -> str:
    """The same for the same question: the marks around its blocks are new each time."""
    text = re.sub(r"-[0-9a-f]{16}>", ">", asked_of(body))
    return hashlib.sha256(f"{form_of(body)['name']} {text}".encode()).hexdigest()


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """Each page has one finding, a word of its own."""
    name = form_of(body)["name"]
    if name == "detect":
        words = MARK.findall(document_of(body))
        return {"mentions": [{"quote": word, "occurrence": 1, "kind": "event", "label": "disease"} for word in words]}
    block = asked_of(body).split(">\n", 1)[1].split("\n</", 1)[0]
    if name == "enrich":
        ids = [target["id"] for target in json.loads(block)["targets"]]
        return {"entities": [{"id": i, "assertion": "affirmed", "subject": "patient", "details": []} for i in ids]}
    facts = json.loads(block)["facts"]
    return {"sentences": [{"text": f"There is {fact['text']}.", "entity_ids": [fact["id"]]} for fact in facts]}


async def add_documents(
    database: Database, owner: asyncpg.Connection, count: int, *, pages: int
) -> dict[UUID, list[str]]:
    """Documents whose pages are read, each of a patient of its own, and the words to be found in them."""
    documents = {}
    for number in range(count):
        patient = Patient(uuid4(), uuid4())
        await owner.execute(
            "insert into user_profiles (id, owner_user_id) values ($1, $2)", patient.profile_id, patient.user_id
        )
        words = [f"mark{number:03}{page:03}" for page in range(pages)]
        texts = [f"Page of the record. It says {word} here." for word in words]
        documents[await read_document(database, owner, patient, texts)] = words
    return documents


# -- must show 4 ------------------------------------------------------------------------------------------------------

LIMIT = 60
INSTANCES = 4
SECONDS = 123.0
"""Two times as long as a slot counts."""


async def test_four_instances_use_up_a_limit_and_never_pass_it(
    database: Database,
    owner: asyncpg.Connection,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    await owner.execute("select chartloom.set_rate_limit('openai:invented', $1, null)", LIMIT)
    await add_documents(database, owner, 60, pages=5)
    async with FakeOpenAI().serving() as endpoint:
        endpoint.script = lambda body: Play(answer(body), seconds=1.0)
        # Nobody is killed here: a machine that is busy must not look as if.
        settings = settings_for(endpoint, LEASE_SECONDS="60")
        async with fleet(database, tmp_path, settings, services=["sweeper"]) as services:
            await services.start(["ai"], INSTANCES)
            await until_true(lambda: bool(endpoint.arrivals), what="the first call", seconds=120)
            await asyncio.sleep(endpoint.arrivals[0] + SECONDS - time.monotonic())
            arrivals = [at - endpoint.arrivals[0] for at in endpoint.arrivals if at - endpoint.arrivals[0] < SECONDS]
            assert await owner.fetchval("select count(*) from chartloom.job_queue where job_type like 'ai_%'") > 0
    most = max(sum(at <= other < at + 60 for other in arrivals) for at in arrivals)
    used = len(arrivals) / (LIMIT * SECONDS / 60)
    attempts = await owner.fetchval("select count(*) from chartloom.processing_errors where kind = 'snoozed'")
    figures = {
        "requests": len(arrivals),
        "most in any minute": most,
        "share of the limit that was used": round(used, 4),
        "jobs put off": attempts,
        "longest gap": round(max(later - earlier for earlier, later in pairwise(arrivals)), 2),
    }
    report(figures, capsys, record_property)
    assert most <= LIMIT
    # A quiet machine uses 98 % of it; how much a busy one does is its own affair, but it must not stand still.
    assert used >= 0.5
    assert await owner.fetchval("select count(*) from chartloom.processing_errors where kind <> 'snoozed'") == 0


# -- must show 3 ------------------------------------------------------------------------------------------------------

SEED = 20261124
DOCUMENTS = 24
PAGES = 6
KILLS = 8
FAULTY = 0.4
"""Of the questions, each of which fails once."""
FAULTS = {
    "429 with Retry-After": Play(status=429, headers={"Retry-After": "1"}),
    "500": Play(status=500),
    "no answer in time": Play(hang=True),
    "cut connection": Play(cut=True),
    "truncated": Play({"mentions": []}, truncate=True),
    "schema ignored": Play(text="Of course! Here is what I found."),
    "wrong JSON": Play({"mentions": [{"quote": 1}], "entities": 2, "sentences": None}),
}
JUST_ANSWERED_SECONDS = 0.5
"""A reply that left so shortly before a kill may not have been kept yet: it counts as in flight."""


class Faulty:
    """Fails some questions once, by a seed; keeps count of the others, answered or broken off by a kill."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.begun: Counter[str] = Counter()
        self.answered: dict[str, float] = {}
        self.open = 0

    def __call__(self, body: dict[str, Any]) -> Play:
        question = question_of(body)
        self.asked[question] += 1
        source = random.Random(f"{SEED} {question}")
        if self.asked[question] == 1 and source.random() < FAULTY:
            fault = source.choice(list(FAULTS))
            self.faults[fault] += 1
            return FAULTS[fault]
        self.begun[question] += 1
        self.open += 1

        def end(is_answered: bool) -> None:
            self.open -= 1
            if is_answered:
                self.answered[question] = time.monotonic()

        return Play(answer(body), seconds=source.uniform(0.5, 1.5), on_end=end)

    def in_flight(self) -> int:
        since = time.monotonic() - JUST_ANSWERED_SECONDS
        return self.open + sum(at >= since for at in self.answered.values())


async def test_faults_and_kills_lose_and_double_nothing_and_repeat_only_what_was_in_flight(
    database: Database,
    owner: asyncpg.Connection,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    # A fault spends an attempt, and here each question may have one: the job's own limits are not what is tested.
    await owner.execute(
        "update chartloom.job_types set max_retries = 50, max_lease_losses = 50, backoff_base_seconds = 0.1, "
        "backoff_cap_seconds = 0.5"
    )
    documents = await add_documents(database, owner, DOCUMENTS, pages=PAGES)
    faulty = Faulty()
    source = random.Random(SEED)
    async with FakeOpenAI().serving() as endpoint:
        endpoint.script = faulty
        settings = settings_for(endpoint, AI_TIMEOUT_SECONDS="4", WORKER_CONCURRENCY="2")
        async with fleet(database, tmp_path, settings, services=["sweeper", "persister"]) as services:
            await services.start(["ai"], 2)
            victims = [instance for instance in services.instances if instance.service == "ai"]
            in_flight = 0
            for _ in range(KILLS):
                await until_true(lambda: faulty.open > 2, what="calls in flight", seconds=60)
                await asyncio.sleep(source.uniform(0.0, 0.5))
                in_flight += faulty.in_flight()
                await services.kill(source.choice(victims))
            await until(owner, "not exists (select from shell_files where status <> 'completed')", seconds=150)
            assert set((await services.stop()).values()) == {0}
    repeated = faulty.begun.total() - len(faulty.begun)
    figures = {
        "kills": KILLS,
        "questions": len(faulty.begun),
        **{f"fault: {name}": count for name, count in faulty.faults.items()},
        "in flight at the kills": in_flight,
        "repeated calls": repeated,
    }
    report(figures, capsys, record_property)
    assert set(faulty.faults) == set(FAULTS)
    assert in_flight > 0
    assert repeated <= in_flight
    found = await owner.fetch(
        "select shell_file_id, array_agg(text order by text) as words from patient_clinical_events group by 1"
    )
    assert {row["shell_file_id"]: row["words"] for row in found} == documents
    assert await owner.fetchval("select count(*) from ai_checkpoints") == 0
    logs = "".join(path.read_text() for path in tmp_path.glob("ai-*.log"))
    assert "mark0" not in logs


def report(
    figures: dict[str, Any], capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    for name, value in figures.items():
        record_property(name, value)
    with capsys.disabled():
        print("\n" + "\n".join(f"  {value:>8} {name}" for name, value in figures.items()))
