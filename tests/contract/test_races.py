"""Interleavings forced with transactions held open: who comes second waits or goes past, and nothing happens twice.

What must not wait runs under a lock_timeout, so that it fails where it would wait; that something waits is seen in
pg_blocking_pids. So each test has one outcome, however fast the machine is.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.conftest import Database, Patient
from tests.users import become_user, upload
from tests.waiting import until_blocked

LIVE = "select id, status, lease_losses from chartloom.job_queue order by id"
COMPLETE = "select chartloom.complete_job($1, $2)"
COMPLETE_MANY = "select * from chartloom.complete_jobs($1, $2)"
HEARTBEAT = "select state from chartloom.heartbeat_jobs($1, 'ocr', '0', $2, $3)"
SWEEP = "select job_id from chartloom.sweep_expired_leases($1)"
CANCEL = "select chartloom.cancel_document_jobs($1)"
DOCUMENT_IS = "select status from shell_files where id = $1"
PART = {"part": "integer"}


@dataclass(frozen=True)
class Session:
    """A connection that may hold a transaction open or stand waiting."""

    connection: asyncpg.Connection
    watcher: asyncpg.Connection

    async def begin(self) -> None:
        await self.connection.execute("begin")

    async def commit(self) -> None:
        await self.connection.execute("commit")

    async def rollback(self) -> None:
        await self.connection.execute("rollback")

    async def __call__(self, query: str, *arguments: Any) -> list[Any]:
        """The first column of the rows."""
        return [row[0] for row in await self.connection.fetch(query, *arguments)]

    async def without_waiting(self, query: str, *arguments: Any) -> list[Any]:
        """Raises LockNotAvailableError where it would wait for another transaction."""
        await self.connection.execute("set lock_timeout = '100ms'")
        try:
            return await self(query, *arguments)
        finally:
            await self.connection.execute("set lock_timeout = 0")

    async def waits_or_ends(self, query: str, *arguments: Any) -> "asyncio.Task[list[Any]]":
        """Starts the statement, and returns when it can get no further for the moment."""
        task = asyncio.create_task(self(query, *arguments))
        watching = asyncio.create_task(until_blocked(self.watcher, self.connection.get_server_pid()))
        await asyncio.wait([task, watching], return_when=asyncio.FIRST_COMPLETED)
        watching.cancel()
        return task

    async def waits(self, query: str, *arguments: Any) -> "asyncio.Task[list[Any]]":
        """Starts the statement, and returns when it waits for a lock of somebody else's."""
        task = asyncio.create_task(self(query, *arguments))
        await until_blocked(self.watcher, self.connection.get_server_pid())
        assert not task.done()
        return task


@asynccontextmanager
async def open_sessions(database: Database) -> AsyncIterator[list[Session]]:
    """Three, besides the owner's own connection."""
    connections = [await database.connect() for _ in range(4)]
    try:
        yield [Session(connection, connections[3]) for connection in connections[:3]]
    finally:
        for connection in connections:
            connection.terminate()


@pytest.fixture
async def sessions(database: Database) -> AsyncIterator[list[Session]]:
    async with open_sessions(database) as opened:
        yield opened


@dataclass(frozen=True)
class Held:
    """A job in the hands of a worker."""

    job_id: int
    token: UUID
    document: UUID | None = None


async def enqueue(owner: asyncpg.Connection, count: int, *, job_type: str = "ocr", **arguments: Any) -> list[int]:
    extra = "".join(f", p_{name} => ${place}" for place, name in enumerate(arguments, start=2))
    category = await owner.fetchval("select job_category from chartloom.job_types where job_type = $1", job_type)
    query = f"select chartloom.enqueue_job_v3($1, '{category}', '{{\"noop\": true}}'{extra})"
    return [await owner.fetchval(query, job_type, *arguments.values()) for _ in range(count)]


