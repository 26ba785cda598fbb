"""Measure 8: what 20 idle worker processes and their Postgres use of one core, over 30 s.

CPU time of every process and thread by the kernel's own account, in ns (/proc/PID/task/TID/schedstat); what exited
meanwhile is in the postmaster's (/proc/PID/stat, cutime and cstime).
"""

import asyncio
import contextlib
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path

from bench.report import Measurement, measured

from .ground import EMPTY, Ground
from .program import Program, chartloom_worker, running

WORKERS = 20
SECONDS = 30
CALM_DOWN_SECONDS = 10

PROC = Path("/proc")


async def measure(ground: Ground) -> list[Measurement]:
    async with ground.owner() as connection:
        await connection.execute(EMPTY)
    shares: dict[str, list[float]] = {"workers": [], "Postgres": []}
    async with AsyncExitStack() as started:
        workers = [await start(ground, started, number) for number in range(WORKERS)]
        await ground.settle_down("chartloom")
        await asyncio.sleep(CALM_DOWN_SECONDS)
        postmaster = ground.postmaster
        for _ in ground.rounds("idle"):
            began = time.perf_counter()
            before = of_workers(workers), of_postgres(postmaster)
            await asyncio.sleep(SECONDS)
            after = of_workers(workers), of_postgres(postmaster)
            passed = time.perf_counter() - began
            for name, earlier, later in zip(shares, before, after, strict=True):
                shares[name].append(100 * (later - earlier) / passed)
    both = [sum(parts) for parts in zip(*shares.values(), strict=True)]
    return [
        *(
            measured(f"idle: {WORKERS} workers on an empty queue, {name}", runs, "% of a core")
            for name, runs in shares.items()
        ),
        measured(f"idle: {WORKERS} workers on an empty queue, in all", both, "% of a core", at_most=1.0),
    ]


async def start(ground: Ground, started: AsyncExitStack, number: int) -> Program:
    worker = await started.enter_async_context(
        running(*chartloom_worker(ground.worker_url, worker_id=f"idle-{number}"))
    )
    await worker.hear("ready")
    await worker.go()
    return worker


def of_workers(workers: list[Program]) -> float:
    return sum(cpu_seconds(worker.pid) for worker in workers)


def of_postgres(postmaster: int) -> float:
    children = [int(process.name) for process in PROC.glob("[0-9]*") if _parent(process) == postmaster]
    ended = sum(int(ticks) for ticks in _stat(PROC / str(postmaster))[13:15]) / os.sysconf("SC_CLK_TCK")
    return ended + sum(cpu_seconds(pid) for pid in (postmaster, *children))


def cpu_seconds(pid: int) -> float:
    """0 for a process that is gone: its time is in its parent's."""
    seconds = 0.0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in (PROC / str(pid) / "task").iterdir():
            seconds += int((task / "schedstat").read_text().split()[0]) / 1e9
    return seconds


def _parent(process: Path) -> int | None:
    stat = _stat(process)
    return int(stat[1]) if stat else None


def _stat(process: Path) -> list[str]:
    """From the third field of /proc/PID/stat on: the second, the name, may hold spaces."""
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
