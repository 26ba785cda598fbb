"""The machine, to read the other figures by: how long its disk takes to make 8 kB durable."""

import asyncio
import os
import tempfile
import time

from bench.report import Measurement, measured

from .ground import Ground

FLUSHES = 500


async def measure(ground: Ground) -> list[Measurement]:
    runs = [await asyncio.to_thread(flush_ms) for _ in ground.rounds("machine")]
    return [measured(f"machine: {os.cpu_count()} cores; 8 kB written and flushed in", runs, "ms")]


def flush_ms() -> float:
    with tempfile.TemporaryFile() as file:
        began = time.perf_counter()
        for _ in range(FLUSHES):
            file.seek(0)
            os.write(file.fileno(), bytes(8192))
            os.fdatasync(file.fileno())
        return 1000 * (time.perf_counter() - began) / FLUSHES
