"""Being woken: a gate that is open only while its owner sleeps, one connection that LISTENs, and a poll beneath it.

A NOTIFY is a hint to look, never data. Whoever brings work notifies only if a gate is open (docs/decisions/0002), so
under load nobody notifies and nobody waits for the lock that a NOTIFY takes.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Sequence
from uuid import uuid4

import asyncpg
import structlog
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.metrics import CallbackOptions, Observation

from .database import CONNECTION_ERRORS, connect
from .logs import describe_error
from .telemetry import meter

ROUND_TRIP_SECONDS = 2.0
"""A NOTIFY round trip takes 0.1 ms; in transaction mode a pooler accepts LISTEN and delivers nothing, ever."""
SELF_TEST_EVERY_SECONDS = 60.0
RECONNECT_MAX_SECONDS = 10.0


class Listener:
    """Listens on a channel of its own for the topics given: job types, or ``changes`` for an observer."""

    def __init__(self, *, listen_url: str, pool: asyncpg.Pool, topics: Sequence[str], application_name: str) -> None:
        self.channel = f"chartloom_{uuid4().hex}"
        self._url = listen_url
        self._pool = pool
        self._topics = list(topics)
        self._application_name = application_name
        self._woken = asyncio.Event()
        self._gate_open = False
        self._unsure = False
        self._proved_at: float | None = None
        self._log = structlog.get_logger()
        meter.create_observable_gauge(
            "chartloom_notify_proof_age_seconds",
            callbacks=[self._observe_proof_age],
            unit="s",
            description="Since NOTIFY was last seen to work; not there while the service only polls.",
        )

    def _observe_proof_age(self, _: CallbackOptions) -> list[Observation]:
        age = self.proof_age_seconds
        return [] if age is None else [Observation(age)]

    @property
    def mode(self) -> str:
        """``notify`` while round trips are proved, ``poll`` while they are not."""
        return "poll" if self._proved_at is None else "notify"

    @property
    def proof_age_seconds(self) -> float | None:
        """Since NOTIFY was last seen to work; None while it does not."""
        return None if self._proved_at is None else time.monotonic() - self._proved_at

    def nudge(self) -> None:
        """Ends a sleep from within the process."""
        self._woken.set()

    def wake(self) -> None:
        """What a notification does: the gate is shut, since whoever notified took us off the list."""
        self._gate_open = False
        self._woken.set()

    async def open_gate(self) -> bool:
        """Asks to be woken. True if the gate was shut: then look once more before sleeping."""
        if (self._gate_open and not self._unsure) or self._proved_at is None:
            return False
        self._unsure = False
        # Before the statement, not after: the wake-up may come while its answer is still on the way.
        self._gate_open = True
        try:
            with suppress_instrumentation():
                opened = await self._pool.fetchval("select chartloom.fall_asleep($1, $2)", self.channel, self._topics)
        except BaseException:
            self._gate_open = False
            raise
        return bool(opened)

    async def sleep(self, seconds: float, *, exactly: bool = False) -> bool:
        """Until woken (then True), or for about so long: jittered, so that processes started together drift apart.

        ``exactly`` so long: something is due then.
        """
        factor = 1.0 if exactly else random.uniform(0.75, 1.25)  # noqa: S311
        try:
            async with asyncio.timeout(seconds * factor):
                await self._woken.wait()
            woken = True
        except TimeoutError:
            # Nobody woke us for so long: make sure that our place among the sleepers is still there.
            self._unsure = True
            woken = False
        self._woken.clear()
        return woken

    async def run(self) -> None:
        """Keeps the listening connection up and proved, until cancelled. Never raises for a database that is away."""
        delay = 0.1
        told = False
        while True:
            try:
                await self._listen()
            except (*CONNECTION_ERRORS, asyncpg.PostgresError, TimeoutError) as error:
                if self._proved_at is not None:
                    delay, told = 0.1, False
                if not told:
                    # Once until it works again: LISTEN_DATABASE_URL may point at a transaction pooler for good.
                    self._log.warning("listen_unproved", mode="poll", **describe_error(error))
                    told = True
                delay = min(delay * 2, RECONNECT_MAX_SECONDS)
            finally:
                self._proved_at = None
                # A restarted server has forgotten who sleeps (the table is unlogged): open the gate again, and look.
                self._gate_open = False
                self._woken.set()
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311

    async def _listen(self) -> None:
        """Listens and proves it, again and again. Returns never; raises when the connection or the proof fails."""
        with suppress_instrumentation():
            connection = await connect(self._url, application_name=f"{self._application_name} listen")
            closed = asyncio.Event()
            echo = asyncio.Event()

            def on_close(_: object) -> None:
                closed.set()

            def on_notify(_: object, __: int, ___: str, payload: object) -> None:
                if payload == "echo":
                    echo.set()
                else:
                    self.wake()

            try:
                connection.add_termination_listener(on_close)
                await connection.add_listener(self.channel, on_notify)
                while not closed.is_set():
                    echo.clear()
                    await self._pool.execute("select pg_notify($1, 'echo')", self.channel)
                    async with asyncio.timeout(ROUND_TRIP_SECONDS):
                        await echo.wait()
                    if self._proved_at is None:
                        self._log.info("listening", mode="notify")
                        self._woken.set()
                    self._proved_at = time.monotonic()
                    # No longer than the connection lives: a killed server is noticed at once, not at the next test.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(SELF_TEST_EVERY_SECONDS):
                            await closed.wait()
                raise ConnectionResetError("the listening connection was closed")
            finally:
                connection.terminate()

    async def close(self) -> None:
        """Shuts the gate. The caller cancels ``run``."""
        with contextlib.suppress(*CONNECTION_ERRORS, asyncpg.PostgresError), suppress_instrumentation():
            await self._pool.execute("select chartloom.wake_up($1)", self.channel)
