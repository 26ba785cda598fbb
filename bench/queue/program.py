"""A contender's process: started, told to go, listened to, stopped. The protocol is in bench/peers/protocol.py."""

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

CHECKOUT = Path(__file__).parents[2]
STOP_SECONDS = 10.0
SILENCE_SECONDS = 300.0
"""Longer than anything that is measured lasts: a program that hangs ends the run instead of holding it up."""


class Program:
    """A running program. Its standard error is shown only where it fails."""

    def __init__(self, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors

    @property
    def pid(self) -> int:
        return self._process.pid

    async def hear(self, word: str) -> list[str]:
        """What follows the word in the next line that the program says; anything else it prints is passed over."""
        assert self._process.stdout is not None
        async with asyncio.timeout(SILENCE_SECONDS):
            while line := (await self._process.stdout.readline()).decode():
                match line.split():
                    case [">", said, *rest] if said == word:
                        return rest
        self._errors.seek(0)
        raise RuntimeError(f"the program ended before it said '{word}':\n{self._errors.read().decode()[-2000:]}")

    async def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        await self._process.stdin.drain()

    async def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def running(
    command: Sequence[str], environment: Mapping[str, str], *, is_heard: bool = True
) -> AsyncIterator[Program]:
    """The program, not yet ready; stopped at the end. What nobody hears must not fill a pipe until it blocks."""
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE if is_heard else errors,
            stderr=errors,
            cwd=CHECKOUT,
            env={**os.environ, **environment},
        )
        program = Program(process, errors)
        try:
            yield program
        finally:
            await program.stop()


async def run_to_end(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Standard output of a program that ends by itself. Raises RuntimeError where it fails."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=CHECKOUT,
        env={**os.environ, **environment},
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed:\n{errors.decode()[-2000:]}")
    return output.decode()


def chartloom_worker(
    url: str, *, worker_id: str, expected: int = 0, sleep: float = 0, concurrency: int | None = None
) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a Chartloom worker; the settings that are not named have a service's defaults."""
    environment = {"DATABASE_URL": url, "WORKER_ID": worker_id, "LOG_LEVEL": "warning", "PORT": "0"}
    environment |= {"HEALTH_HOST": "127.0.0.1"}
    if concurrency is not None:
        environment["WORKER_CONCURRENCY"] = str(concurrency)
    return [sys.executable, "-m", "bench.chartloom_worker", str(expected), str(sleep)], environment