async def claim(owner: asyncpg.Connection, count: int = 1000, *, job_type: str = "ocr") -> list[Held]:
    rows = await owner.fetch("select * from chartloom.claim_jobs('worker', array[$1], $2)", job_type, count)
    return sorted(
        (Held(row["job_id"], row["lease_token"], row["shell_file_id"]) for row in rows), key=lambda job: job.job_id
    )


async def expire(owner: asyncpg.Connection) -> None:
    await owner.execute(
        "update chartloom.job_queue set lease_expires_at = now() - interval '1 second' where status = 'processing'"
    )


async def add_type(owner: asyncpg.Connection, name: str, schema: dict[str, str], **columns: Any) -> None:
    values = {
        "job_type": name,
        "job_category": "fast",
        "worker_role": "chartloom_ocr",
        "payload_schema": schema,
        **columns,
    }
    places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
    await owner.execute(f"insert into chartloom.job_types ({', '.join(values)}) values ({places})", *values.values())


async def fan_out(
    owner: asyncpg.Connection, parent: Held, payloads: list[dict[str, Any]], child_type: str = "child"
) -> list[int]:
    rows = await owner.fetch(
        "select chartloom.fan_out_job($1, $2, $3, $4, 'ai_detect') as id",
        parent.job_id,
        parent.token,
        child_type,
        payloads,
    )
    return [row["id"] for row in rows]


def of(held: list[Held]) -> tuple[list[int], list[UUID]]:
    return [job.job_id for job in held], [job.token for job in held]


# ── two who take ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def make_ready(owner: asyncpg.Connection) -> list[int]:
    # Somebody has met this priority before, as on every day but the first.
    await enqueue(owner, 1)
    (first,) = await claim(owner)
    await owner.execute(COMPLETE, first.job_id, first.token)
    return await enqueue(owner, 5)


async def make_expired(owner: asyncpg.Connection) -> list[int]:
    ids = await enqueue(owner, 5)
    await claim(owner)
    await expire(owner)
    return ids


async def make_due(owner: asyncpg.Connection) -> list[int]:
    ids = await enqueue(owner, 5)
    for job in await claim(owner):
        await owner.execute("select chartloom.release_job($1, $2, 60)", job.job_id, job.token)
    await owner.execute("update chartloom.job_queue set scheduled_at = now() - interval '1 second'")
    return ids


async def make_dead(owner: asyncpg.Connection) -> list[int]:
    ids = await enqueue(owner, 5)
    for job in await claim(owner):
        await owner.execute("select chartloom.fail_job($1, $2, 'x', 'y', false)", job.job_id, job.token)
    return ids


TAKERS = {
    "claim": (
        make_ready,
        "select job_id from chartloom.claim_jobs('w', array['ocr'], $1) where $2::bigint[] is not null",
    ),
    "sweep": (make_expired, "select job_id from chartloom.sweep_expired_leases($1) where $2::bigint[] is not null"),
    # It says only how many.
    "promote": (
        make_due,
        "select * from generate_series(1, chartloom.promote_due_jobs($1)) where $2::bigint[] is not null",
    ),
    "redrive": (make_dead, "select chartloom.redrive_jobs(($2::bigint[])[1:$1::integer])"),
}
"""What makes five jobs that can be taken so, and the statement that takes $1 of $2."""


