"""Procrastinate as a contender: concurrency 10, finished jobs kept (its default)."""

import asyncio
import os
import sys
import time
from importlib.metadata import version

from procrastinate import App, PsycopgConnector, exceptions, jobs
from protocol import Starts, say, wait_for_go

CONCURRENCY = 10

app = App(connector=PsycopgConnector(conninfo=os.environ["DATABASE_URL"], min_size=4, max_size=CONCURRENCY + 2))
starts = Starts(int(sys.argv[2]))


@app.task(name="bench", queue="bench")
async def bench() -> None:
    starts.count()


async def fill(count: int) -> None:
    for _ in range(count // 1000):
        await bench.batch_defer_async(*[{}] * 1000)


async def enqueue(count: int) -> None:
    say("ready")
    wait_for_go()
    began = time.perf_counter()
    for _ in range(count):
        await bench.defer_async()
    single = count / (time.perf_counter() - began)
    began = time.perf_counter()
    await fill(10_000)
    say("rates", single, 10_000 / (time.perf_counter() - began))


async def fencing(count: int) -> None:
    """A holds every job and falls silent, B gets it, A reports success after all."""
    manager, connector = app.job_manager, app.connector
    await connector.execute_query_async("create table if not exists effects (job_id bigint)")
    await connector.execute_query_async("truncate effects, procrastinate_jobs, procrastinate_events cascade")

    async def claim() -> list[jobs.Job]:
        worker = await manager.register_worker()
        return [job for _ in range(count) if (job := await manager.fetch_job(queues=None, worker_id=worker))]

    async def complete(job: jobs.Job) -> bool:
        await connector.execute_query_async("insert into effects values (%(job_id)s)", job_id=job.id)
        try:
            await manager.finish_job(job, jobs.Status.SUCCEEDED, delete_job=False)
        except exceptions.ConnectorException:
            return False
        return True

    await fill(count)
    first = await claim()
    await connector.execute_query_async("update procrastinate_workers set last_heartbeat = now() - interval '1 hour'")
    # The rescuer that its documentation tells its users to write.
    for job in await manager.get_stalled_jobs(seconds_since_heartbeat=30):
        await manager.retry_job(job)
    second = await claim()
    accepted = sum([await complete(job) for job in first])
    for job in second:
        await complete(job)
    row = await connector.execute_query_one_async(
        "select (select count(*) from procrastinate_jobs where status <> 'succeeded') as lost, "
        "(select count(*) - count(distinct job_id) from effects) as doubled"
    )
    say("fencing", accepted, row["lost"], row["doubled"])


async def main(verb: str, count: int) -> None:
    async with app.open_async():
        match verb:
            case "install":
                await app.schema_manager.apply_schema_async()
                say("installed", version("procrastinate"))
            case "fill":
                await fill(count)
            case "work":
                say("ready")
                wait_for_go()
                await app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)
            case "enqueue":
                await enqueue(count)
            case "fencing":
                await fencing(count)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
