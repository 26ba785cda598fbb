"""What a service does for a type of job; and an attempt at one, in a worker's hand from its claim to its end."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .contract.base import Row
from .jobs import ClaimedJob, Write

P = TypeVar("P", bound=Row)
R = TypeVar("R")


@dataclass(frozen=True)
class FanOut:
    """What ``store`` returns where the rest of the work is for children: what follows the job waits for all of them."""

    child_type: str
    payloads: Sequence[dict[str, Any]]
    write: Write


@dataclass(frozen=True)
class Handler(Generic[P, R]):
    """What a service does for one type of job.

    ``work`` takes a typed payload to a typed result and writes nothing. ``store`` says how the result is written, which
    the statement that completes the job does by its lease: a holder who lost it writes nothing at all.
    """

    job_type: str
    payload: type[P]
    work: Callable[[ClaimedJob, P], Awaitable[R]]
    store: Callable[[ClaimedJob, R], Write | FanOut] | None = None
    """None: what ``work`` returns is all of it, small enough for the job's own row."""


@dataclass(slots=True, eq=False)
class Attempt:
    """A job in hand. ``task`` while its handler runs."""

    job: ClaimedJob
    began: float
    task: asyncio.Task[None] | None = None
    revoked: str | None = None
    progress: float | None = None
    is_measured: bool = False
    has_place: bool = True
    """Of the worker's concurrency; given up when its work is done, so that the next begins while it is written."""
    is_settling: bool = False
    """The statement that ends it is on its way, and alone can say what became of it."""

    def revoke(self, reason: str) -> None:
        self.revoked = reason
        if self.task is not None:
            self.task.cancel()


current_attempt: ContextVar[Attempt | None] = ContextVar("current_attempt", default=None)


def report_progress(share: float) -> None:
    """For a handler: how much of its work is done, 0 to 1. The next heartbeat writes it into the job's row."""
    attempt = current_attempt.get()
    if attempt is not None:
        attempt.progress = min(max(share, 0.0), 1.0)