@pytest.mark.parametrize("taker", TAKERS)
async def test_who_comes_second_goes_past_what_the_first_is_taking(
    owner: asyncpg.Connection, sessions: list[Session], taker: str
) -> None:
    make, take = TAKERS[taker]
    ids = await make(owner)
    first, second, third = sessions
    await first.begin()
    mine = await first(take, 3, ids)
    assert len(mine) == 3
    others = await second.without_waiting(take, 5, ids)
    assert len(others) == 2
    if taker != "promote":
        assert sorted(mine + others) == ids
    # Nothing is lost with a taker who dies before the commit, and nothing comes twice from one who commits.
    await first.rollback()
    again = await third.without_waiting(take, 5, ids)
    assert len(again) == 3
    if taker != "promote":
        assert sorted(again) == sorted(mine)
    assert await second.without_waiting(take, 5, ids) == []


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_claimers_of_a_capped_type_wait_for_one_another_and_the_cap_holds(
    owner: asyncpg.Connection, sessions: list[Session], ends: str
) -> None:
    await owner.execute("update chartloom.job_types set max_processing = 2 where job_type = 'ocr'")
    await make_ready(owner)
    first, second, *_ = sessions
    query = "select job_id from chartloom.claim_jobs('w', array['ocr'], 5)"
    await first.begin()
    assert len(await first(query)) == 2
    waiting = await second.waits(query)
    await getattr(first, ends)()
    assert len(await waiting) == (0 if ends == "commit" else 2)
    assert await owner.fetchval("select count(*) from chartloom.job_queue where status = 'processing'") == 2


@pytest.mark.parametrize("capped", [True, False])
async def test_claims_of_the_same_types_in_opposite_order_do_not_deadlock(
    owner: asyncpg.Connection, sessions: list[Session], capped: bool
) -> None:
    for name in ("a", "b", "x", "y"):
        await add_type(owner, name, PART, max_processing=100 if capped or name in "xy" else None)
        await enqueue(owner, 4, job_type=name)
    one, other, stop = sessions
    query = "select job_id from chartloom.claim_jobs('w', $1, 1000)"
    # Both are stopped in the middle: one has been at a, the other at b.
    await stop.begin()
    await stop("select 1 from chartloom.job_types where job_type in ('x', 'y') for update")
    tasks = [await one.waits_or_ends(query, ["a", "x", "b"]), await other.waits_or_ends(query, ["b", "y", "a"])]
    await stop.commit()
    claimed = [job_id for ids in await asyncio.gather(*tasks) for job_id in ids]
    # Of types that nobody has claimed before, one of the two may come short: it does not wait for the other.
    claimed += await stop(query, ["a", "b", "x", "y"])
    assert len(claimed) == len(set(claimed)) == 16


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_the_same_key_at_the_same_moment_is_one_job(
    owner: asyncpg.Connection, sessions: list[Session], ends: str
) -> None:
    query = "select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}', p_idempotency_key => 'once')"
    first, second, *_ = sessions
    await first.begin()
    (theirs,) = await first(query)
    waiting = await second.waits(query)
    await getattr(first, ends)()
    (mine,) = await waiting
    assert (mine == theirs) == (ends == "commit")
    assert await owner.fetch("select id from chartloom.job_history") == [(mine,)]
    assert await second(query) == [mine]


# ── an end, and who comes in between ─────────────────────────────────────────────────────────────────────────────────

End = Callable[[Held], tuple[str, *tuple[Any, ...]]]

ENDS: dict[str, End] = {
    "complete": lambda job: (COMPLETE, job.job_id, job.token),
    "complete many": lambda job: (COMPLETE_MANY, [job.job_id], [job.token]),
    "fail": lambda job: ("select chartloom.fail_job($1, $2, 'x', 'y', true)", job.job_id, job.token),
    "bury": lambda job: ("select chartloom.fail_job($1, $2, 'x', 'y', false)", job.job_id, job.token),
    "release": lambda job: ("select chartloom.release_job($1, $2)", job.job_id, job.token),
    "snooze": lambda job: ("select chartloom.release_job($1, $2, 60)", job.job_id, job.token),
    "fan out": lambda job: (
        "select chartloom.fan_out_job($1, $2, 'child', $3, 'ai_detect')",
        job.job_id,
        job.token,
        [{"part": 1}, {"part": 2}],
    ),
}
WRITES: dict[str, End] = {
    "save pages": lambda job: ("select chartloom.save_ocr_pages($1, $2, '[]')", job.job_id, job.token),
    "persist": lambda job: ("select chartloom.persist_findings($1, $2, '{}')", job.job_id, job.token),
}


