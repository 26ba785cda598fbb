"""What is done every so often, one thing after another, beside the leases, which never wait for it."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import structlog
from opentelemetry.instrumentation.utils import suppress_instrumentation

from shared.errors import ChartloomError
from shared.logs import describe_error
from shared.telemetry import meter

_done = meter.create_counter("chartloom_sweeper_actions", description="What sweeps put right, by round and outcome.")
_failed = meter.create_counter("chartloom_sweeper_failed_rounds", description="Rounds that ended in an error.")


class Round(Protocol):
    """One thing that a pass does. Its name is the event of its log lines."""

    @property
    def name(self) -> str: ...

    async def run(self) -> Counter[str]:
        """Does it once, bounded. Returns how often which outcome."""


class Rounds:
    """Goes through its rounds again and again. They take turns, so that together they use one connection."""

    def __init__(self, rounds: Sequence[Round], *, every_seconds: float) -> None:
        self._rounds = rounds
        self._every_seconds = every_seconds

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.run_once()
            # Sweepers that were started together drift apart.
            await asyncio.sleep(self._every_seconds * random.uniform(0.75, 1.25))  # noqa: S311

    async def run_once(self) -> bool:
        """One pass. False where a round failed; the others go on all the same."""
        log = structlog.get_logger()
        all_well = True
        for one in self._rounds:
            try:
                with suppress_instrumentation():
                    outcomes = await one.run()
            except Exception as error:
                # Whatever it is, from storage or the network: the next pass tries again, and the sweeper goes on.
                all_well = False
                _failed.add(1, {"round": one.name})
                code = error.code if isinstance(error, ChartloomError) else "unexpected"
                log.warning(one.name, outcome="failed", code=code, **describe_error(error))
                continue
            for outcome, count in outcomes.items():
                if count:
                    _done.add(count, {"round": one.name, "outcome": outcome})
                    log.info(one.name, outcome=outcome, count=count)
        return all_well
