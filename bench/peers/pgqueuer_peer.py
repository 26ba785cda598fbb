"""PgQueuer as a contender: one consumer under uvloop, as its own command line runs it.

``work`` takes two more arguments, the size of a batch and the number of connections.
"""

import asyncio
import os
import sys
import time
from datetime import timedelta
from importlib.metadata import version
from uuid import uuid4

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.domain.types import QueueEntrypoint, QueueManagerId
from pgqueuer.models import Job
from pgqueuer.ports.repository import EntrypointExecutionParameter
from protocol import Starts, say, wait_for_go

CLAIM = 100


async def install(queries: Queries) -> None:
    await queries.install()
    await queries.optimize_autovacuum()  # first on the checklist of its performance guide
    say("installed", version("pgqueuer"))


async def fill(queries: Queries, jobs: int) -> None:
    for _ in range(jobs // 1000):
        await queries.enqueue(["bench"] * 1000, [b"{}"] * 1000, [0] * 1000)


async def work(connection: asyncpg.Connection, jobs: int, batch: int, connections: int) -> None:
    if connections == 1:
        worker = PgQueuer(AsyncpgDriver(connection))
    else:
        url = os.environ["DATABASE_URL"]
        worker = PgQueuer(AsyncpgPoolDriver(await asyncpg.create_pool(url, min_size=connections, max_size=connections)))
    starts = Starts(jobs)

    @worker.entrypoint("bench")
    async def bench(_: Job) -> None:
        starts.count()

    say("ready")
    wait_for_go()
    await worker.run(batch_size=batch)


async def send(connection: asyncpg.Connection, queries: Queries) -> None:
    """One job at each ``go``; says when its commit was sent."""
    say("ready")
    while wait_for_go():
        transaction = connection.transaction()
        await transaction.start()
        await queries.enqueue("bench", b"{}")
        now = time.monotonic_ns()
        await transaction.commit()
        say("sent", now)


async def enqueue(queries: Queries, jobs: int) -> None:
    say("ready")
    wait_for_go()
    began = time.perf_counter()
    for _ in range(jobs):
        await queries.enqueue("bench", b"{}")
    single = jobs / (time.perf_counter() - began)
    began = time.perf_counter()
    await fill(queries, 10_000)
    say("rates", single, 10_000 / (time.perf_counter() - began))


async def fencing(connection: asyncpg.Connection, queries: Queries, jobs: int) -> None:
    """A holds every job and falls silent, B gets it, A reports success after all; effect and success are one commit."""
    await connection.execute("create table if not exists effects (job_id bigint)")
    await connection.execute("truncate effects, pgqueuer, pgqueuer_log")

    async def claim() -> list[Job]:
        manager = QueueManagerId(uuid4())
        entrypoints = {QueueEntrypoint("bench"): EntrypointExecutionParameter(concurrency_limit=0)}
        claimed: list[Job] = []
        while len(claimed) < jobs:
            claimed += await queries.dequeue(CLAIM, entrypoints, manager, None, timedelta(seconds=30))
        return claimed

    async def complete(job: Job) -> bool:
        before = await connection.fetchval("select count(*) from pgqueuer where id = $1", job.id)
        async with connection.transaction():
            await connection.execute("insert into effects values ($1)", job.id)
            await queries.log_jobs([(job, "successful", None)])
        return bool(before and not await connection.fetchval("select count(*) from pgqueuer where id = $1", job.id))

    await fill(queries, jobs)
    first = await claim()
    await connection.execute("update pgqueuer set heartbeat = now() - interval '1 hour'")
    second = await claim()
    accepted = sum([await complete(job) for job in first])
    for job in second:
        await complete(job)
    done = await connection.fetchval("select count(distinct job_id) from pgqueuer_log where status = 'successful'")
    doubled = await connection.fetchval("select count(*) - count(distinct job_id) from effects")
    say("fencing", accepted, jobs - done, doubled)


async def main(verb: str, jobs: int) -> None:
    connection = await asyncpg.connect(os.environ["DATABASE_URL"])
    queries = Queries(AsyncpgDriver(connection))
    match verb:
        case "install":
            await install(queries)
        case "fill":
            await fill(queries, jobs)
        case "work":
            await work(connection, jobs, int(sys.argv[3]), int(sys.argv[4]))
        case "send":
            await send(connection, queries)
        case "enqueue":
            await enqueue(queries, jobs)
        case "fencing":
            await fencing(connection, queries, jobs)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], int(sys.argv[2])))