@pytest.fixture
async def held(owner: asyncpg.Connection, patient: Patient) -> Held:
    """The first job of a document, in the hands of a worker."""
    await add_type(owner, "child", PART)
    await upload(owner, patient.user_id, patient.profile_id)
    (job,) = await claim(owner)
    return job


Case = tuple[Held, Session, Session]
Cases = Callable[[str], AbstractAsyncContextManager[Case]]


@pytest.fixture
async def case(database: Database, owner: asyncpg.Connection, patient: Patient, subtests: pytest.Subtests) -> Cases:
    """``async with case(name)``: a subtest with such a job, two sessions, and a queue that is empty otherwise.

    A database for each would take longer than all that is done with it.
    """
    await add_type(owner, "child", PART)

    @asynccontextmanager
    async def open_case(name: str) -> AsyncIterator[Case]:
        with subtests.test(name):
            async with open_sessions(database) as (first, second, _):
                await upload(owner, patient.user_id, patient.profile_id, name.encode())
                (job,) = await claim(owner)
                yield job, first, second
        await owner.execute("truncate chartloom.job_queue, chartloom.job_archive")

    return open_case


async def assert_refused(ending: Awaitable[list[Any]], sqlstate: str, end: str, job: Held) -> None:
    if end == "complete many":
        assert await ending == [job.job_id]
        return
    with pytest.raises(asyncpg.PostgresError) as refused:
        await ending
    assert refused.value.sqlstate == sqlstate


async def test_what_meets_a_sweep_waits_and_is_refused(owner: asyncpg.Connection, case: Cases) -> None:
    for name, end in (ENDS | WRITES).items():
        async with case(name) as (job, sweeper, holder):
            await expire(owner)
            await sweeper.begin()
            assert await sweeper(SWEEP, 10) == [job.job_id]
            ending = await holder.waits(*end(job))
            await sweeper.commit()
            await assert_refused(ending, "CL001", name, job)
            assert await owner.fetch(LIVE) == [(job.job_id, "pending", 1)]
            assert await owner.fetchval("select count(*) from chartloom.job_history") == 1


async def test_a_batch_that_meets_a_sweep_waits_and_completes_what_is_left(
    owner: asyncpg.Connection, sessions: list[Session]
) -> None:
    await enqueue(owner, 3)
    held = await claim(owner)
    await expire(owner)
    sweeper, holder, _ = sessions
    await sweeper.begin()
    (swept,) = await sweeper(SWEEP, 1)
    completing = await holder.waits(COMPLETE_MANY, *of(held))
    await sweeper.commit()
    assert await completing == [swept]
    assert await owner.fetch(LIVE) == [(swept, "pending", 1)]
    done = {row["id"] for row in await owner.fetch("select id from chartloom.job_archive")}
    assert done == {job.job_id for job in held} - {swept}


async def test_an_end_that_met_a_sweep_stands_if_the_sweep_comes_to_nothing(
    owner: asyncpg.Connection, case: Cases
) -> None:
    for name, end in ENDS.items():
        async with case(name) as (job, sweeper, holder):
            await expire(owner)
            await sweeper.begin()
            await sweeper(SWEEP, 10)
            ending = await holder.waits(*end(job))
            await sweeper.rollback()
            await ending
            assert await sweeper(SWEEP, 10) == []
            assert await owner.fetchval("select count(*) from chartloom.job_queue where status = 'processing'") == 0
            assert await owner.fetchval("select count(*) from chartloom.job_history where id = $1", job.job_id) == 1


async def test_a_sweep_goes_past_what_is_being_written(owner: asyncpg.Connection, case: Cases) -> None:
    for name, end in (ENDS | WRITES).items():
        async with case(name) as (job, holder, sweeper):
            await enqueue(owner, 1)
            (other,) = await claim(owner)
            await expire(owner)
            await holder.begin()
            await holder(*end(job))
            # A process that froze in the middle of this transaction stops the rescue of no other job.
            assert await sweeper.without_waiting(SWEEP, 10) == [other.job_id]
            await holder.commit()
            # A result alone ends nothing: the lease had expired, and now the sweep can see it.
            assert await sweeper.without_waiting(SWEEP, 10) == ([job.job_id] if name in WRITES else [])


