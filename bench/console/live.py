"""From the commit of a change to the screen, with 200 users on the event stream, each with a document under way.

Documents of users chosen at random, and of the browser's user every other time, go through the pipeline a step at a
time; no service but the console runs. On the screen is what the browser has drawn: the clock is read in the frame after
the row was replaced.
"""

import asyncio
import hashlib
import json
import os
import random
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import jwt
from playwright.async_api import Page, async_playwright

from bench.queue.ground import Ground
from bench.report import Measurement, measured
from cli.deployment import DATABASE

CLIENTS = 200
DOCUMENTS = 60
STEPS = ("ocr", "ai_detect", "ai_enrich", "ai_narrate", "persist")
BETWEEN_SECONDS = 0.1
"""From one step to the next: ten changes a second."""
SETTLE_SECONDS = 3.0
AUTH = "http://auth.example"
SECRET = "a-secret-of-at-least-thirty-two-bytes"
CHECKOUT = Path(__file__).parents[2]
WATCH = """
window.seen = [];
new MutationObserver(() => requestAnimationFrame(() => setTimeout(() => {
    for (const row of document.querySelectorAll(".document"))
        window.seen.push([row.id.slice(9), row.dataset.status, row.querySelectorAll(".stage.good").length, Date.now()]);
}))).observe(document.getElementById("documents"), {childList: true});
"""


@dataclass(frozen=True)
class Watcher:
    user_id: UUID
    profile_id: UUID

    @property
    def cookie(self) -> str:
        claims = {
            "sub": str(self.user_id), "role": "authenticated", "aud": "authenticated", "iss": f"{AUTH}/auth/v1",
            "exp": int(time.time()) + 3600,
        }  # fmt: skip
        return jwt.encode(claims, SECRET, algorithm="HS256")


State = tuple[str, str, int]
"""A document's id, its status, and how many of its steps are done."""


@dataclass
class Times:
    """When a state was committed, and when it was there; in seconds of the clock that the browser has, too."""

    committed: dict[State, float] = field(default_factory=dict)
    heard: dict[State, float] = field(default_factory=dict)
    drawn: dict[State, float] = field(default_factory=dict)

    def p95_ms(self, there: dict[State, float]) -> float:
        waits = [there[state] - self.committed[state] for state in there.keys() & self.committed.keys()]
        return 1000 * quantiles(waits, n=20)[-1]


async def measure(ground: Ground) -> list[Measurement]:
    runs = [await watch(ground) for _ in ground.rounds("live")]
    name = f"{CLIENTS} pages that watch"
    return [
        measured(f"{name}: commit to screen p95", [run["screen"] for run in runs], "ms", at_most=300),
        measured(f"{name}: commit to client p95", [run["client"] for run in runs], "ms"),
        measured(f"{name}: changes that a screen missed", [run["missed"] for run in runs], "changes", at_most=0),
        measured(f"{name}: the console's memory", [run["memory"] for run in runs], "MB", at_most=150),
        measured(f"{name}: the console's CPU", [run["cpu"] for run in runs], "% of a core", at_most=50),
    ]


async def watch(ground: Ground) -> dict[str, float]:
    watchers = [Watcher(uuid4(), uuid4()) for _ in range(CLIENTS)]
    times = Times()
    async with ground.owner() as owner:
        await owner.executemany(
            "insert into user_profiles (id, owner_user_id) values ($1, $2)",
            [(watcher.profile_id, watcher.user_id) for watcher in watchers],
        )
        for watcher in watchers:
            await create(owner, watcher)
        async with console(ground) as (pid, base), browser(base, watchers[0]) as page:
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
                listening = [asyncio.create_task(listen(session, base, one, times)) for one in watchers[1:]]
                await asyncio.sleep(SETTLE_SECONDS)
                ground.progress(f"  {CLIENTS} are there")
                began, spent = time.monotonic(), cpu_seconds(pid)
                for number in range(DOCUMENTS):
                    await go_through(owner, watchers[0] if number % 2 == 0 else random.choice(watchers[1:]), times)
                await asyncio.sleep(SETTLE_SECONDS)
                cpu = 100 * (cpu_seconds(pid) - spent) / (time.monotonic() - began)
                memory = resident_megabytes(pid)
                for task in listening:
                    task.cancel()
                await asyncio.gather(*listening, return_exceptions=True)
            for document, status, done, at in await page.evaluate("window.seen"):
                times.drawn.setdefault((document, status, done), at / 1000)
    drawn = {document for document, _, _ in times.drawn}
    final = {state for state in times.committed if state[0] in drawn and state[1] == "completed"}
    return {
        "screen": times.p95_ms(times.drawn),
        "client": times.p95_ms(times.heard),
        "missed": len(final - times.drawn.keys()),
        "memory": memory,
        "cpu": cpu,
    }


