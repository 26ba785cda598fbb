"""``python -m bench.chartloom_worker EXPECTED SLEEP``: Chartloom as a contender.

A service just as ``run_worker`` runs it, health server and telemetry included; its one handler does nothing, or sleeps
for so many seconds. EXPECTED as in bench/peers/protocol.py.
"""

import asyncio
import sys
from typing import Any

from shared.contract.base import Row
from shared.handler import Handler
from shared.jobs import ClaimedJob
from shared.service import Runtime, run_worker
from shared.settings import ServiceSettings, load_settings

from .peers.protocol import Starts, say, wait_for_go


class Nothing(Row):
    """The payload of a benchmark's job."""


def main(expected: int, sleep: float) -> None:
    starts = Starts(expected)

    async def work(_: ClaimedJob, __: Nothing) -> dict[str, Any]:
        starts.count()
        if sleep:
            await asyncio.sleep(sleep)
        return {}

    def build(_: Runtime) -> list[Handler[Nothing, dict[str, Any]]]:
        # The pool is open, nothing is claimed yet.
        say("ready")
        wait_for_go()
        return [Handler(job_type="bench", payload=Nothing, work=work)]

    run_worker("bench", load_settings(ServiceSettings), ["bench"], build, details={})


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
