"""A whole Chartloom from an empty database, its console, a second one with Supabase's sign-in, and a real Chromium."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

import asyncpg
import jwt
import pytest
from aiohttp import web

from cli.deployment import open_deployment
from cli.embedded_postgres import EmbeddedPostgres
from tests.conftest import REPOSITORY
from tests.console_app import SECRET

try:
    from playwright import sync_api
except ImportError:
    # make test-console installs it; the other targets pass over these.
    collect_ignore = ["test_browser.py"]

T = TypeVar("T")

OUT = Path(__file__).parent / "out"
AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
DESKTOP, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
START_SECONDS, SETTLE_MS = 240, 60_000
"""For what a loaded machine takes; every wait ends with what it waits for."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.console)
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Looked for before anything is started: where there is none, nothing is."""
    named = os.environ.get("CHROMIUM")
    found = named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium: apt install chromium, or name one in CHROMIUM")
    return found


class Background:
    """An event loop of its own: Playwright's is in the way of any other in the test's thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(timeout=120)


@dataclass(frozen=True)
class Stack:
    """What runs. ``address`` signs in the local user; ``public`` is the console where Supabase's users do."""

    address: str
    public: str
    owner_url: str
    background: Background

    @property
    def base(self) -> str:
        parts = urlsplit(self.address)
        return f"{parts.scheme}://{parts.netloc}"

    def query(self, statement: str, *arguments: Any) -> list[dict[str, Any]]:
        """As the database's owner."""

        async def fetch() -> list[dict[str, Any]]:
            connection = await asyncpg.connect(self.owner_url)
            try:
                await connection.set_type_codec(
                    "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog", format="text"
                )
                return [dict(row) for row in await connection.fetch(statement, *arguments)]
            finally:
                await connection.close()

        return self.background.run(fetch())


@contextmanager
def process(*arguments: str, until: str, **variables: str) -> Iterator[re.Match[str]]:
    """A program that has said so. Ended in order, and by its own id."""
    running = subprocess.Popen(
        [sys.executable, *arguments], cwd=REPOSITORY, env={**os.environ, **variables}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    said: list[str] = []
    found: Future[re.Match[str]] = Future()

    def read() -> None:
        assert running.stdout is not None
        for line in running.stdout:
            said.append(line)
            if not found.done() and (match := re.search(until, line)):
                found.set_result(match)
        if not found.done():
            found.set_exception(AssertionError("".join(said[-30:])))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield found.result(timeout=START_SECONDS)
    finally:
        running.send_signal(signal.SIGTERM)
        try:
            running.wait(timeout=60)
        except subprocess.TimeoutExpired:
            running.kill()


def user_id(email: str) -> UUID:
    return uuid5(NAMESPACE_URL, email)


@contextmanager
def auth_server(background: Background) -> Iterator[str]:
    """Speaks Supabase Auth's wire; whoever gives the password ``right`` is who they say."""

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        if body.get("password") != "right":
            return web.json_response({"code": "invalid_credentials"}, status=400)
        claims = {
            "sub": str(user_id(body["email"])), "role": "authenticated", "aud": "authenticated",
            "iss": f"{address}/auth/v1", "exp": int(time.time()) + 3600,
        }  # fmt: skip
        signed = jwt.encode(claims, SECRET, algorithm="HS256")
        return web.json_response({"access_token": signed, "refresh_token": "r", "expires_in": 3600})

    async def start() -> tuple[web.AppRunner, str]:
        app = web.Application()
        app.router.add_post("/auth/v1/token", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"

    runner, address = background.run(start())
    try:
        yield address
    finally:
        background.run(runner.cleanup())


@pytest.fixture(scope="session")
def stack(chromium_path: str) -> Iterator[Stack]:
    background = Background()
    with tempfile.TemporaryDirectory(prefix="chartloom-console-") as home, pytest.MonkeyPatch.context() as environment:
        for variable in ("DATABASE_URL", "STORAGE_URL", "SUPABASE_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"):
            environment.delenv(variable, raising=False)
        environment.setenv("CHARTLOOM_HOME", home)
        environment.setenv("CONSOLE_PORT", "0")

        async def urls() -> tuple[str, str, str]:
            async with open_deployment() as deployment:
                return deployment.owner_url, deployment.service_urls["console"], deployment.storage_url

        try:
            with (
                process("-m", "cli.main", "up", until=r"The console: (\S+)") as up,
                auth_server(background) as auth,
            ):
                owner_url, console_url, storage_url = background.run(urls())
                settings = {
                    "DATABASE_URL": console_url, "STORAGE_URL": storage_url, "SUPABASE_URL": auth,
                    "SUPABASE_ANON_KEY": "anon", "SUPABASE_JWT_SECRET": SECRET, "HEALTH_HOST": "127.0.0.1",
                    "PORT": "0", "HEALTH_PORT": "0",
                }  # fmt: skip
                with process("-m", "services.console", until=r'"port": (\d+), "event": "pages"', **settings) as pages:
                    public = f"http://127.0.0.1:{pages[1]}"
                    yield Stack(up[1], public, owner_url, background)
        finally:
            EmbeddedPostgres(Path(home)).remove()


@pytest.fixture(scope="session")
def chromium(chromium_path: str) -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path,
            args=[
                "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                "--disable-component-update", "--disable-sync",
            ],
        )  # fmt: skip
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def local_user(stack: Stack, chromium: Any) -> Iterator[Any]:
    """The page of whoever opened the printed address; signed in, on a desktop."""
    context = chromium.new_context(viewport=DESKTOP, base_url=stack.base)
    context.set_default_timeout(SETTLE_MS)
    page = context.new_page()
    page.goto(stack.address)
    yield page
    context.close()


@pytest.fixture
def sign_in(stack: Stack, chromium: Any) -> Iterator[Callable[[str], Any]]:
    """A page of a Supabase user's own browser."""
    contexts = []

    def open_page(email: str) -> Any:
        context = chromium.new_context(viewport=DESKTOP, base_url=stack.public)
        context.set_default_timeout(SETTLE_MS)
        contexts.append(context)
        page = context.new_page()
        page.goto("/")
        page.get_by_label("E-mail address").fill(email)
        page.get_by_label("Password").fill("right")
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{stack.public}/")
        return page

    yield open_page
    for context in contexts:
        context.close()
