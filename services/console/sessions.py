"""Who asks: a token in a cookie that no script can read, from Supabase Auth or, on the embedded default, of our own."""

import hmac
import secrets
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol
from uuid import UUID

import aiohttp
import jwt
from aiohttp import web

from shared.auth import AUDIENCE, TokenVerifier, User
from shared.errors import BusyError, ChartloomError

from .settings import ConsoleSettings

LOCAL_USER = UUID("00000000-0000-4000-8000-000000000001")
"""The one who uploads from the command line."""
LOCAL_SESSION_SECONDS = 12 * 3600
REFRESH_COOKIE_SECONDS = 30 * 24 * 3600
SUPABASE_SECONDS = 10.0


class SignInRefusedError(ChartloomError):
    """The name or the password is not right, or Supabase Auth said so."""


@dataclass(frozen=True)
class Tokens:
    access: str
    refresh: str | None
    lasts_seconds: int


class SignIn(Protocol):
    """One way to sign in; which one it is, the settings say."""

    is_local: bool

    async def verify(self, token: str) -> User:
        """Raises TokenRefusedError."""

    async def refresh(self, token: str) -> Tokens:
        """Raises SignInRefusedError."""


class LocalSignIn:
    """One user, known by a key that only this machine's account can read. Never beside Supabase: settings refuse it."""

    is_local = True

    def __init__(self, key: str) -> None:
        self._key = key
        # Tokens end with the process: the address that was printed makes another.
        self._secret = secrets.token_urlsafe(48)
        self._verifier = TokenVerifier(issuer="chartloom-local", secret=self._secret)

    async def verify(self, token: str) -> User:
        return await self._verifier.verify(token)

    async def refresh(self, token: str) -> Tokens:
        raise SignInRefusedError("sign_in_again", "Sign in again.")

    def sign_in(self, key: str) -> Tokens:
        """Raises SignInRefusedError."""
        if not hmac.compare_digest(key.encode(), self._key.encode()):
            raise SignInRefusedError("key_wrong", "Open the address that chartloom up printed: it holds the key.")
        claims = {
            "iss": "chartloom-local",
            "aud": AUDIENCE,
            "sub": str(LOCAL_USER),
            "role": "authenticated",
            "exp": int(time.time()) + LOCAL_SESSION_SECONDS,
            "app_metadata": {"chartloom_role": "operator"},
        }
        return Tokens(jwt.encode(claims, self._secret, algorithm="HS256"), None, LOCAL_SESSION_SECONDS)


class SupabaseSignIn:
    """Supabase Auth: asked for tokens with the user's password, never for more than the user's own."""

    is_local = False

    def __init__(self, url: str, anon_key: str, secret: str | None) -> None:
        self._auth = f"{url.rstrip('/')}/auth/v1"
        self._anon_key = anon_key
        self._verifier = (
            TokenVerifier(issuer=self._auth, secret=secret)
            if secret
            else TokenVerifier(issuer=self._auth, jwks_url=f"{self._auth}/.well-known/jwks.json")
        )

    async def verify(self, token: str) -> User:
        return await self._verifier.verify(token)

    async def sign_in(self, email: str, password: str) -> Tokens:
        """Raises SignInRefusedError."""
        return await self._ask("password", {"email": email, "password": password})

    async def refresh(self, token: str) -> Tokens:
        return await self._ask("refresh_token", {"refresh_token": token})

    async def _ask(self, grant: str, body: dict[str, str]) -> Tokens:
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SUPABASE_SECONDS)) as session,
                session.post(
                    f"{self._auth}/token",
                    params={"grant_type": grant},
                    json=body,
                    headers={"apikey": self._anon_key},
                ) as response,
            ):
                if response.status == 429:
                    raise SignInRefusedError("sign_in_busy", "Too many tries: wait a minute, then sign in again.")
                if response.status >= 500:
                    raise SignInRefusedError("sign_in_away", "Signing in does not work just now. Try again soon.")
                if response.status != 200:
                    raise SignInRefusedError("sign_in_wrong", "That e-mail address and password do not match.")
                answer: dict[str, Any] = await response.json()
                return Tokens(answer["access_token"], answer["refresh_token"], int(answer["expires_in"]))
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError):
            raise SignInRefusedError("sign_in_away", "Signing in does not work just now. Try again soon.") from None


def open_sign_in(settings: ConsoleSettings) -> LocalSignIn | SupabaseSignIn:
    if settings.console_development_key is not None:
        return LocalSignIn(settings.console_development_key.get_secret_value())
    assert settings.supabase_url is not None
    assert settings.supabase_anon_key is not None
    secret = settings.supabase_jwt_secret
    return SupabaseSignIn(
        settings.supabase_url,
        settings.supabase_anon_key.get_secret_value(),
        secret.get_secret_value() if secret else None,
    )


def is_operator(user: User) -> bool:
    """By a claim that a user can't set: app_metadata is the project's own to write."""
    app_metadata = user.claims.get("app_metadata")
    return isinstance(app_metadata, dict) and app_metadata.get("chartloom_role") == "operator"


class Cookies:
    """The names and the attributes of the cookies; __Host- and Secure where the address is a public one."""

    def __init__(self, *, is_local: bool) -> None:
        self._secure = not is_local
        prefix = "" if is_local else "__Host-"
        self.session = f"{prefix}chartloom-session"
        self.refresh = f"{prefix}chartloom-refresh"
        self.csrf = f"{prefix}chartloom-csrf"

    def keep(self, response: web.StreamResponse, tokens: Tokens) -> None:
        self._set(response, self.session, tokens.access, tokens.lasts_seconds)
        if tokens.refresh:
            self._set(response, self.refresh, tokens.refresh, REFRESH_COOKIE_SECONDS)

    def of(self, tokens: Tokens) -> list[str]:
        """The same, as headers."""
        carrier = web.Response()
        self.keep(carrier, tokens)
        return [cookie.OutputString() for cookie in carrier.cookies.values()]

    def keep_csrf(self, response: web.StreamResponse, token: str) -> None:
        self._set(response, self.csrf, token, REFRESH_COOKIE_SECONDS, samesite="Strict")

    def drop(self, response: web.StreamResponse) -> None:
        for name in (self.session, self.refresh, self.csrf):
            response.del_cookie(name, path="/", secure=self._secure, httponly=True, samesite="Lax")

    def _set(self, response: web.StreamResponse, name: str, value: str, seconds: int, *, samesite: str = "Lax") -> None:
        response.set_cookie(
            name, value, max_age=seconds, path="/", secure=self._secure, httponly=True, samesite=samesite
        )


class Limit:
    """So many a minute of each key, counted in this process."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._minute = 0
        self._counts: dict[object, int] = {}

    def take(self, key: object) -> None:
        """Raises BusyError."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute = minute
            self._counts.clear()
        count = self._counts.get(key, 0)
        if count >= self._per_minute:
            raise BusyError("too_many", "Too many at once: wait a minute, then go on.", timedelta(minutes=1))
        self._counts[key] = count + 1
