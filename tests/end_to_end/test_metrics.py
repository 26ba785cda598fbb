"""Every metric that a rule, a dashboard or the monitoring plan names is on the /metrics of services at work."""

import asyncio
import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from cli.deployment import SERVICES, Deployment
from cli.documents import ensure_patient, submit
from cli.supervisor import Supervisor
from ops.dashboards import dashboards
from shared.storage import open_storage
from tests.conftest import REPOSITORY, Database
from tests.end_to_end.conftest import SAMPLES
from tests.fakes.openai_server import FakeOpenAI, Play
from tests.waiting import until, until_true

CANARIES = ("Zebulon", "Quackenbush", "sarcoidosis", "prednisolone")
NOTE = "Patient: Zebulon Quackenbush\nDiagnosis: sarcoidosis.\nTreatment: prednisolone 20 mg oral once daily.\n"
LABELS = {
    "job_type", "outcome", "status", "service", "state", "model", "direction", "decision", "antivirus", "reason",
    "round", "text_source", "pass", "grounded", "le", "otel_scope_name", "otel_scope_version", "otel_scope_schema_url",
}  # fmt: skip
METRIC = re.compile(r"\b(?:chartloom_[a-z0-9_]+|target_info)\b")


def answer(fake: FakeOpenAI) -> None:
    """One 429, then what the questions ask for."""

    def script(body: dict[str, Any]) -> Play:
        if len(fake.requests) == 1:
            return Play(status=429, headers={"retry-after": "1"})
        name = body["response_format"]["json_schema"]["name"]
        mention = {"quote": "sarcoidosis", "occurrence": 1, "kind": "event", "label": "disease"}
        return Play(
            answer={"detect": {"mentions": [mention]}, "enrich": {"entities": []}, "narrate": {"sentences": []}}[name]
        )

    fake.script = script


@pytest.fixture
async def endpoint(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeOpenAI]:
    fake = FakeOpenAI()
    async with fake.serving():
        monkeypatch.setenv("AI_PROVIDER", "openai")
        monkeypatch.setenv("AI_MODEL", "model-under-test")
        monkeypatch.setenv("AI_PRICES", json.dumps({"model-under-test": {"input": 2.5, "output": 10}}))
        monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        answer(fake)
        yield fake


class Running:
    """The four services: the port of each, and how many attempts completed, as their logs say."""

    def __init__(self, deployment: Deployment) -> None:
        self.ports: dict[str, int] = {}
        self.completed: Counter[str] = Counter()
        self.supervisor = Supervisor(deployment, on_line=self._on_line)

    def _on_line(self, service: str, line: str) -> None:
        entry = json.loads(line)
        if entry["event"] == "started":
            self.ports[service] = entry["port"]
        if entry.get("outcome") == "completed":
            self.completed[entry["job_type"]] += 1

    async def scrape(self) -> dict[str, str]:
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            pages = {}
            for service, port in self.ports.items():
                async with session.get(f"http://127.0.0.1:{port}/metrics") as response:
                    pages[service] = await response.text()
            return pages


@pytest.fixture
def deployment(database: Database, tmp_path: Path) -> Deployment:
    (tmp_path / "storage").mkdir()
    return Deployment(
        owner_url=database.url(),
        service_urls={service: database.url(f"chartloom_{service}") for service in SERVICES},
        storage_url=(tmp_path / "storage").as_uri(),
        home=tmp_path,
        is_embedded=False,
    )


def expressions() -> Iterator[str]:
    for name in ("rules.yml", "alerts.yml"):
        for group in yaml.safe_load((REPOSITORY / "ops" / "prometheus" / name).read_text())["groups"]:
            yield from (rule["expr"] for rule in group["rules"])
    for dashboard in dashboards().values():
        yield from (target.get("expr", "") for panel in dashboard["panels"] for target in panel["targets"])
    plan = (REPOSITORY / "docs" / "monitoring.md").read_text().splitlines()
    yield from (line for line in plan if line.startswith("| `chartloom_"))


