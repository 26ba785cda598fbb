"""A provider's limits, shared by all instances through rows: never more than it allows in any minute."""

import asyncio
import json
from datetime import datetime, timedelta
from itertools import pairwise

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Database

RESERVE = "select * from chartloom.reserve_rate_slot('model', $1, $2)"
START = datetime.fromisoformat("2030-01-01T00:00:00+00:00")
COUNTS = 61.5
"""Seconds that a slot counts."""


async def set_clock(owner: asyncpg.Connection, seconds: float) -> None:
    now = START + timedelta(seconds=seconds)
    await owner.execute("select set_config('chartloom.clock', $1, false)", now.isoformat())


async def limit(owner: asyncpg.Connection, requests: int | None, tokens: int | None) -> None:
    await owner.execute("select chartloom.set_rate_limit('model', $1, $2)", requests, tokens)


async def reserve(
    owner: asyncpg.Connection, tokens: int = 0, *, patience: float = 0, at: float | None = None
) -> tuple[int | None, float]:
    """The grant, and how long to wait: for its slot, or until it is worth asking again."""
    if at is not None:
        await set_clock(owner, at)
    row = await owner.fetchrow(RESERVE, tokens, float(patience))
    return row["grant_id"], row["wait_seconds"]


async def test_a_key_that_nobody_limited_is_free(owner: asyncpg.Connection) -> None:
    assert await reserve(owner, 10) == (None, 0)


async def test_what_is_over_the_limit_is_told_when_to_come_back(owner: asyncpg.Connection) -> None:
    await limit(owner, 2, None)
    for seconds in (0, 10):
        grant, wait = await reserve(owner, at=seconds)
        assert (grant is not None, wait) == (True, 0)
    assert await reserve(owner, at=30) == (None, pytest.approx(COUNTS - 30))
    grant, wait = await reserve(owner, at=COUNTS)
    assert (grant is not None, wait) == (True, 0)


async def test_who_is_patient_gets_a_slot_ahead(owner: asyncpg.Connection) -> None:
    await limit(owner, 1, None)
    await reserve(owner, at=0)
    assert await reserve(owner, at=COUNTS - 11, patience=10) == (None, pytest.approx(1))
    grant, wait = await reserve(owner, at=COUNTS - 9, patience=10)
    assert grant is not None
    assert wait == pytest.approx(9)
    # And it counts from then on.
    grant, wait = await reserve(owner, at=2 * COUNTS - 1)
    assert (grant, wait) == (None, pytest.approx(1))


async def test_those_who_are_put_off_come_back_one_after_another(owner: asyncpg.Connection) -> None:
    await limit(owner, 60, None)
    await set_clock(owner, 0)
    while (await reserve(owner, patience=60))[0] is not None:
        pass
    waits = [(await reserve(owner, patience=10))[1] for _ in range(100)]
    gaps = [later - earlier for earlier, later in pairwise(waits)]
    assert waits[0] > 0
    # A little denser than the slots, since some come late.
    assert gaps == pytest.approx([0.8 * COUNTS / 60] * len(gaps))


async def test_the_line_is_no_longer_than_minutes_and_its_end_is_spread(owner: asyncpg.Connection) -> None:
    await limit(owner, 1, None)
    await reserve(owner, at=0)
    waits = [(await reserve(owner))[1] for _ in range(40)]
    assert max(waits) <= 300
    assert len({round(wait) for wait in waits[10:]}) > 10


async def test_a_burst_is_spread_over_a_quarter_of_the_minute(owner: asyncpg.Connection) -> None:
    await limit(owner, 60, None)
    await set_clock(owner, 0)
    slots = [await reserve(owner, patience=20) for _ in range(60)]
    assert all(grant is not None for grant, _ in slots)
    assert [wait for _, wait in slots] == pytest.approx([number * 0.25 for number in range(60)])


async def test_what_a_call_really_cost_counts(owner: asyncpg.Connection) -> None:
    await limit(owner, None, 1000)
    grant, _ = await reserve(owner, 900, at=0)
    assert (await reserve(owner, 500))[1] == pytest.approx(COUNTS)
    await owner.execute("select chartloom.settle_rate($1, 100)", grant)
    grant, wait = await reserve(owner, 500)
    assert (grant is not None, wait) == (True, 0)


async def test_a_slot_that_was_missed_is_given_back(owner: asyncpg.Connection) -> None:
    await limit(owner, 1, 1000)
    grant, _ = await reserve(owner, 900, at=0)
    again = await owner.fetchrow("select * from chartloom.reserve_rate_slot('model', 1000, 0, $1)", grant)
    assert again["grant_id"] is not None
    assert again["wait_seconds"] == 0
    assert await owner.fetchval("select count(*) from chartloom.rate_grants") == 1


