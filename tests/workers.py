"""A worker in the test's own process, on connections that the test chooses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg

from shared.contract.base import Row
from shared.database import open_pool
from shared.handler import Handler
from shared.jobs import ClaimedJob, Write
from shared.listener import Listener
from shared.settings import ServiceSettings
from shared.worker import Worker

PROBE = "probe"
"""A job type of the tests' own. Its payload is a number; what it does is a row in ``effects``."""


class ProbePayload(Row):
    number: int


Work = Callable[[int], Awaitable[None]]
Store = Callable[[ClaimedJob, dict[str, Any]], Write]


@dataclass(frozen=True)
class RunningWorker:
    worker: Worker
    listener: Listener
    pool: asyncpg.Pool
    running: asyncio.Task[None]

    async def stop(self) -> None:
        self.worker.stop()
        async with asyncio.timeout(20):
            await self.running


async def make_probe_type(owner: asyncpg.Connection, **columns: Any) -> None:
    """The job type, for ``chartloom_ocr`` to work, and the table of its effects: one that would show a doubled one."""
    values = {
        "job_type": PROBE,
        "job_category": "fast",
        "worker_role": "chartloom_ocr",
        "payload_schema": {"number": "integer"},
        **columns,
    }
    places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
    await owner.execute(f"insert into chartloom.job_types ({', '.join(values)}) values ({places})", *values.values())
    await owner.execute("create table effects (number integer, worker_id text)")
    await owner.execute("grant insert on effects to chartloom_ocr")
    await owner.execute(
        "create function leave_effect(p_job_id bigint, p_lease_token uuid, p_result jsonb) returns jsonb "
        "language sql as "
        "$$ insert into effects values ((p_result ->> 'number')::integer, p_result ->> 'worker_id') "
        "returning p_result $$"
    )


async def enqueue_probes(owner: asyncpg.Connection, numbers: range) -> None:
    await owner.executemany(
        f"select chartloom.enqueue_job_v3('{PROBE}', 'fast', $1)", [({"number": number},) for number in numbers]
    )


def leave_effect(_: ClaimedJob, result: dict[str, Any]) -> Write:
    """The probe's ``store``: a row, in the statement that completes the job."""
    return Write("leave_effect", (result,))


async def effects(owner: asyncpg.Connection) -> list[int]:
    return [row["number"] for row in await owner.fetch("select number from effects order by number")]


@asynccontextmanager
async def running_worker(
    url: str,
    *,
    listen_url: str | None = None,
    work: Work | None = None,
    store: Store | None = leave_effect,
    worker_id: str = "worker",
    **changes: Any,
) -> AsyncIterator[RunningWorker]:
    """Works probes until the block ends; then it is dropped, not drained."""
    settings = ServiceSettings(
        database_url=url,
        worker_id=worker_id,
        **{"poll_seconds": 60, "drain_seconds": 5, **changes},
    )
    pool = await open_pool(url, size=settings.pool_size, application_name="worker under test")
    listener = Listener(listen_url=listen_url or url, pool=pool, topics=[PROBE], application_name="worker under test")

    async def run(_: ClaimedJob, payload: ProbePayload) -> dict[str, Any]:
        if work:
            await work(payload.number)
        return {"number": payload.number, "worker_id": worker_id}

    worker = Worker(
        service="test",
        version="test",
        settings=settings,
        pool=pool,
        listener=listener,
        handlers={PROBE: Handler(job_type=PROBE, payload=ProbePayload, work=run, store=store)},
        details={},
    )
    tasks = [asyncio.create_task(worker.run()), asyncio.create_task(listener.run())]
    try:
        yield RunningWorker(worker, listener, pool, tasks[0])
    finally:
        for task in tasks:
            task.cancel()
        # What hangs in a statement would wait for its answer a minute longer.
        pool.terminate()
        await asyncio.gather(*tasks, return_exceptions=True)
