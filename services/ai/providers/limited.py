"""A provider within its limits, which are rows that all instances share (``chartloom.set_rate_limit``)."""

import asyncio
import time
from datetime import timedelta

import asyncpg
from opentelemetry.instrumentation.utils import suppress_instrumentation

from services.ai.wire import WireInputs
from shared.errors import BusyError, TerminalError
from shared.telemetry import meter

from . import Answer, AskingProvider, Completion, Task, UnusableReplyError

_PATIENCE_SECONDS = 10.0
"""So long a call waits for its moment here, at the cost of a place but no connection; longer, and the job goes back.

It keeps the limit used up: jobs come back so long before their moment, and where one is late, others are there."""
_LATE_SECONDS = 0.75
"""Of the time that a slot allows between its moment and the call's arrival, what may be lost in this process."""
_UNLIMITED_SECONDS = 1.0
"""So long nobody asks again whether a key that had no limit has one now."""
_TOKENS_A_CHARACTER = 0.5
"""Question and answer together, on the safe side; what it really was is settled after the call, and learnt."""
_LEARNING = 0.1

_waits = meter.create_histogram(
    "chartloom_ai_rate_limit_wait_seconds",
    unit="s",
    description="How long a call was put off: the limit that instances share was used up, or the endpoint said 429.",
)


class LimitedProvider(AskingProvider):
    """Reserves each request before it is made and settles it after. One 429 parks the key for every instance.

    The key is ``provider:model``; a key without limits passes freely, but is parked all the same.
    """

    def __init__(self, provider: AskingProvider, pool: asyncpg.Pool) -> None:
        self._provider = provider
        self._pool = pool
        self.name = provider.name
        self.model = provider.model
        self.window = provider.window
        self._key = f"{provider.name}:{provider.model}"
        self._unlimited_until = 0.0
        self._tokens_a_character: dict[Task, float] = {}

    def prompt_version(self, task: Task) -> str:
        return self._provider.prompt_version(task)

    def fall_back(self) -> bool:
        return self._provider.fall_back()

    async def close(self) -> None:
        await self._provider.close()

    async def ask(
        self, task: Task, inputs: WireInputs, schema: type[Answer], complaint: str | None = None
    ) -> Completion[Answer]:
        """Ask. Raises BusyError where there is no room soon: the job comes back then, without a lost attempt."""
        if time.monotonic() < self._unlimited_until:
            return await self._ask(task, inputs, schema, complaint)
        characters = len(inputs.model_dump_json())
        grant = await self._reserve(round(characters * self._tokens_a_character.get(task, _TOKENS_A_CHARACTER)))
        if grant is None:
            self._unlimited_until = time.monotonic() + _UNLIMITED_SECONDS
            return await self._ask(task, inputs, schema, complaint)
        try:
            completion = await self._ask(task, inputs, schema, complaint)
        except UnusableReplyError as error:
            await self._settle(grant, task, characters, error.usage)
            raise
        await self._settle(grant, task, characters, completion.usage)
        return completion

    async def _ask(
        self, task: Task, inputs: WireInputs, schema: type[Answer], complaint: str | None
    ) -> Completion[Answer]:
        try:
            return await self._provider.ask(task, inputs, schema, complaint)
        except BusyError as error:
            self._record_wait("endpoint", error.retry_after.total_seconds())
            with suppress_instrumentation():
                await self._pool.execute(
                    "select chartloom.park_rate($1, $2)", self._key, error.retry_after.total_seconds()
                )
            self._unlimited_until = 0.0
            raise

    async def _reserve(self, tokens: int) -> int | None:
        """The grant of a slot whose moment has come; None where the key is not limited."""
        unused: int | None = None
        while True:
            began = time.monotonic()
            row = await self._take_slot(tokens, unused)
            wait: float = row["wait_seconds"]
            grant: int | None = row["grant_id"]
            if wait > 0:
                self._record_wait("limit", wait)
            if grant is None and wait > 0:
                message = f"The limit of {self._key} is used up."
                raise BusyError("model_rate_limited", message, timedelta(seconds=wait))
            if grant is None:
                return None
            await asyncio.sleep(wait)
            # A process that stood still must not make its calls in somebody's later minute.
            if time.monotonic() - began - wait <= _LATE_SECONDS:
                return grant
            unused = grant

    async def _take_slot(self, tokens: int, unused: int | None) -> asyncpg.Record:
        try:
            with suppress_instrumentation():
                row = await self._pool.fetchrow(
                    "select * from chartloom.reserve_rate_slot($1, $2, $3, $4)",
                    self._key,
                    tokens,
                    _PATIENCE_SECONDS,
                    unused,
                )
        except asyncpg.PostgresError as error:
            if error.sqlstate == "CL005":
                raise TerminalError(
                    "model_limit_too_small", f"One question is more than the limit of {self._key} allows in a minute."
                ) from None
            raise
        assert row is not None
        return row

    async def _settle(self, grant: int, task: Task, characters: int, usage: dict[str, int]) -> None:
        spent = sum(count for name, count in usage.items() if name.endswith("_tokens"))
        known = self._tokens_a_character.get(task, _TOKENS_A_CHARACTER)
        self._tokens_a_character[task] = known + _LEARNING * (spent / max(characters, 1) - known)
        with suppress_instrumentation():
            await self._pool.execute("select chartloom.settle_rate($1, $2)", grant, spent)

    def _record_wait(self, reason: str, seconds: float) -> None:
        _waits.record(seconds, {"model": self.model, "reason": reason})
