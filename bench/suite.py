"""A suite of measures as a program, ``python -m bench.NAME``. ONLY="one another" runs a part, RUNS=1 one round."""

import asyncio
import os
import signal
from types import ModuleType

from bench.report import Measurement, publish
from shared.logs import configure_logs

from .queue.ground import prepared_ground

RUNS = 5
EXIT_TERMINATED = 128 + signal.SIGTERM


def run_suite(suite: str, modules: tuple[ModuleType, ...]) -> None:
    """Each module has ``measure(ground)``. The result is ``bench/out/SUITE.json``, of a part ``SUITE-part.json``."""
    configure_logs(service="bench", level="error")
    measures = {module.__name__.rpartition(".")[2]: module for module in modules}
    names = os.environ.get("ONLY", "").split() or list(measures)
    if unknown := set(names) - set(measures):
        raise SystemExit(f"ONLY: no such measure: {', '.join(unknown)}. There are: {' '.join(measures)}.")
    rows: list[Measurement] = []
    try:
        asyncio.run(_measure([measures[name] for name in names], int(os.environ.get("RUNS") or RUNS), rows))
    except asyncio.CancelledError:
        raise SystemExit(EXIT_TERMINATED) from None
    finally:
        # What was measured before something failed is still worth reading.
        publish(suite if names == list(measures) else f"{suite}-part", rows)


async def _measure(modules: list[ModuleType], runs: int, rows: list[Measurement]) -> None:
    # Ended by a signal, it still stops the server and the workers.
    if (task := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with prepared_ground(runs) as ground:
        for module in modules:
            rows += await module.measure(ground)