@pytest.mark.parametrize("losses", [5, 0], ids=["to be given out again", "to be buried"])
async def test_a_sweep_waits_for_no_document_that_somebody_is_writing(
    owner: asyncpg.Connection, sessions: list[Session], patient: Patient, losses: int
) -> None:
    """The transaction that completes a document may be a frozen process's: the rest must be rescued without it."""
    await add_type(owner, "last", {"shell_file_id": "uuid", "run_id": "uuid"}, max_lease_losses=losses)
    for content in (b"one", b"other"):
        await upload(owner, patient.user_id, patient.profile_id, content)
    for document, run in await owner.fetch("select id, current_run_id from shell_files, generate_series(1, 2)"):
        payload = {"shell_file_id": str(document), "run_id": str(run)}
        await owner.execute("select chartloom.enqueue_job_v3('last', 'fast', $1)", payload)
    jobs = await claim(owner, job_type="last")
    await expire(owner)
    holder, sweeper, _ = sessions
    await holder.begin()
    await holder(COMPLETE, jobs[0].job_id, jobs[0].token)
    swept = set(await sweeper.without_waiting(SWEEP, 10))
    others = {job.job_id for job in jobs if job.document != jobs[0].document}
    assert len(others) == 2
    assert swept >= others
    await holder.commit()
    swept |= set(await sweeper.without_waiting(SWEEP, 10))
    assert swept == {job.job_id for job in jobs[1:]}


async def test_what_meets_a_cancel_waits_and_is_refused(owner: asyncpg.Connection, case: Cases) -> None:
    for name, end in (ENDS | WRITES).items():
        async with case(name) as (job, canceller, holder):
            await canceller.begin()
            assert await canceller(CANCEL, job.document) == [1]
            ending = await holder.waits(*end(job))
            await canceller.commit()
            await assert_refused(ending, "CL002", name, job)
            assert await owner.fetch(LIVE) == []
            assert await owner.fetch("select status from chartloom.job_history") == [("cancelled",)]
            assert await owner.fetchval(DOCUMENT_IS, job.document) == "cancelled"


async def test_a_cancel_that_meets_an_end_cancels_what_that_left(owner: asyncpg.Connection, case: Cases) -> None:
    # That of one job's own completion is in test_attempts.
    for name in ENDS.keys() - {"complete"}:
        async with case(name) as (job, holder, canceller):
            await holder.begin()
            await holder(*ENDS[name](job))
            cancelling = await canceller.waits(CANCEL, job.document)
            await holder.commit()
            left = {"fan out": 2}.get(name, 1)
            assert await cancelling == [left]
            assert await owner.fetch(LIVE) == []
            cancelled = "select count(*) from chartloom.job_history where status = 'cancelled'"
            assert await owner.fetchval(cancelled) == left
            assert await owner.fetchval(DOCUMENT_IS, job.document) == "cancelled"


async def test_an_end_that_is_sent_twice_counts_once(owner: asyncpg.Connection, case: Cases) -> None:
    for name, end in ENDS.items():
        async with case(name) as (job, first, second):
            await first.begin()
            await first(*end(job))
            again = await second.waits(*end(job))
            await first.commit()
            after_the_first = await owner.fetch("select * from chartloom.job_history order by id")
            await assert_refused(again, "CL001", name, job)
            assert await owner.fetch("select * from chartloom.job_history order by id") == after_the_first


async def test_a_cancel_waits_for_a_claim_and_then_tells_the_claimer(
    owner: asyncpg.Connection, sessions: list[Session], patient: Patient
) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    claimer, canceller, *_ = sessions
    await claimer.begin()
    (job,) = await claim(claimer.connection)
    cancelling = await canceller.waits(CANCEL, document)
    await claimer.commit()
    assert await cancelling == [1]
    assert await claimer(HEARTBEAT, "worker", *of([job])) == ["cancelled"]


