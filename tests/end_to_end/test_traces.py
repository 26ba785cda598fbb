"""What an OTLP receiver gets: one trace a document, from upload to last row, retries included, and no word of it."""

import asyncio
import json
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.end_to_end.conftest import chartloom
from tests.fakes.openai_server import FakeOpenAI, Play

CANARIES = ("Zebulon", "Quackenbush", "sarcoidosis", "prednisolone")
NOTE = "Patient: Zebulon Quackenbush\nDiagnosis: sarcoidosis.\nTreatment: prednisolone 20 mg oral once daily.\n"
CLIENT, PRODUCER, CONSUMER = 3, 4, 5


@pytest.fixture
def otlp(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A receiver process of its own: its address, and the file where each span is a line."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    received = tmp_path / "spans.jsonl"
    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "tests" / "fakes" / "otlp_receiver.py"), str(port), str(received)]
    )
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 0.1).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise
        yield f"http://127.0.0.1:{port}", received
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
async def endpoint() -> AsyncIterator[FakeOpenAI]:
    fake = FakeOpenAI()
    async with fake.serving():
        yield fake


def first_call_fails(fake: FakeOpenAI) -> None:
    """One 500, then answers to the three questions."""

    def script(body: dict[str, Any]) -> Play:
        if len(fake.requests) == 1:
            return Play(status=500)
        name = body["response_format"]["json_schema"]["name"]
        return Play(
            answer={
                "detect": {
                    "mentions": [
                        {"quote": "sarcoidosis", "occurrence": 1, "kind": "event", "label": "disease"},
                        {"quote": "prednisolone", "occurrence": 1, "kind": "intervention", "label": "medication"},
                        {"quote": "an invention", "occurrence": 1, "kind": "event", "label": "disease"},
                    ]
                },
                "enrich": {"entities": []},
                "narrate": {"sentences": [{"text": "The record names sarcoidosis.", "entity_ids": ["e1"]}]},
            }[name]
        )

    fake.script = script


async def test_one_trace_from_upload_to_last_row_with_the_retry_and_without_a_word_of_the_record(
    home: Path, otlp: tuple[str, Path], endpoint: FakeOpenAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, received = otlp
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    monkeypatch.setenv("AI_PROVIDER", "openai")
    monkeypatch.setenv("AI_MODEL", "model-under-test")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-none")
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    first_call_fails(endpoint)
    note = tmp_path / "Zebulon Quackenbush.txt"
    note.write_text(NOTE)
    out = tmp_path / "out.json"

    done = await asyncio.to_thread(chartloom, "process", note, "--json", out)
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text())["documents"][0]
    assert [entity["source"]["quote"] for entity in document["entities"]] == ["sarcoidosis", "prednisolone"]
    assert {entity["model"] for entity in document["entities"]} == {"model-under-test"}
    attempts = {stage["job_type"]: stage["attempts"] for stage in document["stages"]}
    assert attempts == {"ocr": 1, "ai_detect": 2, "ai_enrich": 1, "ai_narrate": 1, "persist": 1}

    spans = [json.loads(line) for line in received.read_text().splitlines()]
    trace = [span for span in spans if span["trace_id"] == document["trace_id"]]
    by_name = defaultdict(list)
    for span in trace:
        by_name[span["name"]].append(span)

    # Every hop of the document is in its one trace, and in no other.
    hops = [span for span in spans if span["kind"] in (CONSUMER, PRODUCER)]
    assert {span["trace_id"] for span in hops} == {document["trace_id"]}
    for job_type, count in attempts.items():
        assert len(by_name[f"send {job_type}"]) == 1
        assert len(by_name[f"process {job_type}"]) == count
        (send,) = by_name[f"send {job_type}"]
        for process in by_name[f"process {job_type}"]:
            assert process["parent_id"] == send["span_id"]
    assert sorted(span["failed"] for span in by_name["process ai_detect"]) == [False, True]
    (upload,) = by_name["upload document"]
    assert upload["parent_id"] == ""
    ids = {span["span_id"] for span in trace}
    assert all(span["parent_id"] in ids for span in trace if span is not upload)
    assert {span["service"] for span in trace} == {
        "chartloom-cli", "chartloom-ocr", "chartloom-ai", "chartloom-persister",
    }  # fmt: skip
    # Polls, heartbeats and sweeps are in no trace at all.
    # The question at the start, whether the endpoint keeps to a schema, is one of its own.
    assert [span["name"] for span in spans if span["trace_id"] != document["trace_id"]] == ["chat model-under-test"]

    assert_conventions(trace, document["shell_file_id"])
    assert_calls_are_inside(trace)

    logs = "".join(path.read_text() for path in (home / "logs").iterdir())
    measured = Path(f"{received}.metrics").read_text()
    assert "chartloom_ai_queue_seconds" in measured
    for canary in CANARIES:
        assert canary not in received.read_text()
        assert canary not in measured
        assert canary not in logs
        assert canary not in done.stderr.replace("Zebulon Quackenbush.txt", "")
    assert document["shell_file_id"] not in measured
    assert document["patient_id"] not in measured

    # The same from the rows alone, and no word of the record there, either.
    shown = await asyncio.to_thread(chartloom, "trace", document["shell_file_id"])
    assert shown.returncode == 0, shown.stderr
    assert document["trace_id"] in shown.stdout
    assert "model_unavailable" in shown.stdout
    told = await asyncio.to_thread(chartloom, "trace", str(document["stages"][1]["job_id"]), "--json")
    waterfall = json.loads(told.stdout)
    assert {job["job_type"]: len(job["attempts"]) for job in waterfall["jobs"]} == attempts
    assert [attempt["outcome"] for attempt in waterfall["jobs"][1]["attempts"]] == ["transient", "completed"]
    for canary in CANARIES:
        assert canary not in shown.stdout + told.stdout


