"""A real model server, installed from wheels: it knows nothing, and speaks the wire of all the others."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from services.ai.providers import Task, in_use
from services.ai.providers.openai import OpenAIProvider
from services.ai.wire import DetectInputs, Mentions, Passage
from shared.errors import ConfigurationError
from tests.conftest import REPOSITORY, Database, Patient
from tests.fleet import fleet
from tests.pipeline import read_document
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PYTHON = REPOSITORY / ".venv" / "model" / "bin" / "python"
NOTE = "No chest pain. Haemoglobin 10.2 g/dL. Started ramipril 5 mg once daily."


@pytest.fixture
async def model_url() -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        PYTHON,
        REPOSITORY / "bench" / "model" / "server.py",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            while not (line := (await process.stdout.readline()).decode()).startswith("> url "):
                assert line, "the model server ended before it answered"
        yield f"{line.split()[2]}/v1"
    finally:
        process.kill()
        await process.wait()


def provider_at(url: str, *, responses: bool) -> OpenAIProvider:
    return OpenAIProvider(model="gemma", api_key="none", base_url=url, timeout_s=120, responses=responses)


async def test_the_probe_finds_out_which_api_keeps_to_a_schema(model_url: str) -> None:
    provider = provider_at(model_url, responses=True)
    async with in_use(provider):
        # Its Responses API answers, and never looked at the schema.
        assert not provider.speaks_responses
        completion = await provider.complete(
            Task.DETECT, DetectInputs(passage=Passage(page=1, start=0, text=NOTE)), Mentions
        )
    assert completion.usage["input_tokens"] > 100
    assert completion.finish == "stop"


async def test_documents_go_through_all_passes_and_what_it_invents_is_no_fact(
    database: Database, owner: asyncpg.Connection, patient: Patient, model_url: str, tmp_path: Path
) -> None:
    document = await read_document(database, owner, patient, [NOTE])
    settings = {
        "AI_PROVIDER": "openai",
        "AI_MODEL": "gemma",
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": model_url,
        "AI_TIMEOUT_SECONDS": "120",
    }
    async with fleet(database, tmp_path, settings, services=["ai", "persister", "sweeper"]):
        await until(owner, "exists (select from shell_files where status in ('completed', 'failed'))", seconds=200)
    file = await owner.fetchrow("select status, processing_error from shell_files where id = $1", document)
    assert file["status"] == "completed", file["processing_error"]
    events = await owner.fetch("select quote, char_start, char_end, model from patient_clinical_events")
    assert all(NOTE[event["char_start"] : event["char_end"]] == event["quote"] for event in events)
    assert {event["model"] for event in events} <= {"gemma"}


async def test_a_server_that_only_ignores_schemas_is_refused(model_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenAIProvider, "fall_back", lambda _: False)
    with pytest.raises(ConfigurationError, match="ignores the JSON schema"):
        async with in_use(provider_at(model_url, responses=True)):
            pass