async def test_a_claim_goes_past_what_is_being_cancelled(
    owner: asyncpg.Connection, sessions: list[Session], patient: Patient
) -> None:
    await make_ready(owner)
    document = await upload(owner, patient.user_id, patient.profile_id)
    canceller, claimer, *_ = sessions
    await canceller.begin()
    assert await canceller(CANCEL, document) == [1]
    await claimer.connection.execute("set lock_timeout = '100ms'")
    claimed = await claim(claimer.connection)
    assert len(claimed) == 5
    assert document not in {job.document for job in claimed}
    await canceller.commit()
    assert await claim(claimer.connection) == []


# ── heartbeats ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_heartbeat_does_not_wait_for_a_sweep_and_then_learns_of_it(
    owner: asyncpg.Connection, sessions: list[Session], held: Held
) -> None:
    await expire(owner)
    sweeper, holder, *_ = sessions
    await sweeper.begin()
    assert await sweeper(SWEEP, 10) == [held.job_id]
    await holder.without_waiting(HEARTBEAT, "worker", *of([held]))
    await sweeper.commit()
    # What it did renewed nothing that the sweep had taken.
    assert await owner.fetch(LIVE) == [(held.job_id, "pending", 1)]
    assert await holder(HEARTBEAT, "worker", *of([held])) == ["lost"]


async def test_a_lease_that_is_being_renewed_is_not_swept(
    owner: asyncpg.Connection, sessions: list[Session], held: Held
) -> None:
    await expire(owner)
    holder, sweeper, *_ = sessions
    await holder.begin()
    assert await holder(HEARTBEAT, "worker", *of([held])) == ["held"]
    assert await sweeper.without_waiting(SWEEP, 10) == []
    await holder.commit()
    assert await sweeper.without_waiting(SWEEP, 10) == []
    assert await owner.fetchval("select lease_expires_at > now() from chartloom.job_queue")


async def test_a_heartbeat_waits_for_nobody_who_is_ending_one_of_its_jobs(
    owner: asyncpg.Connection, case: Cases
) -> None:
    ends: dict[str, End] = ENDS | {"cancel": lambda job: (CANCEL, job.document)}
    for name, end in ends.items():
        async with case(name) as (job, ender, holder):
            await enqueue(owner, 1)
            (other,) = await claim(owner)
            await expire(owner)
            await ender.begin()
            await ender(*end(job))
            await holder.without_waiting(HEARTBEAT, "worker", *of([job, other]))
            # The other job's lease is renewed meanwhile.
            assert await owner.fetchval(
                "select lease_expires_at > now() from chartloom.job_queue where id = $1", other.job_id
            )
            await ender.commit()
            states = await holder(HEARTBEAT, "worker", *of([job]))
            assert states == ["cancelled" if name == "cancel" else "lost"]


async def test_heartbeats_that_meet_in_opposite_order_do_not_deadlock(
    owner: asyncpg.Connection, sessions: list[Session]
) -> None:
    await enqueue(owner, 2)
    low, high = await claim(owner)
    one, other, *_ = sessions
    for session, worker, job in ((one, "one", low), (other, "other", high)):
        await session.begin()
        assert await session(HEARTBEAT, worker, *of([job])) == ["held"]
    for session, worker, jobs in ((one, "one", [low, high]), (other, "other", [high, low])):
        assert await session.without_waiting(HEARTBEAT, worker, *of(jobs)) == ["held", "held"]
        await session.commit()


# ── batches ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def lay_out(owner: asyncpg.Connection, order: str) -> None:
    """Puts the rows of the queue into an order on disk."""
    await owner.execute(f"create index layout on chartloom.job_queue (({order}))")
    await owner.execute("cluster chartloom.job_queue using layout")
    await owner.execute("drop index chartloom.layout")
    await owner.execute("analyze chartloom.job_queue")


