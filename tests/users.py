"""Calling the database as an API gateway does: a user's role and claims, for one transaction."""

import hashlib
import json
from typing import Any
from uuid import UUID

import asyncpg


async def as_user(connection: asyncpg.Connection, user_id: UUID | None, query: str, *arguments: Any) -> Any:
    """Runs one query with the user's claims (None: anonymous) and returns its first value."""
    async with connection.transaction():
        await become_user(connection, user_id)
        return await connection.fetchval(query, *arguments)


async def become_user(connection: asyncpg.Connection, user_id: UUID | None) -> None:
    """For the rest of the transaction."""
    role = "anon" if user_id is None else "authenticated"
    claims = {"role": role} if user_id is None else {"sub": str(user_id), "role": role}
    await connection.execute(
        "select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)", role, json.dumps(claims)
    )


class RefusedError(Exception):
    """The API said no."""


async def upload(connection: asyncpg.Connection, user_id: UUID, patient_id: UUID, content: bytes = b"record") -> UUID:
    """A complete upload without its file; returns the document's id."""
    created = await as_user(
        connection,
        user_id,
        "select create_upload($1, $2, $3, $4)",
        patient_id,
        "letter.pdf",
        hashlib.sha256(content).hexdigest(),
        len(content),
    )
    if "error" in created:
        raise RefusedError(created["error"]["message"])
    await as_user(connection, user_id, "select complete_upload($1)", UUID(created["shell_file_id"]))
    return UUID(created["shell_file_id"])
