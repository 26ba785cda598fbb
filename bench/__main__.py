"""``python -m bench``: what one worker process and one Postgres do on this machine, on a database of their own."""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles

import asyncpg

from cli.deployment import Deployment, open_deployment
from cli.embedded_postgres import EmbeddedPostgres
from shared.contract.payloads import DocumentPayload
from shared.database import connect, open_pool
from shared.listener import Listener
from shared.logs import configure_logs
from shared.settings import ServiceSettings
from shared.worker import Handler, Worker

from .report import Measurement, measured, publish

RUNS = 5
DRAINED = 10_000
PICK_UPS = 200
NOOP = '{"noop": true}'


@asynccontextmanager
async def worker(deployment: Deployment, concurrency: int) -> AsyncIterator[None]:
    """One worker of type ``ocr``, in this process; its handler is never called, since every job is a no-op."""
    url = deployment.service_urls["ocr"]
    settings = ServiceSettings(database_url=url, worker_id="bench", worker_concurrency=concurrency, pool_size=8)
    pool = await open_pool(url, size=8, application_name="bench")
    listener = Listener(listen_url=url, pool=pool, topics=["ocr"], application_name="bench")

    async def unused(*_: object) -> dict[str, object]:
        raise AssertionError

    handler = Handler(job_type="ocr", payload=DocumentPayload, work=unused, store=unused)
    running = Worker(
        service="ocr", version="bench", settings=settings, pool=pool, listener=listener,
        handlers={"ocr": handler}, details={},
    )  # fmt: skip
    tasks = [asyncio.create_task(running.run()), asyncio.create_task(listener.run())]
    try:
        yield
    finally:
        running.stop()
        await tasks[0]
        tasks[1].cancel()
        await pool.close()


async def enqueue(connection: asyncpg.Connection, count: int) -> float:
    """Jobs/s, one transaction each, by one connection."""
    began = time.perf_counter()
    for number in range(count):
        await connection.execute(
            "select chartloom.enqueue_job_v3('ocr', 'fast', $1, p_fairness_key => $2)",
            {"noop": True},
            str(number % 100),
        )
    return count / (time.perf_counter() - began)


async def fill(connection: asyncpg.Connection, count: int) -> None:
    """Jobs in bulk: how they came is measured apart."""
    await connection.execute(
        "select count(chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}', p_fairness_key => (i % 100)::text)) "
        "from generate_series(1, $1::integer) as i",
        count,
    )
    await connection.execute("vacuum analyze chartloom.job_queue")


async def finished(connection: asyncpg.Connection, count: int) -> None:
    while await connection.fetchval("select count(*) from chartloom.job_archive") < count:
        await asyncio.sleep(0.01)


async def drain(deployment: Deployment, connection: asyncpg.Connection) -> tuple[float, float]:
    """Enqueued/s and drained/s of one round."""
    await connection.execute("truncate chartloom.job_queue, chartloom.job_archive")
    enqueued = await enqueue(connection, 1000)
    await fill(connection, DRAINED - 1000)
    began = time.perf_counter()
    async with worker(deployment, 1000):
        await finished(connection, DRAINED)
        return enqueued, DRAINED / (time.perf_counter() - began)


async def pick_up(deployment: Deployment, connection: asyncpg.Connection) -> tuple[float, float]:
    """p50 and p99, in ms, from an enqueue's commit to the claim, while the worker sleeps."""
    await connection.execute("truncate chartloom.job_queue, chartloom.job_archive")
    async with worker(deployment, 4):
        for number in range(PICK_UPS):
            while not await connection.fetchval("select exists (select from chartloom.sleepers where topic = 'ocr')"):
                await asyncio.sleep(0.001)
            await connection.execute(f"select chartloom.enqueue_job_v3('ocr', 'fast', '{NOOP}')")
            await finished(connection, number + 1)
    waits = [
        row["ms"]
        for row in await connection.fetch(
            "select extract(epoch from started_at - created_at)::float * 1000 as ms from chartloom.job_archive"
        )
    ]
    cuts = quantiles(waits, n=100)
    return cuts[49], cuts[98]


async def measure() -> list[Measurement]:
    configure_logs(service="bench", level="error")
    with tempfile.TemporaryDirectory(prefix="chartloom-bench-") as home:
        os.environ["CHARTLOOM_HOME"] = home
        os.environ.pop("DATABASE_URL", None)
        try:
            async with open_deployment() as deployment:
                connection = await connect(deployment.owner_url, application_name="bench")
                rounds = [
                    (*await drain(deployment, connection), *await pick_up(deployment, connection)) for _ in range(RUNS)
                ]
                await connection.close()
        finally:
            EmbeddedPostgres(Path(home)).remove()
    enqueued, drained, p50, p99 = (list(runs) for runs in zip(*rounds, strict=True))
    return [
        measured("enqueue, one connection, one a transaction", enqueued, "jobs/s"),
        measured("drain of no-op jobs, one worker process, fenced, history kept", drained, "jobs/s"),
        measured("pick-up at idle, p50", p50, "ms", at_most=2.0),
        measured("pick-up at idle, p99", p99, "ms", at_most=4.0),
    ]


if __name__ == "__main__":
    publish("bench", asyncio.run(measure()))
