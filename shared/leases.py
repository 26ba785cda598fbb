"""Keeps the leases of the jobs in hand, and ends what has lost its own or runs too long."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from opentelemetry.instrumentation.utils import suppress_instrumentation

from . import jobs
from .database import CONNECTION_ERRORS, connect
from .handler import Attempt
from .logs import describe_error
from .settings import ServiceSettings

HEARTBEAT_RETRY_SECONDS = 0.5
DEADLINE_LOOK_SECONDS = 1.0


class Leases:
    """``running`` are the attempts in hand by lease token; ``busy`` is set while there are any."""

    def __init__(
        self,
        *,
        service: str,
        version: str,
        settings: ServiceSettings,
        details: Mapping[str, Any],
        running: Mapping[UUID, Attempt],
        busy: asyncio.Event,
    ) -> None:
        self._service = service
        self._version = version
        self._settings = settings
        self._details = dict(details)
        self._running = running
        self._busy = busy
        self._log = structlog.get_logger()

    async def renew(self) -> None:
        """One statement for all jobs in hand, every third of the lease: two may fail before it expires.

        On a connection of its own, which is dropped when it does not answer: those of the pool may all hang on a line
        that went dead without a word, and would for a minute, the whole lease by default.
        """
        connection: asyncpg.Connection | None = None
        try:
            while True:
                pause = self._settings.lease_seconds / 3
                try:
                    with suppress_instrumentation():
                        async with asyncio.timeout(max(self._settings.lease_seconds / 6, 1.0)):
                            if connection is None or connection.is_closed():
                                connection = await connect(
                                    self._settings.database_url.get_secret_value(),
                                    application_name=f"chartloom {self._service} heartbeat",
                                )
                            await self._beat(connection)
                except (*CONNECTION_ERRORS, TimeoutError, asyncpg.PostgresError) as error:
                    self._log.warning("heartbeat_failed", **describe_error(error))
                    if connection is not None:
                        connection.terminate()
                    pause = HEARTBEAT_RETRY_SECONDS
                await asyncio.sleep(pause)
        finally:
            if connection is not None:
                connection.terminate()

    async def _beat(self, connection: asyncpg.Connection) -> None:
        held = list(self._running.values())
        states = await jobs.heartbeat_jobs(
            connection,
            worker_id=self._settings.worker_id,
            service=self._service,
            version=self._version,
            jobs=[attempt.job for attempt in held],
            lease_seconds=self._settings.lease_seconds,
            details=self._details,
            progress=[attempt.progress for attempt in held],
        )
        for token, state in states.items():
            attempt = self._running.get(token)
            # One that is being settled may have let go of its lease itself: the answer to it is still on its way.
            if state != "held" and attempt is not None and not attempt.is_settling:
                attempt.revoke(state)

    async def watch_deadlines(self) -> None:
        """Ends what ran too long: one look a second costs less than a timer for each job."""
        while True:
            await self._busy.wait()
            now = time.monotonic()
            for attempt in self._running.values():
                if now > attempt.job.run_deadline and attempt.revoked is None:
                    attempt.revoke("overdue")
            await asyncio.sleep(DEADLINE_LOOK_SECONDS)
