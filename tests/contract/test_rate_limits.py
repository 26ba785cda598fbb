"""A provider's limits, shared by all instances through rows: never more than it allows in any minute."""

import asyncio
from datetime import datetime, timedelta

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Database

RESERVE = "select * from chartloom.reserve_rate('model', $1)"
START = datetime.fromisoformat("2030-01-01T00:00:00+00:00")


async def set_clock(owner: asyncpg.Connection, now: datetime) -> None:
    await owner.execute("select set_config('chartloom.clock', $1, false)", now.isoformat())


async def limit(owner: asyncpg.Connection, requests: int | None, tokens: int | None) -> None:
    await owner.execute("select chartloom.set_rate_limit('model', $1, $2)", requests, tokens)


async def test_a_key_that_nobody_limited_is_free(owner: asyncpg.Connection) -> None:
    row = await owner.fetchrow(RESERVE, 10)
    assert (row["grant_id"], row["wait_seconds"]) == (None, 0)


async def test_what_is_over_the_limit_is_told_how_long_to_wait(owner: asyncpg.Connection) -> None:
    await set_clock(owner, START)
    await limit(owner, 2, None)
    for seconds in (0, 10):
        await set_clock(owner, START + timedelta(seconds=seconds))
        assert (await owner.fetchrow(RESERVE, 0))["wait_seconds"] == 0
    await set_clock(owner, START + timedelta(seconds=30))
    assert (await owner.fetchrow(RESERVE, 0))["wait_seconds"] == pytest.approx(31)
    await set_clock(owner, START + timedelta(seconds=61))
    assert (await owner.fetchrow(RESERVE, 0))["wait_seconds"] == 0
    assert (await owner.fetchrow(RESERVE, 0))["wait_seconds"] == pytest.approx(10)


async def test_what_a_call_really_cost_counts(owner: asyncpg.Connection) -> None:
    await set_clock(owner, START)
    await limit(owner, None, 1000)
    grant = await owner.fetchrow(RESERVE, 900)
    assert (await owner.fetchrow(RESERVE, 500))["wait_seconds"] == pytest.approx(61)
    await owner.execute("select chartloom.settle_rate($1, 100)", grant["grant_id"])
    assert (await owner.fetchrow(RESERVE, 500))["wait_seconds"] == 0


async def test_one_refusal_parks_the_key_for_everybody(owner: asyncpg.Connection) -> None:
    await set_clock(owner, START)
    await owner.execute("select chartloom.park_rate('model', 20)")
    await owner.execute("select chartloom.park_rate('model', 5)")
    assert (await owner.fetchrow(RESERVE, 0))["wait_seconds"] == pytest.approx(20)
    await set_clock(owner, START + timedelta(seconds=21))
    assert (await owner.fetchrow(RESERVE, 0))["wait_seconds"] == 0


async def test_a_call_that_can_never_fit_is_refused(owner: asyncpg.Connection) -> None:
    await limit(owner, None, 100)
    with pytest.raises(asyncpg.PostgresError, match="tokens") as refused:
        await owner.fetchrow(RESERVE, 101)
    assert refused.value.sqlstate == "CL005"


async def test_instances_that_reserve_at_the_same_moment_share_one_limit(
    database: Database, owner: asyncpg.Connection
) -> None:
    await limit(owner, 7, None)
    connections = [await database.connect("chartloom_ai") for _ in range(5)]

    async def reserve(connection: asyncpg.Connection) -> int:
        return sum([(await connection.fetchrow(RESERVE, 0))["wait_seconds"] == 0 for _ in range(4)])

    assert sum(await asyncio.gather(*(reserve(connection) for connection in connections))) == 7
    for connection in connections:
        await connection.close()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    calls=st.lists(st.tuples(st.floats(0, 25), st.integers(0, 60)), min_size=1, max_size=25),
    requests=st.integers(1, 5),
    tokens=st.integers(60, 150),
)
async def test_no_minute_sees_more_than_the_limit_and_no_wait_is_too_long(
    owner: asyncpg.Connection, calls: list[tuple[float, int]], requests: int, tokens: int
) -> None:
    await owner.execute("truncate chartloom.rate_grants, chartloom.rate_limits")
    await limit(owner, requests, tokens)
    now, granted = START, list[tuple[datetime, int]]()
    for gap, cost in calls:
        now += timedelta(seconds=gap)
        await set_clock(owner, now)
        wait = (await owner.fetchrow(RESERVE, cost))["wait_seconds"]
        if wait > 0:
            # Just before, it would have been too early; then it is granted.
            now += timedelta(seconds=wait)
            await set_clock(owner, now - timedelta(milliseconds=5))
            assert (await owner.fetchrow(RESERVE, cost))["wait_seconds"] > 0
            await set_clock(owner, now)
            assert (await owner.fetchrow(RESERVE, cost))["wait_seconds"] == 0
        granted.append((now, cost))
        minute = [spent for at, spent in granted if at > now - timedelta(seconds=60)]
        assert len(minute) <= requests
        assert sum(minute) <= tokens
