"""A provider within its limits, which are rows that all instances share (``chartloom.set_rate_limit``)."""

from datetime import timedelta

import asyncpg
from opentelemetry.instrumentation.utils import suppress_instrumentation

from services.ai.wire import Inputs
from shared.errors import BusyError, TerminalError
from shared.telemetry import meter

from . import Answer, Completion, Provider, Task

_CHARACTERS_PER_TOKEN = 2
"""Question and answer together, on the safe side; what it really was is settled after the call."""

_waits = meter.create_histogram(
    "chartloom_ai_rate_limit_wait_seconds",
    unit="s",
    description="How long a job was put off: the limit that instances share was used up, or the endpoint said 429.",
)


class LimitedProvider:
    """Reserves each call before it is made and settles it after. One 429 parks the key for every instance.

    The key is ``provider:model``; a key without limits passes freely, but is parked all the same.
    """

    def __init__(self, provider: Provider, pool: asyncpg.Pool) -> None:
        self._provider = provider
        self._pool = pool
        self.name = provider.name
        self.model = provider.model
        self.window = provider.window
        self._key = f"{provider.name}:{provider.model}"

    def prompt_version(self, task: Task) -> str:
        return self._provider.prompt_version(task)

    async def complete(self, task: Task, inputs: Inputs, schema: type[Answer]) -> Completion[Answer]:
        """Ask. Raises BusyError where there is no room now: the job comes back then, without a lost attempt."""
        grant = await self._reserve(len(inputs.model_dump_json()) // _CHARACTERS_PER_TOKEN)
        try:
            completion = await self._provider.complete(task, inputs, schema)
        except BusyError as error:
            self._record_wait("endpoint", error.retry_after)
            with suppress_instrumentation():
                await self._pool.execute(
                    "select chartloom.park_rate($1, $2)", self._key, error.retry_after.total_seconds()
                )
            raise
        if grant is not None:
            spent = sum(count for name, count in completion.usage.items() if name.endswith("_tokens"))
            with suppress_instrumentation():
                await self._pool.execute("select chartloom.settle_rate($1, $2)", grant, spent)
        return completion

    async def _reserve(self, tokens: int) -> int | None:
        try:
            with suppress_instrumentation():
                row = await self._pool.fetchrow("select * from chartloom.reserve_rate($1, $2)", self._key, tokens)
        except asyncpg.PostgresError as error:
            if error.sqlstate == "CL005":
                raise TerminalError(
                    "model_limit_too_small", f"One question is more than the limit of {self._key} allows in a minute."
                ) from None
            raise
        assert row is not None
        if row["wait_seconds"] > 0:
            wait = timedelta(seconds=row["wait_seconds"])
            self._record_wait("limit", wait)
            raise BusyError("model_rate_limited", f"The limit of {self._key} is used up.", wait)
        grant: int | None = row["grant_id"]
        return grant

    def _record_wait(self, reason: str, wait: timedelta) -> None:
        _waits.record(wait.total_seconds(), {"model": self.model, "reason": reason})
