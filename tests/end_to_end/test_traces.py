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
CONSUMER, PRODUCER = 5, 4


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
    assert [span["text"] for span in spans if span["trace_id"] != document["trace_id"]] == []

    logs = "".join(path.read_text() for path in (home / "logs").iterdir())
    for canary in CANARIES:
        assert canary not in received.read_text()
        assert canary not in logs
        assert canary not in done.stderr.replace("Zebulon Quackenbush.txt", "")
