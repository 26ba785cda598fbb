"""Connections: a pool for the work, through any pooler, and one of their own for LISTEN."""

import json
from typing import Any

import asyncpg

from .errors import JobCancelledError, LeaseLostError

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy | asyncpg.Pool
"""What runs a statement."""

LEASE_LOST = "CL001"
JOB_CANCELLED = "CL002"

DATABASE_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
)
"""It is surely the database that is away or restarting, and nobody else."""

CONNECTION_ERRORS = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, *DATABASE_AWAY)
"""The database is away or restarting; what was under way was rolled back, or its outcome is not known."""


async def _prepare(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog", format="text")


async def _leave_as_is(_: asyncpg.Connection) -> None:
    """Nothing here changes a session, so nothing has to be reset: by default that is a round trip more each time."""


async def _is_direct(url: str) -> bool:
    """Whether the server itself answers: a pooler gives its clients process ids of its own invention.

    Kept statements save a claim its second round trip and its planning: 0.4 of 1.1 ms.
    """
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        return bool(connection.get_server_pid() == await connection.fetchval("select pg_backend_pid()"))
    finally:
        await connection.close()


async def _reach(*arguments: Any, **options: Any) -> asyncpg.Connection:
    """``asyncpg.connect``, whose refusal is the database's: an OSError could be a full disk's or a model's."""
    try:
        return await asyncpg.connect(*arguments, **options)
    except OSError as error:
        raise asyncpg.ClientCannotConnectError("The database can't be reached.") from error


async def open_pool(url: str, *, size: int, application_name: str) -> asyncpg.Pool:
    """A pool that works behind a transaction pooler, too: it keeps no statement there."""
    return await asyncpg.create_pool(
        url,
        min_size=1,
        max_size=size,
        connect=_reach,
        statement_cache_size=100 if await _is_direct(url) else 0,
        init=_prepare,
        reset=_leave_as_is,
        command_timeout=60,
        server_settings={"application_name": application_name},
    )


async def connect(url: str, *, application_name: str) -> asyncpg.Connection:
    """One connection of its own, JSON decoded as in the pool."""
    connection: asyncpg.Connection = await asyncpg.connect(
        url, statement_cache_size=0, server_settings={"application_name": application_name}
    )
    await _prepare(connection)
    return connection


def translate(error: asyncpg.PostgresError) -> Exception:
    """The contract's own SQLSTATEs as Chartloom's errors; any other error as it is."""
    sqlstate: Any = error.sqlstate
    if sqlstate == LEASE_LOST:
        return LeaseLostError("lease_lost", "Another attempt has the job, or it is over.")
    if sqlstate == JOB_CANCELLED:
        return JobCancelledError("job_cancelled", "The job was cancelled.")
    return error
