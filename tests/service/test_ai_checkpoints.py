"""What was answered is a row before the next is asked: no call is made twice, whoever takes the job over."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.ai import passes
from services.ai.handler import AiHandler, save_detection
from services.ai.providers import OutputInvalidError, OutputTruncatedError, Provider
from services.ai.providers.openai import OpenAIProvider
from shared.contract.payloads import DocumentPayload
from shared.database import open_pool
from shared.errors import BusyError, LeaseLostError, TransientError
from shared.jobs import ClaimedJob, claim_jobs, complete_job
from tests.conftest import Database, Patient
from tests.fakes.openai_server import FakeOpenAI, Play, document_of
from tests.pipeline import read_document

PAGES = 9


def marker(body: dict[str, Any]) -> str:
    return document_of(body).split()[1]


def answer(body: dict[str, Any]) -> Play:
    mention = {"quote": marker(body), "occurrence": 1, "kind": "observation", "label": "test"}
    return Play({"mentions": [mention]})


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI().serving() as fake:
        fake.script = answer
        yield fake


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    opened = await open_pool(database.url("chartloom_ai"), size=6, application_name="test")
    yield opened
    opened.terminate()


@pytest.fixture
async def provider(server: FakeOpenAI) -> AsyncIterator[Provider]:
    opened = OpenAIProvider(model="m", api_key="k", base_url=server.url, timeout_s=5)
    yield opened
    await opened.close()


@pytest.fixture
async def document(database: Database, owner: asyncpg.Connection, patient: Patient) -> UUID:
    """A document of some pages, read; pass 1 is next."""
    return await read_document(
        database, owner, patient, [f"Page mark{number:02} of the record." for number in range(1, PAGES + 1)]
    )


async def take(pool: asyncpg.Pool) -> ClaimedJob:
    """The job of pass 1, for whoever takes it over."""
    (job,) = await claim_jobs(pool, worker_id="w", job_types=["ai_detect"], limit=1, lease_seconds=60)
    return job


async def lose(owner: asyncpg.Connection) -> None:
    """The holder dies."""
    await owner.execute(
        "update chartloom.job_queue set lease_expires_at = now() - interval '1 second' where lease_token is not null"
    )
    await owner.execute("select chartloom.sweep_expired_leases(10)")


async def detect(pool: asyncpg.Pool, provider: Provider, job: ClaimedJob) -> list[str]:
    payload = DocumentPayload.model_validate(job.payload)
    detection = await AiHandler(pool=pool, provider=provider).detect(job, payload)
    return [finding.text for finding in detection.findings]


ALL = [f"mark{number:02}" for number in range(1, PAGES + 1)]


@pytest.mark.usefixtures("document")
async def test_who_takes_a_job_over_asks_only_what_was_in_flight(
    pool: asyncpg.Pool, owner: asyncpg.Connection, server: FakeOpenAI, provider: Provider
) -> None:
    in_flight = asyncio.Event()
    answered = 0

    def script(body: dict[str, Any]) -> Play:
        nonlocal answered
        if answered == 5:
            in_flight.set()
            return Play(hang=True)
        answered += 1
        return answer(body)

    server.script = script
    first = asyncio.create_task(detect(pool, provider, await take(pool)))
    await in_flight.wait()
    while await owner.fetchval("select count(*) from ai_checkpoints") < 5:
        await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await lose(owner)

    server.script = answer
    job = await take(pool)
    assert await detect(pool, provider, job) == ALL
    asked = Counter(marker(body) for body in server.requests)
    assert set(asked) == set(ALL)
    assert sum(asked.values()) - PAGES <= passes._AT_ONCE


@pytest.mark.usefixtures("document")
async def test_a_failure_keeps_what_is_under_way(pool: asyncpg.Pool, server: FakeOpenAI, provider: Provider) -> None:
    refused = 0

    def script(body: dict[str, Any]) -> Play:
        nonlocal refused
        if marker(body) in ("mark02", "mark06") and refused < 2:
            refused += 1
            return Play(status=429, headers={"Retry-After": "0"})
        return answer(body)

    server.script = script
    job = await take(pool)
    for _ in range(2):
        with pytest.raises(BusyError):
            await detect(pool, provider, job)
    assert await detect(pool, provider, job) == ALL
    # Nobody was asked again but those who were refused.
    assert len(server.requests) == PAGES + 2


@pytest.mark.usefixtures("document")
async def test_another_model_asks_again(
    pool: asyncpg.Pool, owner: asyncpg.Connection, server: FakeOpenAI, provider: Provider
) -> None:
    job = await take(pool)
    await detect(pool, provider, job)
    other = OpenAIProvider(model="another", api_key="k", base_url=server.url, timeout_s=5)
    assert await detect(pool, other, job) == ALL
    await other.close()
    assert Counter(body["model"] for body in server.requests) == {"m": PAGES, "another": PAGES}


@pytest.mark.usefixtures("document")
async def test_who_lost_the_lease_keeps_nothing(
    pool: asyncpg.Pool, owner: asyncpg.Connection, server: FakeOpenAI, provider: Provider
) -> None:
    job = await take(pool)
    one_at_a_time = asyncio.Lock()

    async def on_request() -> None:
        async with one_at_a_time:
            await lose(owner)

    server.on_request = on_request
    with pytest.raises(LeaseLostError):
        await detect(pool, provider, job)
    assert await owner.fetchval("select count(*) from ai_checkpoints") == 0
    assert len(server.requests) <= passes._AT_ONCE


@pytest.mark.usefixtures("document")
async def test_a_repair_that_was_killed_is_all_that_is_asked_again(
    pool: asyncpg.Pool, server: FakeOpenAI, provider: Provider
) -> None:
    spoilt = Play({"mentions": [{"quote": "x"}]})
    repairs = 0

    def script(body: dict[str, Any]) -> Play:
        nonlocal repairs
        if marker(body) != "mark01":
            return answer(body)
        if "did not fit the schema" not in str(body):
            return spoilt
        repairs += 1
        return Play(status=500) if repairs == 1 else answer(body)

    server.script = script
    job = await take(pool)
    with pytest.raises(TransientError):
        await detect(pool, provider, job)
    # The same attempt, by whoever takes it over.
    assert await detect(pool, provider, job) == ALL
    assert Counter(marker(body) for body in server.requests)["mark01"] == 3


@pytest.mark.usefixtures("document")
async def test_what_failed_for_good_is_asked_anew_by_the_next_attempt(
    pool: asyncpg.Pool, owner: asyncpg.Connection, server: FakeOpenAI, provider: Provider
) -> None:
    def script(body: dict[str, Any]) -> Play:
        if marker(body) == "mark01":
            return Play({"mentions": [{"quote": "x"}]})
        return Play({"mentions": []}, truncate=True) if marker(body) == "mark02" else answer(body)

    server.script = script
    job = await take(pool)
    with pytest.raises((OutputInvalidError, OutputTruncatedError)):
        await detect(pool, provider, job)
    await owner.execute("select chartloom.fail_job($1, $2, 'c', 'm', true)", job.job_id, job.lease_token)
    await owner.execute("update chartloom.job_queue set scheduled_at = now()")

    server.script = answer
    assert await detect(pool, provider, await take(pool)) == ALL


@pytest.mark.usefixtures("document")
async def test_a_stored_pass_leaves_no_checkpoint(
    pool: asyncpg.Pool, owner: asyncpg.Connection, provider: Provider
) -> None:
    job = await take(pool)
    detection = await AiHandler(pool=pool, provider=provider).detect(job, DocumentPayload.model_validate(job.payload))
    # The last answer goes with the pass itself.
    assert await owner.fetchval("select count(*) from ai_checkpoints") == PAGES - 1
    assert detection.usage == {"requests": PAGES, "input_tokens": 100 * PAGES, "output_tokens": 20 * PAGES}
    await complete_job(pool, job, result=save_detection(job, detection), traceparent=None)
    assert await owner.fetchval("select count(*) from ai_checkpoints") == 0


@pytest.mark.usefixtures("document")
async def test_a_database_that_is_away_costs_no_answer(
    pool: asyncpg.Pool, database: Database, server: FakeOpenAI, provider: Provider
) -> None:
    superuser = await database.connect_as_superuser()
    job = await take(pool)
    one_at_a_time = asyncio.Lock()

    async def on_request() -> None:
        async with one_at_a_time:
            await superuser.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where usename = 'chartloom_ai' and datname = current_database()"
            )

    server.on_request = on_request
    assert await detect(pool, provider, job) == ALL
    assert len(server.requests) == PAGES
    await superuser.close()
