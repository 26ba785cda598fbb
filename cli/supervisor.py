"""The services as processes of this machine: started, restarted when they die, drained when told."""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from shared.settings import EXIT_CONFIGURATION

from .deployment import CHECKOUT, CONSOLE, SERVICES, Deployment

RESTART_FIRST_SECONDS = 0.5
RESTART_MAX_SECONDS = 10.0
DRAIN_SECONDS = 25.0
_PR_SET_PDEATHSIG = 1
HOST = "127.0.0.1"
CONSOLE_PORT = 8700
"""Unless CONSOLE_PORT says otherwise, or somebody else has it."""

LineSink = Callable[[str, str], None]
"""Takes the service's name and one line of its log."""


class ServicesRefusedError(Exception):
    """A service will not start as it is set up; the message is its own."""


class Supervisor:
    """Runs the services of a deployment. Only one process a home does so: ``acquire`` says whether it is this one."""

    def __init__(self, deployment: Deployment, *, on_line: LineSink | None = None) -> None:
        self._deployment = deployment
        self._on_line = on_line
        self._lock: IO[str] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._console_port = 0

    @property
    def console_address(self) -> str | None:
        """Where the pages are, with the key that signs in the local user; None where no console was started."""
        if not self._console_port:
            return None
        key = self._deployment.console_key
        return f"http://{HOST}:{self._console_port}/" + (f"sign-in/local?key={key}" if key else "")

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items() if process.returncode is None}

    @property
    def started(self) -> bool:
        return bool(self._tasks)

    def acquire(self) -> bool:
        """Takes the home's service lock; False where another process runs the services already."""
        if self._lock is not None:
            return True
        lock = (self._deployment.home / "services.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self._lock = lock
        return True

    def start(self, services: Sequence[str] = SERVICES) -> None:
        """Starts the services; ``acquire`` first."""
        if CONSOLE in services:
            self._console_port = _console_port()
        self._tasks = [asyncio.create_task(self._keep_running(service), name=service) for service in services]

    def check(self) -> None:
        """Raises ServicesRefusedError where a service refused its settings."""
        for task in self._tasks:
            if task.done() and not task.cancelled() and (error := task.exception()):
                raise error

    async def stop(self) -> None:
        """Drains: SIGTERM, the time that the services take for it, SIGKILL for what is left."""
        self._stopping.set()
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        if self._tasks:
            _, slow = await asyncio.wait(self._tasks, timeout=DRAIN_SECONDS + 10)
            for task in slow:
                task.cancel()
            for process in self._processes.values():
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def _keep_running(self, service: str) -> None:
        delay = RESTART_FIRST_SECONDS
        while not self._stopping.is_set():
            started = asyncio.get_running_loop().time()
            code, last = await self._run_once(service)
            if self._stopping.is_set():
                return
            if code == EXIT_CONFIGURATION:
                raise ServicesRefusedError(f"{service}: {last}")
            if asyncio.get_running_loop().time() - started > RESTART_MAX_SECONDS:
                delay = RESTART_FIRST_SECONDS
            await asyncio.sleep(delay)
            delay = min(delay * 2, RESTART_MAX_SECONDS)

    async def _run_once(self, service: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"services.{service}",
            cwd=CHECKOUT,
            env=self._environment(service),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=1 << 20,
            # A group of its own: ctrl-C reaches only this process, which then drains the services in order.
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        self._processes[service] = process
        if self._stopping.is_set():
            process.terminate()
        last = ""
        assert process.stdout is not None
        with _open_log(self._deployment.home, service) as log:
            async for raw in process.stdout:
                last = raw.decode(errors="replace").rstrip()
                log.write(last + "\n")
                log.flush()
                if self._on_line:
                    self._on_line(service, last)
        return await process.wait(), last

    def _environment(self, service: str) -> dict[str, str]:
        if service == CONSOLE:
            own = {"PORT": str(self._console_port), "HEALTH_PORT": "0"}
            if self._deployment.console_key:
                own["CONSOLE_DEVELOPMENT_KEY"] = self._deployment.console_key
        else:
            own = {"PORT": "0"}
        return {
            **os.environ,
            "DATABASE_URL": self._deployment.service_urls[service],
            "STORAGE_URL": self._deployment.storage_url,
            "WORKER_ID": f"{service}-{os.getpid()}-{os.urandom(4).hex()}",
            "HEALTH_HOST": HOST,
            **own,
            "DRAIN_SECONDS": str(DRAIN_SECONDS),
            "PYTHONUNBUFFERED": "1",
        }


def _console_port() -> int:
    """The usual one, so that a bookmark stays right; where it is taken, one that is free."""
    wanted = int(os.environ.get("CONSOLE_PORT") or CONSOLE_PORT)
    for port in (wanted, 0):
        with socket.socket() as probe:
            # As the console's own socket: what lingers of an earlier one does not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    return wanted


def _open_log(home: Path, service: str) -> IO[str]:
    folder = home / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / f"{service}.log").open("a", encoding="utf-8")


def _end_with_parent() -> None:
    """In the child, before it runs: a killed supervisor takes its services along (they drain on SIGTERM)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