@pytest.mark.parametrize("small", [False, True], ids=["of one size", "a small and a large one"])
async def test_batches_that_overlap_in_opposite_order_do_not_deadlock(
    owner: asyncpg.Connection, sessions: list[Session], small: bool
) -> None:
    await enqueue(owner, 300)
    held = await claim(owner)
    # Where the rows lie says nothing about their ids, as after some hours of work: a plan that takes them as they come
    # takes them in another order than one that looks them up.
    await lay_out(owner, "-id")
    one, other, stop = sessions
    ascending = [held[0], held[150], held[299]] if small else held
    descending = held[::-1]
    # A lock on the one in the middle stops both half way: one has been at the lowest, the other at the highest.
    await stop.begin()
    await stop("select 1 from chartloom.job_queue where id = $1 for update", held[150].job_id)
    tasks = [
        await session.waits_or_ends(COMPLETE_MANY, *of(batch))
        for session, batch in ((one, ascending), (other, descending))
    ]
    await stop.rollback()
    refused = [set(ids) for ids in await asyncio.gather(*tasks)]
    # Each job was completed by exactly one of them.
    ids = {job.job_id for job in held}
    overlap = {job.job_id for job in ascending}
    assert refused[0] | refused[1] == overlap
    assert refused[0] & refused[1] == set()
    assert {row["id"] for row in await owner.fetch("select id from chartloom.job_archive")} == ids


@pytest.mark.parametrize("ends", ["commit", "rollback"])
@pytest.mark.parametrize("end", ["complete", "complete many"])
async def test_of_two_last_children_exactly_one_enqueues_the_join(
    owner: asyncpg.Connection, sessions: list[Session], held: Held, end: str, ends: str
) -> None:
    await fan_out(owner, held, [{"part": part} for part in range(3)])
    third, first_last, second_last = await claim(owner, job_type="child")
    await owner.execute(COMPLETE, third.job_id, third.token)
    joins = "select count(*) from chartloom.job_queue where job_type = 'ai_detect'"
    one, other, *_ = sessions
    await one.begin()
    await one(*ENDS[end](first_last))
    finishing = await other.waits(*ENDS[end](second_last))
    await getattr(one, ends)()
    await finishing
    if ends == "rollback":
        assert await owner.fetchval(joins) == 0
        await one(*ENDS[end](first_last))
    assert await owner.fetchval(joins) == 1
    assert await owner.fetchval("select count(*) from chartloom.job_history where job_type = 'ai_detect'") == 1


async def test_batches_with_children_of_the_same_groups_in_opposite_order_do_not_deadlock(
    owner: asyncpg.Connection, sessions: list[Session], patient: Patient
) -> None:
    """As when two documents fan out side by side, so that the ids of their children alternate."""
    await add_type(owner, "child", PART)
    await add_type(owner, "last", {"shell_file_id": "uuid", "run_id": "uuid"})
    documents = [await upload(owner, patient.user_id, patient.profile_id, f"{number}".encode()) for number in range(4)]
    parents = await claim(owner)

    async def stop_on(document: UUID) -> int:
        """A job whose completion writes its document's row, which the test can hold."""
        run = await owner.fetchval("select current_run_id from shell_files where id = $1", document)
        job_id: int = await owner.fetchval(
            "select chartloom.enqueue_job_v3('last', 'fast', $1)", {"shell_file_id": str(document), "run_id": str(run)}
        )
        return job_id

    a = await fan_out(owner, parents[0], [{"part": 1}, {"part": 2}])
    stops = [await stop_on(document) for document in documents[2:]]
    b = await fan_out(owner, parents[1], [{"part": 1}, {"part": 2}])
    # What two of them would have got, had the two transactions run side by side.
    await owner.execute(
        "update chartloom.job_queue as q set group_id = other.group_id from chartloom.job_queue as other "
        "where (q.id, other.id) in (($1, $2), ($2, $1))",
        a[1],
        b[1],
    )
    held = {job.job_id: job for name in ("child", "last") for job in await claim(owner, job_type=name)}
    await lay_out(owner, "id")
    one, other, stop = sessions
    await stop.begin()
    await stop("select 1 from shell_files where id = any($1) for update", documents[2:])
    batches = [[a[0], stops[0], b[0]], [a[1], stops[1], b[1]]]
    tasks = [
        await session.waits_or_ends(COMPLETE_MANY, *of([held[job_id] for job_id in batch]))
        for session, batch in zip((one, other), batches, strict=True)
    ]
    await stop.rollback()
    assert await asyncio.gather(*tasks) == [[], []]
    assert await owner.fetchval("select count(*) from chartloom.job_queue where job_type = 'ai_detect'") == 2


