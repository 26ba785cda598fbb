"""Wires a service: settings, logs, telemetry, connections, health, the loop, signals."""

import asyncio
import contextlib
import gc
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import asyncpg
import structlog
import uvloop
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.metrics import CallbackOptions, Observation

from .database import CONNECTION_ERRORS, open_pool
from .errors import ConfigurationError
from .handler import Handler
from .health import HealthServer
from .listener import Listener
from .logs import configure_logs, describe_error
from .settings import ServiceSettings, exit_misconfigured
from .telemetry import configure_telemetry, flush_telemetry, meter
from .worker import Worker

VERSION = "0.1.0"
FIRST_CONNECTION_SECONDS = 120.0
WATCHDOG_SECONDS = 10.0
EXIT_STALLED = 70
"""sysexits.h EX_SOFTWARE."""


class Loop(Protocol):
    """What a service runs: the worker of a job service, or the sweeper's own loop."""

    def live(self) -> str | None: ...
    def ready(self) -> str | None: ...
    def stop(self) -> None: ...
    async def run(self) -> None: ...


@dataclass(frozen=True)
class Runtime:
    """What a loop gets to work with."""

    service: str
    settings: ServiceSettings
    pool: asyncpg.Pool
    listener: Listener
    closing: AsyncExitStack
    """What is pushed here ends with the service, before its pool does."""


def nothing_around(_: Runtime) -> AbstractAsyncContextManager[None]:
    return contextlib.nullcontext()


def run_worker(
    service: str,
    settings: ServiceSettings,
    job_types: list[str],
    build: Callable[[Runtime], list[Handler[Any, Any]]],
    *,
    details: Mapping[str, Any],
    take_turns: bool = False,
    around: Callable[[Runtime], AbstractAsyncContextManager[None]] = nothing_around,
) -> None:
    """Runs a job service until SIGTERM or SIGINT.

    It claims ``job_types`` in the order given; with ``take_turns``, another of them comes first after each claim, so
    that none starves. ``details`` (model, engine) is shown with the worker. ``around`` is entered before the first
    claim, where it may raise ConfigurationError, and left after the last job.
    """

    def build_worker(runtime: Runtime) -> Loop:
        handlers = {handler.job_type: handler for handler in build(runtime)}
        return Worker(
            service=service,
            version=VERSION,
            settings=settings,
            pool=runtime.pool,
            listener=runtime.listener,
            handlers={job_type: handlers[job_type] for job_type in job_types},
            details=details,
            take_turns=take_turns,
        )

    run_service(service, settings, topics=job_types, build=build_worker, around=around)


def run_service(
    service: str,
    settings: ServiceSettings,
    *,
    topics: list[str],
    build: Callable[[Runtime], Loop],
    around: Callable[[Runtime], AbstractAsyncContextManager[None]] = nothing_around,
) -> None:
    """Runs any loop as a service. Exits 0 after a drained stop, 78 where the set-up is wrong."""
    configure_logs(service=service, level=settings.log_level)
    configure_telemetry(service=service, version=VERSION, instance=settings.worker_id)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(service, settings, topics, build, around))
    except ConfigurationError as error:
        exit_misconfigured(error)
    finally:
        flush_telemetry()


async def _serve(
    service: str,
    settings: ServiceSettings,
    topics: list[str],
    build: Callable[[Runtime], Loop],
    around: Callable[[Runtime], AbstractAsyncContextManager[None]],
) -> None:
    log = structlog.get_logger()
    async with _open_pool(service, settings) as pool, AsyncExitStack() as closing:
        _measure_pool(pool)
        listener = Listener(
            listen_url=settings.listen_url, pool=pool, topics=topics, application_name=f"chartloom {service}"
        )
        runtime = Runtime(service=service, settings=settings, pool=pool, listener=listener, closing=closing)
        loop = build(runtime)
        health = HealthServer(host=settings.health_host, port=settings.probe_port, live=loop.live, ready=loop.ready)
        port = await health.start()

        def stop(name: str) -> None:
            log.info("stopping", signal=name)
            loop.stop()

        threading.Thread(target=_watchdog, args=(loop,), name="watchdog", daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop, number.name)
        listening = asyncio.create_task(listener.run(), name="listener")
        log.info("started", port=port, worker_id=settings.worker_id, job_types=topics)
        try:
            async with around(runtime):
                _collect_seldom()
                await loop.run()
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
            with contextlib.suppress(*CONNECTION_ERRORS, asyncpg.PostgresError), suppress_instrumentation():
                await pool.execute("select chartloom.forget_worker($1, $2)", settings.worker_id, listener.channel)
            await health.close()
            log.info("stopped")


def _collect_seldom() -> None:
    """A thousand jobs in hand are a million objects in next to no cycle: looking for one took a quarter of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 100, 100)


def _measure_pool(pool: asyncpg.Pool) -> None:
    def in_use(_: CallbackOptions) -> list[Observation]:
        return [Observation(pool.get_size() - pool.get_idle_size())]

    def size(_: CallbackOptions) -> list[Observation]:
        return [Observation(pool.get_max_size())]

    meter.create_observable_gauge(
        "chartloom_pool_connections_in_use", callbacks=[in_use], description="Connections of the pool that work."
    )
    meter.create_observable_gauge(
        "chartloom_pool_connections_limit", callbacks=[size], description="POOL_SIZE: how many there may be."
    )


def _watchdog(loop: Loop) -> None:
    """A thread of its own, since a blocked event loop answers no probe: ends the process, and the platform restarts it.

    Render probes web services only. The jobs in hand come back when their leases expire.
    """
    while True:
        time.sleep(WATCHDOG_SECONDS)
        if reason := loop.live():
            os.write(2, f"{reason}: ending the process\n".encode())
            os._exit(EXIT_STALLED)


@asynccontextmanager
async def _open_pool(service: str, settings: ServiceSettings) -> AsyncIterator[asyncpg.Pool]:
    """Waits for a database that is not up yet; refuses one that rejects the credentials."""
    deadline = asyncio.get_running_loop().time() + FIRST_CONNECTION_SECONDS
    while True:
        try:
            with suppress_instrumentation():
                pool = await open_pool(
                    settings.database_url.get_secret_value(),
                    size=settings.pool_size,
                    application_name=f"chartloom {service}",
                )
            break
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
            raise ConfigurationError(
                "database_refused", f"DATABASE_URL: the server refuses it (SQLSTATE {error.sqlstate})."
            ) from None
        except CONNECTION_ERRORS as error:
            if asyncio.get_running_loop().time() > deadline:
                raise ConfigurationError("database_away", "DATABASE_URL: no server answers there.") from None
            structlog.get_logger().warning("database_away", **describe_error(error))
            await asyncio.sleep(1)
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(5):
                await pool.close()
        except (TimeoutError, *CONNECTION_ERRORS):
            pool.terminate()