async def test_every_metric_that_is_named_is_there_and_none_says_whose_record_it_was(
    deployment: Deployment, owner: asyncpg.Connection, endpoint: FakeOpenAI, tmp_path: Path
) -> None:
    # A lease that nobody renews, and a job that waits.
    await owner.execute("select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}')")
    await owner.execute("select * from chartloom.claim_jobs('silent', array['ocr'], 1, 1)")
    await owner.execute(
        "select chartloom.enqueue_job_v3('persist', 'ai', '{\"noop\": true}', p_scheduled_at => now() + '1 hour')"
    )
    note = tmp_path / "Zebulon Quackenbush.txt"
    note.write_text(NOTE)
    patient_id = await ensure_patient(owner, uuid4())
    storage = open_storage(deployment.storage_url)
    running = Running(deployment)
    running.supervisor.start()
    try:
        documents = [await submit(owner, storage, path, patient_id) for path in (note, SAMPLES[2])]
        # Said after it was measured, which is after it was committed.
        await until_true(lambda: running.completed["persist"] == len(documents), what="all persisted", seconds=120)
        await until(owner, "exists (select from chartloom.processing_errors where kind = 'lease_lost')")
        await until_true(lambda: len(running.ports) == len(SERVICES), what="each service says where its metrics are")
        pages = await running.scrape()
    finally:
        await running.supervisor.stop()

    samples = [
        sample
        for page in pages.values()
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    ]
    named = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert len(named) > 25
    # A histogram is said by its own name in prose.
    there = {sample.name for sample in samples} | {sample.name.removesuffix("_count") for sample in samples}
    assert named - there == set()

    for histogram, edge in (("chartloom_fast_queue_seconds", "120"), ("chartloom_ai_queue_seconds", "600")):
        assert value(samples, f"{histogram}_count") == len(documents)
        assert value(samples, f"{histogram}_bucket", le=edge) == len(documents)
    assert value(samples, "chartloom_ai_rate_limit_wait_seconds_sum", reason="endpoint") == 1
    tokens = {
        direction: value(samples, "chartloom_ai_tokens_total", direction=direction) for direction in ("input", "output")
    }
    assert tokens["input"] == 5 * tokens["output"] > 0
    cost = value(samples, "chartloom_ai_cost_total", model="model-under-test")
    assert cost == pytest.approx((tokens["input"] * 2.5 + tokens["output"] * 10) / 1e6)
    assert value(samples, "chartloom_leases_lost_total", job_type="ocr") == 1
    assert value(samples, "chartloom_failed_audit_events") == 0
    assert 0 < value(samples, "chartloom_ocr_page_confidence_sum") <= 1

    whole = "".join(pages.values())
    for secret in (*CANARIES, str(patient_id), *(str(document.shell_file_id) for document in documents)):
        assert secret not in whole
    for sample in samples:
        if sample.name.startswith("chartloom_"):
            # No label may grow with the records: what it may be is known beforehand.
            assert sample.labels.keys() <= LABELS, sample


def value(samples: list[Sample], name: str, **labels: str) -> float:
    """The sum over all services of the series with these labels."""
    return sum(sample.value for sample in samples if sample.name == name and labels.items() <= sample.labels.items())


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt install prometheus)"
)
async def test_promtool_has_nothing_to_say_of_the_metrics(deployment: Deployment) -> None:
    running = Running(deployment)
    running.supervisor.start(("ocr", "sweeper"))
    try:
        await until_true(lambda: len(running.ports) == 2, what="each service says where its metrics are")
        pages = await running.scrape()
    finally:
        await running.supervisor.stop()
    for service, page in pages.items():
        done = await asyncio.to_thread(
            subprocess.run, ["promtool", "check", "metrics"], input=page, capture_output=True, text=True, check=False
        )
        ours = [line for line in done.stderr.splitlines() if line.startswith("chartloom_")]
        assert ours == [], service