async def create(owner: asyncpg.Connection, watcher: Watcher) -> UUID:
    """As the user: a document that has a row and no file yet."""
    async with owner.transaction():
        await owner.execute(
            "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', $1, true)",
            json.dumps({"sub": str(watcher.user_id), "role": "authenticated"}),
        )
        sha256 = hashlib.sha256(os.urandom(16)).hexdigest()
        answer = await owner.fetchval("select create_upload($1, 'letter.txt', $2, 100)", watcher.profile_id, sha256)
    return UUID((json.loads(answer) if isinstance(answer, str) else answer)["shell_file_id"])


async def go_through(owner: asyncpg.Connection, watcher: Watcher, times: Times) -> None:
    document = await create(owner, watcher)
    async with owner.transaction():
        await owner.execute(
            "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', $1, true)",
            json.dumps({"sub": str(watcher.user_id), "role": "authenticated"}),
        )
        await owner.execute("select complete_upload($1)", document)
    for done, step in enumerate(STEPS, 1):
        await asyncio.sleep(BETWEEN_SECONDS / 2)
        (job,) = await owner.fetch("select * from chartloom.claim_jobs('bench', array[$1], 1)", step)
        await asyncio.sleep(BETWEEN_SECONDS / 2)
        # Before the statement: its own time is part of what a user waits.
        status = "completed" if step == STEPS[-1] else "processing"
        times.committed[str(document), status, 0 if status == "completed" else done] = time.time()
        await owner.execute("select chartloom.complete_job($1, $2)", job["job_id"], job["lease_token"])


async def listen(session: aiohttp.ClientSession, base: str, watcher: Watcher, times: Times) -> None:
    async with session.get(
        f"{base}/records/{watcher.profile_id}/events",
        headers={"Cookie": f"__Host-chartloom-session={watcher.cookie}"},
        timeout=aiohttp.ClientTimeout(total=None),
    ) as response:
        document, status, done = "", "", 0
        async for line in response.content:
            text = line.decode()
            if text.startswith('data: <li class="document"'):
                document, status, done = text.split('"')[3].removeprefix("document-"), text.split('"')[5], 0
            elif "stage good" in text:
                done += 1
            elif not text.strip() and document:
                times.heard.setdefault((document, status, done), time.time())
                document = ""


@asynccontextmanager
async def console(ground: Ground) -> AsyncIterator[tuple[int, str]]:
    """The service as a process; its pid and its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.console",
        cwd=CHECKOUT,
        env={
            **os.environ,
            "DATABASE_URL": ground.service_url_of("console", DATABASE),
            "STORAGE_URL": ground.storage_url,
            "SUPABASE_URL": AUTH,
            "SUPABASE_ANON_KEY": "anon",
            "SUPABASE_JWT_SECRET": SECRET,
            "HEALTH_HOST": "127.0.0.1",
            "HEALTH_PORT": "0",
            "PORT": "0",
        },
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async for line in process.stdout:
            said: dict[str, Any] = json.loads(line)
            if said["event"] == "pages":
                break
        yield process.pid, f"http://127.0.0.1:{said['port']}"
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def browser(base: str, watcher: Watcher) -> AsyncIterator[Page]:
    """A real one, with the user's list of documents open."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        context = await running.new_context()
        await context.add_cookies(
            [
                {
                    "name": "__Host-chartloom-session",
                    "value": watcher.cookie,
                    # For HTTPS alone; Chromium sends it to this machine all the same.
                    "url": base.replace("http:", "https:"),
                    "secure": True,
                    "httpOnly": True,
                }
            ]
        )
        page = await context.new_page()
        await page.goto(f"{base}/records/{watcher.profile_id}/documents")
        await page.evaluate(WATCH)
        yield page
        await running.close()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_megabytes(pid: int) -> float:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1000