# ── a document's row, and its jobs ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("end", ["bury", "complete", "release"])
async def test_a_new_upload_of_a_failed_document_and_the_end_of_a_job_that_is_left_do_not_deadlock(
    owner: asyncpg.Connection, sessions: list[Session], held: Held, patient: Patient, end: str
) -> None:
    await add_type(owner, "part of a run", {"run_id": "uuid"})
    run = await owner.fetchval("select current_run_id::text from shell_files")
    await fan_out(owner, held, [{"run_id": run}] * 3, "part of a run")
    failed, waiting, running = await claim(owner, job_type="part of a run")
    await owner.execute(*ENDS["bury"](failed))
    await owner.execute(*ENDS["release"](waiting))
    assert await owner.fetchval("select status from shell_files") == "failed"
    user, worker, stop = sessions
    # The upload is stopped half way: it is at the document, and not yet at the job that runs.
    await stop.begin()
    await stop("select 1 from chartloom.job_queue where id = $1 for update", waiting.job_id)
    await user.begin()
    await become_user(user.connection, patient.user_id)
    uploading = await user.waits_or_ends("select complete_upload($1)", held.document)
    ending = await worker.waits_or_ends(*ENDS[end](running))
    await stop.rollback()
    assert (await uploading)[0]["status"] == "queued"
    await user.commit()
    # Whichever came first: both are right.
    (error,) = await asyncio.gather(ending, return_exceptions=True)
    assert getattr(error, "sqlstate", None) in (None, "CL002")
    live = await owner.fetch("select job_type, status from chartloom.job_queue")
    assert live == [("ocr", "pending")]
    assert await owner.fetchval("select status from shell_files") == "queued"


async def test_sweeps_that_bury_jobs_of_the_same_documents_do_not_deadlock(
    owner: asyncpg.Connection, sessions: list[Session], patient: Patient
) -> None:
    await owner.execute("update chartloom.job_types set max_lease_losses = 0")
    await add_type(owner, "child", {"shell_file_id": "uuid", "run_id": "uuid"}, max_lease_losses=0)
    documents = [await upload(owner, patient.user_id, patient.profile_id, f"{number}".encode()) for number in range(4)]
    runs = dict(await owner.fetch("select id, current_run_id from shell_files"))
    # Of the first two documents many jobs run at the same time; the test holds the rows of the others.
    for place in (0, 2, 1, 1, 3, 0):
        document = documents[place]
        payload = {"shell_file_id": str(document), "run_id": str(runs[document])}
        await owner.execute("select chartloom.enqueue_job_v3('child', 'fast', $1)", payload)
    assert len(await claim(owner, job_type="child")) == 6
    await expire(owner)
    one, other, stop = sessions
    await stop.begin()
    await stop("select 1 from shell_files where id = any($1) for update", documents[2:])
    tasks = [await session.waits_or_ends(SWEEP, 3) for session in (one, other)]
    await stop.rollback()
    swept = [job_id for ids in await asyncio.gather(*tasks) for job_id in ids]
    # What another held was left; it is swept when it is free.
    swept += await stop(SWEEP, 10)
    assert len(swept) == len(set(swept)) == 6
