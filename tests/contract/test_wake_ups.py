"""NOTIFY only while somebody sleeps: never lost while asleep, never sent while awake."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.conftest import Database

ENQUEUE = "select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}')"


class Ear:
    """Listens on a channel and counts."""

    def __init__(self, connection: asyncpg.Connection, channel: str) -> None:
        self.connection = connection
        self.channel = channel
        self.heard = 0
        self._event = asyncio.Event()

    async def listen(self) -> "Ear":
        await self.connection.add_listener(self.channel, self._hear)
        return self

    def _hear(self, *_: object) -> None:
        self.heard += 1
        self._event.set()

    async def hears(self) -> bool:
        """Whether something has come by the time that a notification sent now would have."""
        marker = asyncio.Event()
        await self.connection.add_listener("marker", lambda *_: marker.set())
        await self.connection.execute("select pg_notify('marker', '')")
        await asyncio.wait_for(marker.wait(), 5)
        await self.connection.remove_listener("marker", lambda *_: None)
        return self.heard > 0


@pytest.fixture
async def ears(database: Database) -> AsyncIterator[list[Ear]]:
    made = [
        await Ear(await database.connect("chartloom_ocr"), f"chartloom_ear_{number}").listen() for number in range(3)
    ]
    yield made
    for ear in made:
        await ear.connection.close()


async def sleep(ear: Ear, *topics: str) -> None:
    await ear.connection.execute("select chartloom.fall_asleep($1, $2)", ear.channel, list(topics))


async def test_nobody_asleep_means_no_notification(owner: asyncpg.Connection, ears: list[Ear]) -> None:
    await owner.execute(ENQUEUE)
    assert not await ears[0].hears()


async def test_one_job_wakes_one_sleeper_and_shuts_its_gate(owner: asyncpg.Connection, ears: list[Ear]) -> None:
    for ear in ears:
        await sleep(ear, "ocr")
    await owner.execute(ENQUEUE)
    assert sum([await ear.hears() for ear in ears]) == 1
    await owner.execute(ENQUEUE)
    assert sum([await ear.hears() for ear in ears]) == 2


async def test_a_sleeper_is_not_woken_for_work_of_another_type(owner: asyncpg.Connection, ears: list[Ear]) -> None:
    await sleep(ears[0], "persist")
    await owner.execute(ENQUEUE)
    assert not await ears[0].hears()


async def test_an_awake_worker_hides_no_change_from_observers(owner: asyncpg.Connection, ears: list[Ear]) -> None:
    await sleep(ears[0], "changes")
    await owner.execute(ENQUEUE)
    assert await ears[0].hears()
    await sleep(ears[1], "changes")
    job = await ears[2].connection.fetchrow("select * from chartloom.claim_jobs('w', array['ocr'], 1)")
    await ears[2].connection.execute("select chartloom.complete_job($1, $2)", job["job_id"], job["lease_token"])
    assert await ears[1].hears()


async def test_a_rolled_back_job_wakes_nobody_and_leaves_the_gate_open(
    owner: asyncpg.Connection, ears: list[Ear]
) -> None:
    await sleep(ears[0], "ocr")
    transaction = owner.transaction()
    await transaction.start()
    await owner.execute(ENQUEUE)
    await transaction.rollback()
    assert not await ears[0].hears()
    await owner.execute(ENQUEUE)
    assert await ears[0].hears()


async def test_a_notification_carries_nothing(owner: asyncpg.Connection, ears: list[Ear]) -> None:
    payloads: list[str] = []
    await ears[0].connection.add_listener("chartloom_bare", lambda *args: payloads.append(args[3]))
    await ears[0].connection.execute("select chartloom.fall_asleep('chartloom_bare', array['ocr'])")
    await owner.execute(ENQUEUE)
    await ears[0].hears()
    assert payloads == [""]


async def test_the_sweeper_wakes_whom_a_wake_up_missed(
    database: Database, owner: asyncpg.Connection, ears: list[Ear]
) -> None:
    await owner.execute(ENQUEUE)
    await sleep(ears[0], "ocr", "changes")
    await sleep(ears[1], "ai_detect")
    sweeper = await database.connect("chartloom_sweeper")
    assert await sweeper.fetchval("select chartloom.wake_for_ready_jobs()") == 1
    assert await ears[0].hears()
    assert not await ears[1].hears()
    # Once is enough: it is awake now, and nobody else sleeps for that type.
    assert await sweeper.fetchval("select chartloom.wake_for_ready_jobs()") == 0
    await sweeper.close()
