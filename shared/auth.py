"""Who asks: a user's JWT as Supabase Auth signs it, verified, and the transaction in which their rights hold.

Whatever serves users goes through ``as_user``: Postgres decides by the same policies as behind Supabase's own API.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import jwt

from .errors import ChartloomError

AUDIENCE = "authenticated"
CLOCK_SKEW_SECONDS = 10
KEYS_KEPT_SECONDS = 600.0
KEYS_ASKED_AT_MOST_EVERY_SECONDS = 30.0
"""A token with a key id that nobody knows must not make us ask for the keys each time."""


class TokenRefusedError(ChartloomError):
    """The token is forged, expired, for somebody else, or no token. Says which, never what is in it."""


@dataclass(frozen=True)
class User:
    """A signed-in user and the verified claims, as policies read them."""

    user_id: UUID
    claims: dict[str, Any]


class TokenVerifier:
    """Verifies by the project's shared secret (HS256), or by its published keys (ES256, RS256).

    The kind of key decides which algorithms are allowed, not the token: a public key is never taken for a secret.
    """

    def __init__(self, *, issuer: str, secret: str | None = None, jwks_url: str | None = None) -> None:
        """Exactly one of ``secret`` and ``jwks_url``."""
        if (secret is None) == (jwks_url is None):
            raise ValueError("exactly one of secret and jwks_url")
        self._issuer = issuer
        self._secret = secret
        self._jwks_url = jwks_url
        self._keys: dict[str, jwt.PyJWK] = {}
        self._asked_at = float("-inf")
        self._asking = asyncio.Lock()

    async def verify(self, token: str) -> User:
        """Raises TokenRefusedError."""
        try:
            if self._secret is not None:
                claims = self._decode(token, self._secret, ["HS256"])
            else:
                claims = self._decode(token, await self._key_of(token), ["ES256", "RS256"])
            if claims["role"] != "authenticated":
                # A service's or an anonymous token is no user's, however well it is signed.
                raise TokenRefusedError("token_role", "The token is not a signed-in user's.")
            return User(UUID(claims["sub"]), claims)
        except jwt.ExpiredSignatureError:
            raise TokenRefusedError("token_expired", "The token has expired: sign in again.") from None
        except (jwt.PyJWTError, ValueError, TypeError):
            raise TokenRefusedError("token_invalid", "The token is not valid here.") from None

    def _decode(self, token: str, key: str | jwt.PyJWK, algorithms: list[str]) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=algorithms,
            audience=AUDIENCE,
            issuer=self._issuer,
            leeway=CLOCK_SKEW_SECONDS,
            options={"require": ["exp", "sub", "aud", "iss", "role"]},
        )

    async def _key_of(self, token: str) -> jwt.PyJWK:
        key_id = jwt.get_unverified_header(token).get("kid")
        async with self._asking:
            age = time.monotonic() - self._asked_at
            known = key_id in self._keys
            if age > KEYS_KEPT_SECONDS or (not known and age > KEYS_ASKED_AT_MOST_EVERY_SECONDS):
                await self._ask_for_keys()
        if key_id not in self._keys:
            raise TokenRefusedError("token_invalid", "The token is not valid here.")
        return self._keys[key_id]

    async def _ask_for_keys(self) -> None:
        assert self._jwks_url is not None
        self._asked_at = time.monotonic()
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
                session.get(self._jwks_url) as response,
            ):
                response.raise_for_status()
                published = jwt.PyJWKSet.from_dict(await response.json())
        except (aiohttp.ClientError, TimeoutError, jwt.PyJWTError):
            if not self._keys:
                raise TokenRefusedError("keys_away", "The keys that sign tokens can't be read now.") from None
            return  # those that are known still hold
        self._keys = {key.key_id: key for key in published.keys if key.key_id}


@asynccontextmanager
async def as_user(pool: asyncpg.Pool, user: User) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
    """A transaction with the user's role and claims, as PostgREST sets them. Nothing of it stays on the connection."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', $1, true)",
            json.dumps(user.claims),
        )
        yield connection