def assert_conventions(trace: list[dict[str, Any]], document_id: str) -> None:
    """https://opentelemetry.io/docs/specs/semconv/: messaging, database, GenAI."""
    kinds = {"send": PRODUCER, "process": CONSUMER, "settle": CLIENT}
    hops = [span for span in trace if span["name"].split()[0] in kinds]
    for span in hops:
        operation, destination = span["name"].split()
        attributes = span["attributes"]
        assert span["kind"] == kinds[operation]
        assert attributes["messaging.system"] == "postgresql"
        assert attributes["messaging.destination.name"] == destination
        assert attributes["messaging.operation.name"] == attributes["messaging.operation.type"] == operation
        assert attributes["document.id"] == document_id
        if operation == "process":
            assert attributes["messaging.message.id"] == attributes["job.id"]
            assert attributes["job.queue_wait_s"] >= 0
            assert attributes["job.attempt"] in (1, 2)
    sent = {span["attributes"]["messaging.message.id"] for span in hops if span["name"].startswith("send ai_")}
    assert sent <= {span["attributes"]["job.id"] for span in hops if span["name"].startswith("process")}
    (failed,) = [span for span in hops if span["name"] == "process ai_detect" and span["failed"]]
    assert failed["attributes"]["error.type"] == "model_unavailable"

    statements = [span for span in trace if "db.query.text" in span["attributes"]]
    for span in statements:
        assert span["kind"] == CLIENT
        assert span["attributes"]["db.system.name"] == "postgresql"
        # Without its parameters, and by the stable names only.
        assert not {"db.statement", "db.statement.parameters", "net.peer.name"} & span["attributes"].keys()

    calls = sorted((span for span in trace if span["name"].startswith("chat ")), key=lambda span: span["start"])
    assert {span["name"] for span in calls} == {"chat model-under-test"}
    assert [span["failed"] for span in calls] == [True] + [False] * (len(calls) - 1)
    assert calls[0]["attributes"]["error.type"] == "model_unavailable"
    for span in calls:
        assert span["kind"] == CLIENT
        assert span["attributes"]["gen_ai.operation.name"] == "chat"
        assert span["attributes"]["gen_ai.provider.name"] == "openai"
        assert span["attributes"]["gen_ai.request.model"] == "model-under-test"
    for span in calls[1:]:
        assert span["attributes"]["gen_ai.response.model"] == "model-under-test"
        assert span["attributes"]["gen_ai.usage.input_tokens"] == 100
        assert span["attributes"]["gen_ai.usage.output_tokens"] == 20


def assert_calls_are_inside(trace: list[dict[str, Any]]) -> None:
    """Each attempt holds its own statements, and those of the passes their calls of the model."""
    by_id = {span["span_id"]: span for span in trace}

    def attempt_around(span: dict[str, Any]) -> str | None:
        while span and not span["name"].startswith("process "):
            span = by_id.get(span["parent_id"], {})
        return span.get("span_id")

    processes = [span for span in trace if span["name"].startswith("process ")]
    statements = [span for span in trace if "db.query.text" in span["attributes"]]
    assert {attempt_around(span) for span in statements} == {span["span_id"] for span in processes}
    for span in trace:
        if span["name"].startswith("chat "):
            around = by_id[attempt_around(span) or ""]
            assert around["name"].startswith("process ai_")
            assert around["start"] <= span["start"] <= span["end"] <= around["end"]
