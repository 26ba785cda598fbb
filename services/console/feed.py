"""What moves, told to every open page of whoever may see it.

One LISTEN for the process. A wake-up says only that something changed: one statement asks which of the watched
documents did, and each user who watches one of these reads it with their own rights (row-level security). Clients wait
for their user's feed, so that a slow one holds up nobody and gets the latest state, not each step on the way.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
import structlog
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.metrics import CallbackOptions, Observation

from shared.auth import User, as_user
from shared.database import CONNECTION_ERRORS
from shared.listener import Listener
from shared.logs import describe_error
from shared.telemetry import meter

from .documents import FINAL, Document, read_documents

SHORTEST_SLEEP_SECONDS = 0.03
"""Between two looks: under load the console looks thirty times a second at most."""
QUICK_SLEEP_SECONDS = 0.1
"""After a change: nobody announces that a job is claimed, and it mostly is at once."""
UNDER_WAY_SECONDS = 1.0
"""While a watched document is under way: how far a job has come is announced by nobody either."""
IDLE_SECONDS = 10.0
READ_ANEW_SECONDS = 30.0
"""What no mark tells: access that was granted or revoked, reviews."""
FORGET_SECONDS = 60.0
READERS = 3
STALLED_SECONDS = 150.0


@dataclass
class Entry:
    """A document as the pages show it. ``html`` is empty where it is gone."""

    version: int
    patient_id: UUID
    is_under_way: bool
    html: str


@dataclass
class UserFeed:
    """All that one user watches. ``version`` grows with each change; a client remembers which one it has seen."""

    user: User
    epoch: str = field(default_factory=lambda: secrets.token_hex(4))
    version: int = 0
    entries: dict[UUID, Entry] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    clients: int = 0
    left_at: float = 0.0
    read_at: float = float("-inf")
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def position(self) -> str:
        return f"{self.epoch}-{self.version}"

    def seen(self, position: str) -> int:
        """The version of a position of this feed; 0, which is before everything, of any other's."""
        epoch, _, version = position.partition("-")
        return int(version) if epoch == self.epoch and version.isdecimal() else 0

    def put(self, document_id: UUID, patient_id: UUID, html: str, *, is_under_way: bool) -> None:
        known = self.entries.get(document_id)
        if known is not None and known.html == html:
            return
        self.version += 1
        self.entries[document_id] = Entry(self.version, patient_id, is_under_way, html)

    def tell(self) -> None:
        told, self.changed = self.changed, asyncio.Event()
        told.set()


@dataclass(frozen=True)
class Update:
    """What a client has not seen yet, and the position that it has when it has."""

    position: str
    fragments: list[tuple[UUID, str]]


