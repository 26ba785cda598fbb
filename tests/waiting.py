"""Waiting for what the database shows, never for a time to pass."""

import asyncio
from collections.abc import Callable
from typing import Any

import asyncpg


async def until(connection: asyncpg.Connection, condition: str, *arguments: Any, seconds: float = 20) -> None:
    """Waits until ``select <condition>`` says true."""
    try:
        async with asyncio.timeout(seconds):
            while not await connection.fetchval(f"select {condition}", *arguments):
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"in {seconds} s it did not come to be that {condition} {arguments or ''}") from None


async def until_true(condition: Callable[[], bool], *, what: str, seconds: float = 20) -> None:
    """Waits for something inside this process."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"in {seconds} s it did not come to be: {what}") from None


async def until_blocked(watcher: asyncpg.Connection, pid: int) -> None:
    """Until the backend waits for a lock that another one holds."""
    await until(watcher, "cardinality(pg_blocking_pids($1)) > 0", pid)