async def test_one_refusal_parks_the_key_for_everybody(owner: asyncpg.Connection) -> None:
    await set_clock(owner, 0)
    await owner.execute("select chartloom.park_rate('model', 20)")
    await owner.execute("select chartloom.park_rate('model', 5)")
    waits = [(await reserve(owner, patience=30))[1] for _ in range(20)]
    assert all(20 <= wait <= 40 for wait in waits)
    # Not all of them at once, or the endpoint would refuse again.
    assert len({round(wait, 1) for wait in waits}) > 10
    assert await reserve(owner, at=21) == (None, 0)


async def test_a_limited_key_that_is_parked_gives_no_slot(owner: asyncpg.Connection) -> None:
    await limit(owner, 60, None)
    await set_clock(owner, 0)
    await owner.execute("select chartloom.park_rate('model', 20)")
    waits = [await reserve(owner, patience=30) for _ in range(3)]
    assert [grant for grant, _ in waits] == [None] * 3
    assert [wait for _, wait in waits] == pytest.approx([20 + number * 0.8 * COUNTS / 60 for number in range(3)])


async def test_a_call_that_can_never_fit_is_refused(owner: asyncpg.Connection) -> None:
    await limit(owner, None, 100)
    with pytest.raises(asyncpg.PostgresError, match="tokens") as refused:
        await reserve(owner, 101)
    assert refused.value.sqlstate == "CL005"


async def test_a_worker_of_the_last_release_shares_the_limit(owner: asyncpg.Connection) -> None:
    await limit(owner, 2, None)
    await reserve(owner, at=0)
    await set_clock(owner, 1)
    old = "select * from chartloom.reserve_rate('model', 10)"
    assert (await owner.fetchrow(old))["wait_seconds"] == 0
    assert (await owner.fetchrow(old))["wait_seconds"] == pytest.approx(COUNTS - 1)
    assert (await reserve(owner))[0] is None


async def test_instances_that_reserve_at_the_same_moment_share_one_limit(
    database: Database, owner: asyncpg.Connection
) -> None:
    await limit(owner, 7, None)
    connections = [await database.connect("chartloom_ai") for _ in range(5)]

    async def reserve_four(connection: asyncpg.Connection) -> list[float]:
        slots = [await reserve(connection, patience=20) for _ in range(4)]
        return [wait for grant, wait in slots if grant is not None]

    granted = await asyncio.gather(*(reserve_four(connection) for connection in connections))
    assert sum(len(waits) for waits in granted) == 7
    for connection in connections:
        await connection.close()


async def test_a_high_limit_is_as_cheap_as_a_low_one(owner: asyncpg.Connection) -> None:
    await limit(owner, 10_000, 20_000_000)
    for seconds in range(0, 60, 2):
        await set_clock(owner, seconds)
        await owner.execute("select chartloom.reserve_rate_slot('model', 100, 2) from generate_series(1, 330)")
    plan = await owner.fetchval(
        "explain (analyze, buffers, format json) select * from chartloom.reserve_rate_slot('model', 100, 2)"
    )
    assert await owner.fetchval("select count(*) from chartloom.rate_grants") > 9_000
    assert json.loads(plan)[0]["Plan"]["Shared Hit Blocks"] < 400


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    calls=st.lists(
        st.tuples(st.floats(0, 25), st.integers(0, 60), st.floats(0, 30), st.integers(0, 60)), min_size=1, max_size=30
    ),
    requests=st.integers(1, 5),
    tokens=st.integers(60, 150),
)
async def test_no_minute_sees_more_than_the_limit_and_no_wait_is_too_long(
    owner: asyncpg.Connection, calls: list[tuple[float, int, float, int]], requests: int, tokens: int
) -> None:
    await owner.execute("truncate chartloom.rate_slots, chartloom.rate_grants, chartloom.rate_limits")
    await limit(owner, requests, tokens)
    now = 0.0
    granted = list[tuple[float, int]]()
    for gap, cost, patience, real in calls:
        now += gap
        grant, wait = await reserve(owner, cost, patience=patience, at=now)
        if grant is None:
            # Whoever comes back when told, and waits there, is served.
            now += wait
            grant, wait = await reserve(owner, cost, patience=60, at=now)
        assert grant is not None
        at, spent = now + wait, min(real, cost)
        await owner.execute("select chartloom.settle_rate($1, $2)", grant, spent)
        granted.append((at, spent))
        minute = [spent for left, spent in granted if at - 60 < left <= at]
        assert len(minute) <= requests
        assert sum(minute) <= tokens
