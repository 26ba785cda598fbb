"""Keeping pages as they are read: image into storage, row into Postgres, while the next page is being read."""

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Any, Self

import asyncpg
import structlog

from shared.database import CONNECTION_ERRORS, Connection, translate
from shared.errors import ChartloomError, TerminalError
from shared.jobs import ClaimedJob
from shared.logs import describe_error
from shared.storage import Storage, once
from shared.telemetry import meter

from .open_documents import Upload
from .page_protocol import PageRead

SAVE_SECONDS = 1.0
"""A page of a scan is kept as soon as it is read; of digital ones hundreds at a time."""
RETRY_SECONDS = 0.5
IMAGE_PATIENCE_SECONDS = 60.0
"""That an attempt waits for a storage that takes nothing, a full disk say. From then on its pages go without, until one
is taken again."""

_images_lost = meter.create_counter(
    "chartloom_ocr_images_lost", description="Page images that storage did not take: their pages have none."
)


class PageKeeper:
    """Takes the pages of one attempt. Those of the last second are left for the statement that completes the job."""

    def __init__(self, pool: asyncpg.Pool, storage: Storage, job: ClaimedJob, upload: Upload) -> None:
        self._pool = pool
        self._storage = storage
        self._job = job
        self._folder = f"{upload.storage_path.split('/')[0]}/pages/{job.payload['run_id']}"
        self._waiting: list[PageRead] = []
        self._saving: asyncio.Task[None] | None = None
        self._saved_at = time.monotonic()
        self._refused_since: float | None = None
        self._log = structlog.get_logger()
        _images_lost.add(0)  # a counter that was never told is not there, and an alert on it mute

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A page that could not be read takes none of those before it along. Cancelled, it waits for nothing."""
        if error is None:
            return
        if not isinstance(error, Exception):
            if self._saving is not None:
                self._saving.cancel()
            return
        # What was raised first is what the attempt ends with.
        with contextlib.suppress(Exception):
            rest = await self.rest()
            if rest:
                await save_pages(self._pool, self._job, rest)

    async def add(self, read: PageRead, *, is_last: bool) -> None:
        """Raises LeaseLostError, JobCancelledError, where an earlier page could not be kept for that."""
        self._waiting.append(read)
        if is_last or time.monotonic() - self._saved_at < SAVE_SECONDS:
            return
        await self._settle()
        batch, self._waiting = self._waiting, []
        self._saving = asyncio.create_task(self._save(batch))
        self._saved_at = time.monotonic()

    async def rest(self) -> list[dict[str, Any]]:
        """The pages that are not kept yet, as ``save_pages`` takes them; all others are."""
        await self._settle()
        batch, self._waiting = self._waiting, []
        return await self._with_images(batch)

    async def _settle(self) -> None:
        saving, self._saving = self._saving, None
        if saving is not None:
            await saving

    async def _save(self, batch: list[PageRead]) -> None:
        """Again while the database is away: a finished page is worth waiting for."""
        pages = await self._with_images(batch)
        while True:
            try:
                return await save_pages(self._pool, self._job, pages)
            except CONNECTION_ERRORS as error:
                if self._pool.is_closing() or time.monotonic() > self._job.run_deadline:
                    raise
                self._log.warning("save_failed", **describe_error(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def _with_images(self, batch: list[PageRead]) -> list[dict[str, Any]]:
        paths = await asyncio.gather(*(self._put_image(read) for read in batch))
        return [
            {**read.page.model_dump(mode="json"), "image_path": path} for read, path in zip(batch, paths, strict=True)
        ]

    async def _put_image(self, read: PageRead) -> str | None:
        """The image's path. The page is worth more than its image: without it, it is kept all the same."""
        if not read.image:
            return None
        path = f"{self._folder}/{read.page.page}.jpg"
        while True:
            try:
                await self._storage.put(path, once(read.image))
            except (ChartloomError, OSError) as error:
                if isinstance(error, TerminalError) or self._has_waited_enough():
                    self._log.warning("image_lost", **describe_error(error))
                    _images_lost.add(1)
                    return None
                self._log.warning("image_refused", **describe_error(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self._refused_since = None
                return path

    def _has_waited_enough(self) -> bool:
        now = time.monotonic()
        if self._refused_since is None:
            self._refused_since = now
        return now - self._refused_since > IMAGE_PATIENCE_SECONDS or now > self._job.run_deadline


async def save_pages(connection: Connection, job: ClaimedJob, pages: list[dict[str, Any]]) -> None:
    """Raises LeaseLostError, JobCancelledError."""
    try:
        await connection.execute("select chartloom.save_ocr_pages($1, $2, $3)", job.job_id, job.lease_token, pages)
    except asyncpg.PostgresError as error:
        raise translate(error) from error
