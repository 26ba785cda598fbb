"""``make bench-queue``: Chartloom's queue beside its peers, measure by measure as the modules here say.

ONLY="drain pick_up" runs a part, RUNS=1 makes it one round instead of five.
"""

import asyncio
import os
import signal
from types import ModuleType

from bench.report import Measurement, publish
from shared.logs import configure_logs

from . import drain, enqueue, fairness, fencing, hand_off, idle, machine, pick_up, snapshot, table_size
from .ground import prepared_ground

RUNS = 5
EXIT_TERMINATED = 128 + signal.SIGTERM
MODULES = (machine, drain, hand_off, pick_up, enqueue, table_size, snapshot, fairness, fencing, idle)
MEASURES: dict[str, ModuleType] = {module.__name__.rpartition(".")[2]: module for module in MODULES}


async def measure(names: list[str], runs: int, rows: list[Measurement]) -> None:
    # Ended by a signal, it still stops the server and the workers.
    if (task := asyncio.current_task()) is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with prepared_ground(runs) as ground:
        for name in names:
            rows += await MEASURES[name].measure(ground)


def main() -> None:
    configure_logs(service="bench", level="error")
    names = os.environ.get("ONLY", "").split() or list(MEASURES)
    if unknown := set(names) - set(MEASURES):
        raise SystemExit(f"ONLY: no such measure: {', '.join(unknown)}. There are: {' '.join(MEASURES)}.")
    rows: list[Measurement] = []
    try:
        asyncio.run(measure(names, int(os.environ.get("RUNS") or RUNS), rows))
    except asyncio.CancelledError:
        raise SystemExit(EXIT_TERMINATED) from None
    finally:
        # What was measured before something failed is still worth reading.
        publish("queue" if names == list(MEASURES) else "queue-part", rows)


if __name__ == "__main__":
    main()
