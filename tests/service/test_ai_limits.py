"""Limits of a model endpoint are rows: what one instance uses, or is told to wait, holds for all of them."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import asyncpg
import pytest

from services.ai.providers import Provider, Task, in_use, within_limits
from services.ai.providers.openai import OpenAIProvider
from services.ai.wire import DetectInputs, Mentions, Passage
from shared.database import open_pool
from shared.errors import BusyError, TerminalError
from tests.conftest import Database
from tests.fakes.openai_server import FakeOpenAI, Play
from tests.proxy import proxy_to

ANSWER: dict[str, list[object]] = {"mentions": []}
KEY = "openai:test-model"


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI().serving() as fake:
        yield fake


@pytest.fixture
async def instances(database: Database, server: FakeOpenAI) -> AsyncIterator[list[Provider]]:
    """Two instances of the service, each with its own connections."""
    pools = [await open_pool(database.url("chartloom_ai"), size=2, application_name="test") for _ in range(2)]
    providers = [OpenAIProvider(model="test-model", api_key="k", base_url=server.url, timeout_s=5) for _ in pools]
    yield [within_limits(provider, pool) for provider, pool in zip(providers, pools, strict=True)]
    for provider, pool in zip(providers, pools, strict=True):
        await provider.close()
        pool.terminate()


async def ask(provider: Provider, text: str = "A cough.") -> None:
    await provider.complete(Task.DETECT, DetectInputs(passage=Passage(page=1, start=0, text=text)), Mentions)


async def test_instances_share_a_limit(
    owner: asyncpg.Connection, server: FakeOpenAI, instances: list[Provider]
) -> None:
    await owner.execute("select chartloom.set_rate_limit($1, 2, null)", KEY)
    server.play(Play(ANSWER), Play(ANSWER), Play(ANSWER))
    await ask(instances[0])
    await ask(instances[1])
    with pytest.raises(BusyError) as refused:
        await ask(instances[0])
    # It comes back a little before its moment, and waits the rest here.
    assert 45 < refused.value.retry_after.total_seconds() <= 52
    assert len(server.requests) == 2


async def test_a_call_whose_moment_is_near_waits_for_it(
    owner: asyncpg.Connection, server: FakeOpenAI, instances: list[Provider]
) -> None:
    await owner.execute("select chartloom.set_rate_limit($1, 60, null)", KEY)
    server.play(Play(ANSWER))
    await asyncio.gather(*(ask(instance) for instance in instances for _ in range(3)))
    gaps = [later - earlier for earlier, later in pairwise(server.arrivals)]
    assert len(gaps) == 5
    # A burst is four times as fast as the limit.
    assert sum(gaps) == pytest.approx(5 * 0.25, abs=0.5)


async def test_a_repair_is_a_request_of_its_own(
    owner: asyncpg.Connection, server: FakeOpenAI, instances: list[Provider]
) -> None:
    await owner.execute("select chartloom.set_rate_limit($1, 1, null)", KEY)
    server.play(Play({"mentions": 1}))
    with pytest.raises(BusyError):
        await ask(instances[0])
    assert len(server.requests) == 1


async def test_what_a_call_really_cost_is_settled(
    owner: asyncpg.Connection, server: FakeOpenAI, instances: list[Provider]
) -> None:
    await owner.execute("select chartloom.set_rate_limit($1, null, 100000)", KEY)
    server.play(Play(ANSWER))
    await ask(instances[0], "x" * 1000)
    assert await owner.fetchval("select tokens from chartloom.rate_grants") == 120
    assert await owner.fetchval("select sum(tokens) from chartloom.rate_slots") == 120


async def test_a_reply_that_was_of_no_use_is_settled_too(
    owner: asyncpg.Connection, server: FakeOpenAI, instances: list[Provider]
) -> None:
    await owner.execute("select chartloom.set_rate_limit($1, null, 100000)", KEY)
    server.play(Play(ANSWER, truncate=True))
    with pytest.raises(Exception, match="output tokens"):
        await ask(instances[0], "x" * 1000)
    assert await owner.fetchval("select sum(tokens) from chartloom.rate_slots") == 120


async def test_what_calls_cost_is_learnt(
    owner: asyncpg.Connection, server: FakeOpenAI, instances: list[Provider]
) -> None:
    await owner.execute("select chartloom.set_rate_limit($1, null, 1000000)", KEY)
    reserved = []

    async def look() -> None:
        reserved.append(await owner.fetchval("select tokens from chartloom.rate_grants order by id desc limit 1"))

    server.on_request = look
    server.play(Play(ANSWER))
    for _ in range(3):
        await ask(instances[0], "x" * 4000)
    # Half a token a character is the first guess; replies say that it is 120 in all.
    assert reserved == sorted(reserved, reverse=True)
    assert reserved[-1] < 0.9 * reserved[0]


async def test_one_refusal_parks_the_key_for_all(
    owner: asyncpg.Connection, server: FakeOpenAI, instances: list[Provider]
) -> None:
    server.play(Play(status=429, headers={"Retry-After": "7"}), Play(ANSWER))
    with pytest.raises(BusyError):
        await ask(instances[0])
    with pytest.raises(BusyError) as refused:
        await ask(instances[1])
    assert 5 < refused.value.retry_after.total_seconds() <= 14
    assert len(server.requests) == 1
    await owner.execute("update chartloom.rate_limits set parked_until = now() - interval '1 second'")
    await ask(instances[1])


async def test_a_question_beyond_the_limit_of_a_minute_is_no_retry_loop(
    owner: asyncpg.Connection, server: FakeOpenAI, instances: list[Provider]
) -> None:
    await owner.execute("select chartloom.set_rate_limit($1, null, 100)", KEY)
    with pytest.raises(TerminalError) as refused:
        await ask(instances[0], "x" * 1000)
    assert refused.value.code == "model_limit_too_small"
    assert server.requests == []


async def test_a_database_that_goes_away_during_the_probe_is_waited_for(
    database: Database, server: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service must not end: whoever restarts it would find the database away again."""
    monkeypatch.setattr("services.ai.providers.probe._PAUSE_SECONDS", 0.01)
    provider = OpenAIProvider(model="test-model", api_key="k", base_url=server.url, timeout_s=5)
    async with proxy_to(database.admin_url) as proxy:
        pool = await open_pool(proxy.url(database.url("chartloom_ai")), size=2, application_name="test")

        async def start() -> None:
            async with in_use(within_limits(provider, pool)):
                pass

        starting = asyncio.create_task(start())
        for _ in range(4):
            proxy.lost.clear()
            proxy.lose(b"reserve_rate_slot", "request")
            await proxy.lost.wait()
            assert server.probes == []
            proxy.cut()
        await starting
        assert len(server.probes) == 1
        pool.terminate()
    await provider.close()
