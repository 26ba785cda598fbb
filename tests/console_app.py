"""The console in the test's own process, and users who ask it as browsers do, with tokens that Supabase Auth signed."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import jwt
from aiohttp.test_utils import TestServer
from multidict import CIMultiDictProxy

from services.console.application import make_application
from services.console.feed import Feed
from services.console.files import open_files
from services.console.rendering import Renderer
from services.console.settings import ConsoleSettings
from shared.database import open_pool
from shared.listener import Listener
from shared.storage import LocalStorage
from tests.conftest import Database

AUTH = "http://auth.example"
SECRET = "a-secret-of-at-least-thirty-two-bytes"
CSRF = "a-token-of-the-tests"


def token(user_id: UUID, **changes: Any) -> str:
    claims = {
        "sub": str(user_id), "role": "authenticated", "aud": "authenticated", "iss": f"{AUTH}/auth/v1",
        "exp": int(time.time()) + 600, **changes,
    }  # fmt: skip
    return jwt.encode(claims, SECRET, algorithm="HS256")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: CIMultiDictProxy[str]
    text: str


@dataclass
class Visitor:
    """Somebody's browser: their cookies, without a jar, since these are for HTTPS alone."""

    session: aiohttp.ClientSession
    base: str
    cookies: dict[str, str] = field(default_factory=dict)

    async def get(self, path: str, **headers: str) -> Answer:
        return await self._ask("GET", path, None, headers)

    async def post(self, path: str, data: Any = None, **headers: str) -> Answer:
        return await self._ask("POST", path, data, headers)

    async def upload(self, patient_id: UUID, content: bytes, name: str = "letter.txt") -> Answer:
        return await self.post(
            f"/records/{patient_id}/documents",
            content,
            **{"X-CSRF-Token": CSRF, "X-File-Name": name, "Content-Type": "text/plain"},
        )

    @asynccontextmanager
    async def events(self, patient_id: UUID, **headers: str) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self.session.get(
            f"{self.base}/records/{patient_id}/events", headers={**headers, "Cookie": self._cookie()}
        ) as response:
            yield response

    async def _ask(self, method: str, path: str, data: Any, headers: Mapping[str, str]) -> Answer:
        async with self.session.request(
            method,
            self.base + path,
            data=data,
            headers={"Accept": "text/html", "Cookie": self._cookie(), **headers},
            allow_redirects=False,
        ) as response:
            # An image is no text, and no test reads one.
            return Answer(response.status, response.headers, (await response.read()).decode(errors="replace"))

    def _cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())


@dataclass(frozen=True)
class ConsoleApp:
    session: aiohttp.ClientSession
    base: str
    feed: Feed
    storage: LocalStorage

    def visitor(self, user_id: UUID, **claims: Any) -> Visitor:
        return Visitor(
            self.session,
            self.base,
            {"__Host-chartloom-session": token(user_id, **claims), "__Host-chartloom-csrf": CSRF},
        )

    def stranger(self) -> Visitor:
        return Visitor(self.session, self.base)


@asynccontextmanager
async def console_app(database: Database, folder: Path, **settings: Any) -> AsyncIterator[ConsoleApp]:
    configured = ConsoleSettings(
        **{
            "database_url": database.url("chartloom_console"),
            "storage_url": folder.as_uri(),
            "supabase_url": AUTH,
            "supabase_anon_key": "anon",
            "supabase_jwt_secret": SECRET,
            "health_host": "127.0.0.1",
            **settings,
        }
    )
    async with await open_pool(configured.database_url.get_secret_value(), size=4, application_name="console") as pool:
        listener = Listener(listen_url=configured.listen_url, pool=pool, topics=["changes"], application_name="console")
        renderer = Renderer()
        storage = LocalStorage(folder)
        feed = Feed(pool=pool, listener=listener, render=renderer.document)
        app = make_application(configured, pool=pool, files=open_files(configured), renderer=renderer, feed=feed)
        server = TestServer(app, handler_cancellation=True)
        await server.start_server()
        tasks = [asyncio.create_task(listener.run()), asyncio.create_task(feed.run())]
        try:
            async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
                yield ConsoleApp(session, str(server.make_url("")).rstrip("/"), feed, storage)
        finally:
            feed.stop()
            await server.close()
            for task in tasks:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
