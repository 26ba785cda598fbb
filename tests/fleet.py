"""The services as processes, each with a way of its own to Postgres and, perhaps, a wrong clock."""

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import REPOSITORY, Database
from tests.proxy import Proxy, proxy_to
from tests.waiting import until_true

SERVICES = ("ocr", "ai", "persister", "sweeper")
LEASE_SECONDS = 5
DRAIN_SECONDS = 20
SETTLE_SECONDS = 10
"""After the drain, for handing back and closing: what Render's window has besides DRAIN_SECONDS, at least."""
CLOCKS = ("-3600", "-90", "+0", "+90", "+3600")
"""Seconds that a process's clock is off: further than a lease, further than any attempt may run."""


def find_faketime() -> Path | None:
    """Debian's libfaketime, which gives a process a clock of its own; None where it is not installed."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def wrong_clock(faketime: Path, offset: str) -> dict[str, str]:
    """The environment of a process whose date is so many seconds off; its monotonic clock is the machine's.

    libfaketime 0.9.10 breaks ``time.sleep`` then: the watchdog of such a process ends, with a traceback in its log.
    """
    return {"LD_PRELOAD": str(faketime), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@dataclass(eq=False)
class Instance:
    """One of the processes that run at the same time. It is started again whenever it dies; ``name`` stays."""

    name: str
    service: str
    proxy: Proxy
    process: asyncio.subprocess.Process
    log: Path
    log_began: int
    """How much of the log is of the processes before this one."""
    is_disturbed: bool = False
    """Frozen or cut off at this moment: no other fault is added."""

    def has_loaded(self) -> bool:
        """Before, Python itself would take a SIGTERM, and end with -15."""
        said = self.log.read_bytes()[self.log_began :]
        return b'"event": "started"' in said or self.process.returncode is not None

    def send(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)


@dataclass
class Fleet:
    database: Database
    logs: Path
    settings: Mapping[str, str]
    clocks: random.Random | None
    """None: every clock is right."""
    through_proxies: bool
    ways: AsyncExitStack
    instances: list[Instance] = field(default_factory=list)
    figures: Counter[str] = field(default_factory=Counter)
    ended_by_itself: list[str] = field(default_factory=list)
    _faketime: Path | None = field(default_factory=find_faketime)

    async def start(self, services: Sequence[str], instances: int) -> None:
        for service in services:
            for number in range(instances):
                name = f"{service}-{number + 1}"
                proxy = await self.ways.enter_async_context(proxy_to(self.database.admin_url))
                log = self.logs / f"{name}.log"
                process = await self._start(name, service, proxy)
                self.instances.append(Instance(name, service, proxy, process, log, 0))

    async def restart(self, instance: Instance) -> None:
        instance.log_began = instance.log.stat().st_size
        instance.process = await self._start(instance.name, instance.service, instance.proxy)

    async def kill(self, instance: Instance) -> None:
        if instance.process.returncode is None:
            instance.process.kill()
        await instance.process.wait()
        await self.restart(instance)

    async def look_after(self) -> None:
        """Starts again whoever ended without being told to, and remembers it as a failure."""
        for instance in self.instances:
            if instance.process.returncode is not None:
                self.ended_by_itself.append(f"{instance.name}: {instance.process.returncode}")
                await self.restart(instance)

    async def stop(self) -> dict[str, int]:
        """SIGTERM to all; the exit codes by name."""
        for instance in self.instances:
            await until_true(instance.has_loaded, what=f"the start of {instance.name}", seconds=60)
            instance.send(signal.SIGTERM)
        async with asyncio.timeout(DRAIN_SECONDS + SETTLE_SECONDS):
            return {instance.name: await instance.process.wait() for instance in self.instances}

    async def _start(self, name: str, service: str, proxy: Proxy) -> asyncio.subprocess.Process:
        self.figures["processes started"] += 1
        url = self.database.url(f"chartloom_{service}")
        environment = {
            **os.environ,
            "DATABASE_URL": proxy.url(url) if self.through_proxies else url,
            "WORKER_ID": f"{name}-{self.figures['processes started']}",
            "LEASE_SECONDS": str(LEASE_SECONDS),
            # The dead leave sleepers behind, each of which eats a wake-up.
            "POLL_SECONDS": "0.5",
            "DRAIN_SECONDS": str(DRAIN_SECONDS),
            "HEALTH_HOST": "127.0.0.1",
            "PORT": "0",
            **self.settings,
        }
        if self.clocks and self._faketime:
            offset = self.clocks.choice(CLOCKS)
            self.figures["processes with a wrong clock"] += offset != "+0"
            environment |= wrong_clock(self._faketime, offset)
        with (self.logs / f"{name}.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"services.{service}", cwd=REPOSITORY, env=environment, stdout=log, stderr=log
            )


@asynccontextmanager
async def fleet(
    database: Database,
    logs: Path,
    settings: Mapping[str, str],
    *,
    services: Sequence[str] = SERVICES,
    instances: int = 1,
    clocks: random.Random | None = None,
    through_proxies: bool = False,
) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as ways:
        started = Fleet(database, logs, settings, clocks, through_proxies, ways)
        try:
            await started.start(services, instances)
            yield started
        finally:
            for instance in started.instances:
                instance.send(signal.SIGCONT)
                instance.send(signal.SIGKILL)
                await instance.process.wait()
