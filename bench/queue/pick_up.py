"""Measure 3: from an enqueue's commit to the start of its handler, while the worker sleeps.

The clock starts just before COMMIT is sent: a handler may start before its answer is back. It stops as the first thing
in the handler, in the worker's own process. Both read the same monotonic clock. Between two jobs there is time for
every contender to fall asleep.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from statistics import quantiles

from bench.report import Measurement, measured

from .contenders import Contender, chartloom, peers
from .ground import Ground
from .program import running

PICK_UPS = 200
WARM_UP = 10
PAUSE_SECONDS = (0.04, 0.08)

Send = Callable[[], Awaitable[int]]
"""Enqueues one job. Returns when its COMMIT was sent."""


async def measure(ground: Ground) -> list[Measurement]:
    contenders = [chartloom(), *peers()]
    cuts: dict[str, tuple[list[float], list[float]]] = {contender.name: ([], []) for contender in contenders}
    for contender in contenders:
        await contender.install(ground)
    for _ in ground.rounds("pick-up"):
        for contender in contenders:
            p50, p99 = await pick_ups(ground, contender)
            cuts[contender.name][0].append(p50)
            cuts[contender.name][1].append(p99)
            ground.progress(f"  {contender.name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    return [
        measured(
            f"pick-up at idle, {cut}: {contender.name}",
            cuts[contender.name][place],
            "ms",
            at_most=limit if contender.name == "Chartloom" else None,
        )
        for contender in contenders
        for place, (cut, limit) in enumerate((("p50", 2.0), ("p99", 4.0)))
    ]


async def pick_ups(ground: Ground, contender: Contender) -> tuple[float, float]:
    """p50 and p99 in ms."""
    async with ground.admin(contender.database) as connection:
        await connection.execute(contender.empty)
    await ground.settle_down(contender.database)
    waits: list[float] = []
    async with running(*contender.worker(ground, 0)) as worker, sender(ground, contender) as send:
        await worker.hear("ready")
        await worker.go()
        for number in range(WARM_UP + PICK_UPS):
            await asyncio.sleep(random.uniform(*PAUSE_SECONDS) if number else 1.0)
            sent = await send()
            [started] = await worker.hear("started")
            if number >= WARM_UP:
                waits.append((int(started) - sent) / 1e6)
    percentiles = quantiles(waits, n=100)
    return percentiles[49], percentiles[98]


@asynccontextmanager
async def sender(ground: Ground, contender: Contender) -> AsyncIterator[Send]:
    """By SQL where the queue can be called so; else by its own client, in a process of its own."""
    if contender.enqueue is None:
        async with running([*contender.program, "send", "0"], contender.environment(ground)) as program:
            await program.hear("ready")

            async def send_by_client() -> int:
                await program.go()
                return int((await program.hear("sent"))[0])

            yield send_by_client
        return
    async with ground.admin(contender.database) as connection:
        statement = await connection.prepare(contender.enqueue)

        async def send_by_sql() -> int:
            transaction = connection.transaction()
            await transaction.start()
            await statement.fetchval()
            now = time.monotonic_ns()
            await transaction.commit()
            return now

        yield send_by_sql