class Feed:
    """The one watcher of the process. ``run`` until ``stop``."""

    def __init__(self, *, pool: asyncpg.Pool, listener: Listener, render: Callable[[Document], str]) -> None:
        self._pool = pool
        self._listener = listener
        self._render = render
        self._feeds: dict[UUID, UserFeed] = {}
        self._marks: dict[UUID, str] = {}
        self._readers = asyncio.Semaphore(READERS)
        self._stopping = False
        self._database_ok = False
        self._came_round_at = time.monotonic()
        self._log = structlog.get_logger()
        meter.create_observable_gauge(
            "chartloom_console_clients", callbacks=[self._observe_clients], description="Pages that watch live."
        )

    # -- clients ---------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def open(self, user: User) -> AsyncIterator[UserFeed]:
        """The user's feed, read once. It lives on for a while when its last client has gone."""
        feed = self._feeds.setdefault(user.user_id, UserFeed(user))
        feed.user = user
        feed.clients += 1
        try:
            async with feed.reading:
                is_new = feed.version == 0 and feed.read_at == float("-inf")
            if is_new:
                await self._read(feed, None)
                self._listener.nudge()
            yield feed
        finally:
            feed.clients -= 1
            feed.left_at = time.monotonic()

    async def updates(
        self, feed: UserFeed, patient_id: UUID, since: str, *, beat_seconds: float
    ) -> AsyncIterator[Update]:
        """Whatever of a patient's documents is newer than ``since``, for ever; an empty update is a sign of life."""
        seen = feed.seen(since)
        while not self._stopping:
            changed = feed.changed
            fragments = [
                (document_id, entry.html)
                for document_id, entry in feed.entries.items()
                if entry.version > seen and entry.patient_id == patient_id
            ]
            seen = feed.version
            if fragments:
                yield Update(feed.position, fragments)
            try:
                async with asyncio.timeout(beat_seconds):
                    await changed.wait()
            except TimeoutError:
                yield Update(feed.position, [])

    def touch(self, user: User) -> None:
        """The user did something: their documents are read anew, at once."""
        feed = self._feeds.get(user.user_id)
        if feed is not None:
            feed.read_at = float("-inf")
        self._listener.nudge()

    # -- watching --------------------------------------------------------------------------------------------------

    def live(self) -> str | None:
        if self._stopping:
            return None
        return "feed stalled" if time.monotonic() - self._came_round_at > STALLED_SECONDS else None

    def ready(self) -> str | None:
        if self._stopping:
            return "draining"
        return None if self._database_ok else "database away"

    def stop(self) -> None:
        self._stopping = True
        self._listener.nudge()
        for feed in self._feeds.values():
            feed.tell()

    async def run(self) -> None:
        delay = QUICK_SLEEP_SECONDS
        while not self._stopping:
            self._came_round_at = time.monotonic()
            try:
                with suppress_instrumentation():
                    has_moved = await self._look()
                    if await self._listener.open_gate():
                        has_moved = await self._look() or has_moved
                self._database_ok = True
            except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
                if self._database_ok or isinstance(error, asyncpg.PostgresError):
                    self._log.warning("look_failed", **describe_error(error))
                self._database_ok = False
                # What had moved may not have been read.
                self._marks.clear()
                await self._listener.sleep(1.0)
                continue
            delay = QUICK_SLEEP_SECONDS if has_moved else min(delay * 2, UNDER_WAY_SECONDS)
            await self._sleep(delay if self._watched() else IDLE_SECONDS)

    async def _sleep(self, seconds: float) -> None:
        if self._stopping:
            return
        woken = await self._listener.sleep(seconds, exactly=True)
        if woken and time.monotonic() - self._came_round_at < SHORTEST_SLEEP_SECONDS:
            await asyncio.sleep(SHORTEST_SLEEP_SECONDS)

    def _watched(self) -> set[UUID]:
        return {
            document_id
            for feed in self._feeds.values()
            for document_id, entry in feed.entries.items()
            if entry.is_under_way
        }

    async def _look(self) -> bool:
        """Whether anything moved."""
        now = time.monotonic()
        for user_id, feed in list(self._feeds.items()):
            if not feed.clients and now - feed.left_at > FORGET_SECONDS:
                del self._feeds[user_id]
        moved = await self._moved()
        work = []
        for feed in self._feeds.values():
            if feed.user.user_id in moved or now - feed.read_at > READ_ANEW_SECONDS:
                work.append(self._read(feed, None))
            elif own := moved & feed.entries.keys():
                work.append(self._read(feed, own))
        versions = sum(feed.version for feed in self._feeds.values())
        await asyncio.gather(*work)
        return sum(feed.version for feed in self._feeds.values()) != versions

    async def _moved(self) -> set[UUID]:
        """The watched documents that have moved, and the users who have a new one."""
        if not self._feeds:
            return set()
        rows = await self._pool.fetch(
            "select * from chartloom.watched_marks($1, $2)", list(self._feeds), list(self._watched())
        )
        marks: dict[UUID, str] = {row["id"]: row["mark"] for row in rows}
        moved = {key for key in marks.keys() | self._marks.keys() if marks.get(key) != self._marks.get(key)}
        self._marks = marks
        return moved

    async def _read(self, feed: UserFeed, ids: Iterable[UUID] | None) -> None:
        async with self._readers, feed.reading:
            wanted = None if ids is None else list(ids)
            if wanted is None:
                feed.read_at = time.monotonic()
            async with as_user(self._pool, feed.user) as connection:
                documents = await read_documents(connection, ids=wanted)
            there = {document["id"] for document in documents}
            for document in reversed(documents):
                feed.put(
                    document["id"],
                    document["patient_id"],
                    self._render(document),
                    is_under_way=document["status"] not in FINAL,
                )
            for document_id in wanted if wanted is not None else list(feed.entries):
                entry = feed.entries.get(document_id)
                if entry is not None and document_id not in there:
                    # Erased, or no longer theirs to see; or, of a whole reading, one that is too old to be shown.
                    feed.put(document_id, entry.patient_id, "", is_under_way=False)
            feed.tell()

    def _observe_clients(self, _: CallbackOptions) -> list[Observation]:
        return [Observation(sum(feed.clients for feed in self._feeds.values()))]
