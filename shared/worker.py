"""The claim loop: claims what it has room for, runs each job by its handler, renews leases, drains when told."""

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar
from uuid import UUID

import asyncpg
import structlog
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind
from pydantic import ValidationError

from . import jobs
from .completer import Completer
from .contract.base import Row
from .database import CONNECTION_ERRORS, DATABASE_AWAY, connect, translate
from .errors import (
    BusyError,
    ChartloomError,
    JobCancelledError,
    LeaseLostError,
    TerminalError,
    TransientError,
)
from .jobs import ClaimedJob, Result, Write
from .listener import Listener
from .logs import current_job, describe_error
from .settings import ServiceSettings
from .telemetry import NO_SPAN, is_exporting, mark_failed, message_span, meter, traceparent_of

P = TypeVar("P", bound=Row)
R = TypeVar("R")

SETTLE_RETRY_SECONDS = 0.5
HEARTBEAT_RETRY_SECONDS = 0.5
CLAIM_AT_MOST = 500
LINGER_SECONDS = 0.02
LINGER_SHARE = 0.01
LINGER_AT_MOST_SECONDS = 0.25
"""Of what a job takes, and at most, that one waits for its claim, so that many are claimed at once: a claim costs
Postgres a millisecond, be it for one job or for a hundred. Only where there are so many that others end meanwhile."""
UNWRITTEN_FACTOR = 2
"""Times its concurrency is what a worker has in hand at the most, work that is done and being written included."""
MEAN_WEIGHT = 0.05
LATE_COMMIT_SECONDS = 0.1
POLL_ONLY_SECONDS = 1.0
NOTIFIED_POLL_FACTOR = 4
"""Polls are so much rarer while NOTIFY is proved to work: the sweeper wakes whoever a wake-up missed."""
HAND_BACK_SECONDS = 5.0
DEADLINE_LOOK_SECONDS = 1.0
YIELD_AFTER_SECONDS = 0.01
MEASURE_EVERY_SECONDS = 0.001
"""Times of up to a thousand jobs a second are recorded, of more a sample: a histogram takes 10 µs for each."""
DATABASE_IS_AWAY = BusyError("database_away", "The database went away; the attempt is repeated.", timedelta(seconds=1))
STALLED_SECONDS = 150.0
"""A claim loop that has not come round for so long is dead. A hung statement takes two minutes to time out."""

_queue_wait = meter.create_histogram(
    "chartloom_queue_wait_seconds", unit="s", description="From the moment a job was due to its claim."
)
_work_time = meter.create_histogram(
    "chartloom_work_seconds", unit="s", description="From claim to settled, one attempt."
)
_queue_times = {
    "fast": meter.create_histogram(
        "chartloom_fast_queue_seconds",
        unit="s",
        description="From complete_upload to the completion of the document's last fast job.",
    ),
    "ai": meter.create_histogram(
        "chartloom_ai_queue_seconds",
        unit="s",
        description="From the enqueue of the document's first AI job to persisted.",
    ),
}
"""What the service level objectives are about: a document, not a job."""


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
class _Attempt:
    """A job in hand: from its claim until it is settled. ``task`` while its handler runs."""

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


_current: ContextVar[_Attempt | None] = ContextVar("current_attempt", default=None)


def report_progress(share: float) -> None:
    """For a handler: how much of its work is done, 0 to 1. The next heartbeat writes it into the job's row."""
    attempt = _current.get()
    if attempt is not None:
        attempt.progress = min(max(share, 0.0), 1.0)


class Worker:
    """Runs the jobs of one service until ``stop`` is called. One claimer a process: more only wait for one another."""

    def __init__(
        self,
        *,
        service: str,
        version: str,
        settings: ServiceSettings,
        pool: asyncpg.Pool,
        listener: Listener,
        handlers: Mapping[str, Handler[Any, Any]],
        details: Mapping[str, Any],
        take_turns: bool = False,
    ) -> None:
        self._service = service
        self._version = version
        self._settings = settings
        self._pool = pool
        self._listener = listener
        self._handlers = handlers
        self._claim_order = deque(handlers)
        self._take_turns = take_turns
        self._details = dict(details)
        # By lease token: after a pause this process may claim again the very job that it still works on.
        self._running: dict[UUID, _Attempt] = {}
        self._places_taken = 0
        self._begin: deque[_Attempt] = deque()
        self._runners: set[asyncio.Task[None]] = set()
        self._runner_is_due = False
        self._busy = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = asyncio.Event()
        self._waiting: asyncio.Task[Any] | None = None
        # Kept from claim to claim: behind a thousand jobs that wait for a connection, places would stay empty.
        self._claimer: asyncpg.pool.PoolConnectionProxy | None = None
        self._follow_ups: dict[str, str] = {}
        self._queue_ends: dict[str, str] = {}
        self._completer = Completer(pool, self._completion_ended)
        self._claimed_at = float("-inf")
        self._mean_seconds = 0.0
        self._measured_at = float("-inf")
        self._look_again = False
        self._came_round_at = time.monotonic()
        self._database_ok = False
        self._log = structlog.get_logger()
        # Observed when somebody reads them: an instrument's own add takes longer than a small job.
        self._outcomes: Counter[tuple[str, str]] = Counter()
        meter.create_observable_counter(
            "chartloom_job_attempts",
            callbacks=[self._observe_outcomes],
            description="Attempts that ended, by type and outcome.",
        )
        meter.create_observable_up_down_counter(
            "chartloom_jobs_in_hand",
            callbacks=[self._observe_in_hand],
            description="Jobs that this process is working on.",
        )

    def _observe_outcomes(self, _: CallbackOptions) -> list[Observation]:
        return [
            Observation(count, {"job_type": job_type, "outcome": outcome})
            for (job_type, outcome), count in self._outcomes.items()
        ]

    def _observe_in_hand(self, _: CallbackOptions) -> list[Observation]:
        in_hand = Counter(attempt.job.job_type for attempt in list(self._running.values()))
        return [Observation(in_hand[job_type], {"job_type": job_type}) for job_type in self._handlers]

    # ── health ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def live(self) -> str | None:
        if self._stopping.is_set():
            return None  # a drain has a limit of its own
        return "claim loop stalled" if time.monotonic() - self._came_round_at > STALLED_SECONDS else None

    def ready(self) -> str | None:
        if self._stopping.is_set():
            return "draining"
        return None if self._database_ok else "database away"

    # ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def stop(self) -> None:
        """Claims no more; ``run`` returns when the jobs in hand are finished or handed back."""
        self._stopping.set()
        self._listener.nudge()
        if self._waiting is not None:
            self._waiting.cancel()

    async def run(self) -> None:
        helpers = [
            asyncio.create_task(self._renew_leases(), name="heartbeats"),
            asyncio.create_task(self._watch_deadlines(), name="deadlines"),
            asyncio.create_task(self._completer.run(), name="completer"),
        ]
        try:
            while not self._stopping.is_set():
                self._came_round_at = time.monotonic()
                try:
                    await self._come_round()
                    self._database_ok = True
                except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
                    if self._database_ok or isinstance(error, asyncpg.PostgresError):
                        self._log.warning("claim_failed", **describe_error(error))
                    self._database_ok = False
                    await self._listener.sleep(self._settings.poll_seconds)
            await self._release_claimer()
            await self._drain()
        finally:
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    async def _come_round(self) -> None:
        """One turn: claim; if that came short, linger, open the gate, look again, sleep."""
        if not self._follow_ups:
            await self._read_follow_ups()
        has_company = self._settings.worker_concurrency * LINGER_SHARE >= 1
        pause = min(LINGER_SHARE * self._mean_seconds, LINGER_AT_MOST_SECONDS) if has_company else 0.0
        linger = max(LINGER_SECONDS, pause)
        if self._room() <= 0:
            # A job that ends, ends the sleep.
            await self._listener.sleep(self._settings.poll_seconds)
            if pause and not self._stopping.is_set():
                await self._listener.sleep(pause)
        elif await self._claim():
            return
        elif time.monotonic() - self._claimed_at < linger:
            # Under a steady load a gate that opens and shuts for each job costs more than a look a little later.
            await self._listener.sleep(linger)
        elif not self._stopping.is_set():
            opened = False
            with self._until_stopped():
                opened = await self._listener.open_gate()
            if opened:
                self._look_again = True
            elif not self._stopping.is_set():
                await self._listener.sleep(self._sleep_seconds())

    def _sleep_seconds(self) -> float:
        if self._look_again:
            # Who read "awake" before the gate opened may commit only now: one early look, then it is up to the poll.
            self._look_again = False
            return LATE_COMMIT_SECONDS
        if self._listener.mode == "poll":
            return min(self._settings.poll_seconds, POLL_ONLY_SECONDS)
        return self._settings.poll_seconds * NOTIFIED_POLL_FACTOR

    def _room(self) -> int:
        """Places, but not for ever more work that a slow database has yet to take."""
        places = self._settings.worker_concurrency
        return min(places - self._places_taken, UNWRITTEN_FACTOR * places - len(self._running))

    async def _read_follow_ups(self) -> None:
        with suppress_instrumentation():
            ends = await self._pool.fetch("select * from chartloom.queue_ends($1)", list(self._handlers))
            rows = await self._pool.fetch("select * from chartloom.follow_ups($1)", list(self._handlers))
        self._queue_ends = {row["job_type"]: row["job_category"] for row in ends}
        self._follow_ups = dict.fromkeys(self._handlers, "")
        for row in rows:
            self._follow_ups[row["after_job_type"]] = row["next_job_type"]

    async def _claim(self) -> bool:
        """Claims into the free room and starts the jobs. True if it filled: there may be more."""
        if self._stopping.is_set():
            return False
        room = min(self._room(), CLAIM_AT_MOST)
        claimer = await self._keep_claimer()
        if claimer is None:
            return False
        # A poll is no part of anybody's trace.
        with suppress_instrumentation():
            try:
                claimed = await jobs.claim_jobs(
                    claimer,
                    worker_id=self._settings.worker_id,
                    job_types=list(self._claim_order),
                    limit=room,
                    lease_seconds=self._settings.lease_seconds,
                )
            except BaseException:
                await self._release_claimer()
                raise
        if not claimed:
            return False
        if self._take_turns:
            self._claim_order.rotate(-1)
        self._claimed_at = time.monotonic()
        self._give_up_earlier_attempts({job.job_id for job in claimed})
        self._idle.clear()
        self._busy.set()
        for job in claimed:
            attempt = self._running[job.lease_token] = _Attempt(job, self._claimed_at)
            self._begin.append(attempt)
        self._places_taken += len(claimed)
        self._ensure_runner()
        return len(claimed) == room

    async def _keep_claimer(self) -> asyncpg.pool.PoolConnectionProxy | None:
        """None where a stop came before a connection."""
        try:
            is_usable = self._claimer is not None and not self._claimer.is_closed()
        except asyncpg.InterfaceError:
            is_usable = False  # it was reset, and is the pool's again
        if not is_usable:
            await self._release_claimer()
            with self._until_stopped():
                self._claimer = await self._pool.acquire()
        return self._claimer

    async def _release_claimer(self) -> None:
        claimer, self._claimer = self._claimer, None
        if claimer is not None:
            await self._pool.release(claimer)

    @contextlib.contextmanager
    def _until_stopped(self) -> Iterator[None]:
        """Around what may wait for a connection: jobs that can't be written hold them all, and the drain frees them."""
        task = asyncio.current_task()
        assert task is not None
        self._waiting = task
        try:
            yield
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
            task.uncancel()
        finally:
            self._waiting = None

    def _ensure_runner(self) -> None:
        """Whoever waits to begin does so as soon as every running job waits for something itself."""
        if not self._runner_is_due:
            self._runner_is_due = True
            asyncio.get_running_loop().call_soon(self._start_runner)

    def _start_runner(self) -> None:
        self._runner_is_due = False
        if self._begin:
            task = asyncio.create_task(self._run_jobs())
            # The loop itself holds tasks weakly.
            self._runners.add(task)
            task.add_done_callback(self._runners.discard)

    async def _run_jobs(self) -> None:
        """Begins jobs until none is left: one task for many, as a task each would cost more than a small job itself."""
        began = time.monotonic()
        while self._begin:
            attempt = self._begin.popleft()
            if self._begin:
                self._ensure_runner()
            await self._run(attempt)
            if time.monotonic() - began > YIELD_AFTER_SECONDS:
                await asyncio.sleep(0)
                began = time.monotonic()

    def _give_up_earlier_attempts(self, claimed_again: set[int]) -> None:
        for attempt in self._running.values():
            if attempt.job.job_id in claimed_again:
                attempt.revoke("lost")

    @contextlib.contextmanager
    def _making_room(self) -> Iterator[None]:
        had_none = self._room() <= 0
        yield
        if had_none and self._room() > 0:
            # The sleeping loop has room again, and nobody else would tell it.
            self._listener.nudge()

    def _give_up_place(self, attempt: _Attempt) -> None:
        self._places_taken -= attempt.has_place
        attempt.has_place = False

    def _ended(self, attempt: _Attempt, outcome: str) -> None:
        job = attempt.job
        with self._making_room():
            self._give_up_place(attempt)
            del self._running[job.lease_token]
        if not self._running:
            self._busy.clear()
            self._idle.set()
        seconds = time.monotonic() - attempt.began
        self._mean_seconds += MEAN_WEIGHT * (seconds - self._mean_seconds)
        self._outcomes[job.job_type, outcome] += 1
        if attempt.is_measured:
            _work_time.record(seconds, {"job_type": job.job_type})
        # Of this job, though it may be the completer that tells.
        context = current_job.set(job)
        self._log.info("job_attempt_ended", outcome=outcome, seconds=round(seconds, 3))
        current_job.reset(context)

    # ── leases ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _renew_leases(self) -> None:
        """One statement for all jobs in hand, every third of the lease: two may fail before it expires.

        On a connection of its own, which is dropped when it does not answer: those of the pool may all hang on a line
        that went dead without a word, and would for a minute, the whole lease by default.
        """
        connection: asyncpg.Connection | None = None
        try:
            while True:
                pause = self._settings.lease_seconds / 3
                try:
                    with suppress_instrumentation():
                        async with asyncio.timeout(max(self._settings.lease_seconds / 6, 1.0)):
                            if connection is None or connection.is_closed():
                                connection = await connect(
                                    self._settings.database_url.get_secret_value(),
                                    application_name=f"chartloom {self._service} heartbeat",
                                )
                            await self._beat(connection)
                except (*CONNECTION_ERRORS, TimeoutError, asyncpg.PostgresError) as error:
                    self._log.warning("heartbeat_failed", **describe_error(error))
                    if connection is not None:
                        connection.terminate()
                    pause = HEARTBEAT_RETRY_SECONDS
                await asyncio.sleep(pause)
        finally:
            if connection is not None:
                connection.terminate()

    async def _beat(self, connection: asyncpg.Connection) -> None:
        held = list(self._running.values())
        states = await jobs.heartbeat_jobs(
            connection,
            worker_id=self._settings.worker_id,
            service=self._service,
            version=self._version,
            jobs=[attempt.job for attempt in held],
            lease_seconds=self._settings.lease_seconds,
            details=self._details,
            progress=[attempt.progress for attempt in held],
        )
        for token, state in states.items():
            attempt = self._running.get(token)
            # One that is being settled may have let go of its lease itself: the answer to it is still on its way.
            if state != "held" and attempt is not None and not attempt.is_settling:
                attempt.revoke(state)

    async def _watch_deadlines(self) -> None:
        """Ends what ran too long: one look a second costs less than a timer for each job."""
        while True:
            await self._busy.wait()
            now = time.monotonic()
            for attempt in self._running.values():
                if now > attempt.job.run_deadline and attempt.revoked is None:
                    attempt.revoke("overdue")
            await asyncio.sleep(DEADLINE_LOOK_SECONDS)

    # ── one attempt ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self, attempt: _Attempt) -> None:
        job = attempt.job
        if attempt.revoked:
            self._ended(attempt, attempt.revoked)
            return
        current_job.set(job)
        _current.set(attempt)
        waited = max(job.waited_seconds, 0.0)
        if time.monotonic() - self._measured_at >= MEASURE_EVERY_SECONDS:
            self._measured_at = time.monotonic()
            attempt.is_measured = True
            _queue_wait.record(waited, {"job_type": job.job_type})
        task = asyncio.current_task()
        assert task is not None
        attempt.task = task
        with process_span(job, waited) as span:
            outcome = await self._run_and_settle(attempt, span)
            span.set_attribute("job.outcome", outcome or "completing")
        attempt.task = None
        if task.cancelling():
            task.uncancel()  # it was this job's, and the task goes on to the next
        if outcome:
            self._ended(attempt, outcome)

    async def _run_and_settle(self, attempt: _Attempt, span: Span) -> str | None:
        """The outcome; None where the completer will tell it."""
        job = attempt.job
        try:
            handler = self._handlers[job.job_type]
            result = jobs.NOOP_PAYLOAD if job.is_noop else await self._work(handler, job)
            if job.is_noop or (handler.store is None and not self._follow_ups.get(job.job_type)):
                self._completer.add(job, result)
                with self._making_room():
                    self._give_up_place(attempt)
                return None
            stored = handler.store(job, result) if handler.store else result
            return await self._settle(attempt, lambda: self._complete(job, stored))
        except asyncio.CancelledError:
            return await self._end_cancelled(attempt, span)
        except (BusyError, *DATABASE_AWAY) as error:
            # A database that dies under a handler is no fault of the job's, as little as a killed worker is.
            busy = error if isinstance(error, BusyError) else DATABASE_IS_AWAY
            self._log.info("job_snoozed", code=busy.code, retry_after_s=busy.retry_after.total_seconds())
            return await self._settle(attempt, lambda: self._snooze(job, busy))
        except (LeaseLostError, JobCancelledError) as error:
            mark_failed(span, error.code)
            self._log.warning("job_given_up", code=error.code)
            return error.code
        except Exception as error:
            # Whatever a handler raises ends its attempt, never the worker.
            return await self._end_failed(attempt, error, span)

    @staticmethod
    async def _work(handler: Handler[Any, Any], job: ClaimedJob) -> Any:
        try:
            payload = handler.payload.model_validate(job.payload)
        except ValidationError:
            raise TerminalError("payload_invalid", "The job's payload is not what its type requires.") from None
        try:
            return await handler.work(job, payload)
        except asyncpg.PostgresError as error:
            raise translate(error) from error

    def _completion_ended(self, job: ClaimedJob, outcome: str | asyncpg.PostgresError) -> None:
        attempt = self._running[job.lease_token]
        if isinstance(outcome, str):
            self._ended(attempt, outcome)
        else:
            attempt.task = asyncio.create_task(self._fail_completion(attempt, outcome))

    async def _fail_completion(self, attempt: _Attempt, error: asyncpg.PostgresError) -> None:
        current_job.set(attempt.job)
        self._ended(attempt, await self._end_failed(attempt, error, INVALID_SPAN))

    async def _settle(self, attempt: _Attempt, statement: Callable[[], Awaitable[str]]) -> str:
        """Runs the statement that ends the attempt, again while the database is away: finished work is worth waiting.

        If a commit's answer was lost, the second try finds the lease gone: the job was settled, by this very attempt.
        """
        with self._making_room():
            self._give_up_place(attempt)
        attempt.is_settling, unsure = True, attempt.is_settling
        while True:
            try:
                return await statement()
            except CONNECTION_ERRORS as error:
                if self._pool.is_closing() or time.monotonic() > attempt.job.run_deadline:
                    # Nobody is left to write it, or nobody waits for it: the sweeper gives the job to the next.
                    self._log.warning("job_given_up", code="unsettled")
                    return "unsettled"
                unsure = True
                self._log.warning("settle_failed", **describe_error(error))
                await asyncio.sleep(SETTLE_RETRY_SECONDS)
            except (LeaseLostError, JobCancelledError) as error:
                code = "settled_or_lost" if unsure else error.code
                self._log.warning("job_given_up", code=code)
                return code

    async def _complete(self, job: ClaimedJob, stored: Result | FanOut) -> str:
        with message_span("settle", job.job_type, SpanKind.CLIENT, **_ids(job)):
            if isinstance(stored, FanOut):
                with message_span("send", stored.child_type, SpanKind.PRODUCER, **_ids(job)) as send:
                    sent = await jobs.fan_out_job(
                        self._pool,
                        job,
                        child_type=stored.child_type,
                        payloads=stored.payloads,
                        result=stored.write,
                        traceparent=traceparent_of(send),
                    )
                    send.set_attribute("messaging.batch.message_count", len(sent))
                return "completed"
            follow_up = self._follow_ups.get(job.job_type)
            if not follow_up:
                await self._complete_and_measure(job, stored, None)
                return "completed"
            with message_span("send", follow_up, SpanKind.PRODUCER, **_ids(job)) as send:
                following = await self._complete_and_measure(job, stored, traceparent_of(send))
                send.set_attribute("messaging.message.id", ",".join(map(str, following)))
        return "completed"

    async def _complete_and_measure(self, job: ClaimedJob, result: Result, traceparent: str | None) -> list[int]:
        """The jobs that follow. Records how long the document was in the queue that the job ended, if it ended one."""
        queue = self._queue_ends.get(job.job_type)
        completed = await jobs.complete_job(
            self._pool, job, result=result, traceparent=traceparent, is_measured=queue is not None
        )
        if queue is not None and completed.queue_seconds is not None:
            _queue_times[queue].record(completed.queue_seconds)
        return completed.following

    async def _fail(self, job: ClaimedJob, failure: ChartloomError) -> str:
        with message_span("settle", job.job_type, SpanKind.CLIENT, **_ids(job)):
            async with self._pool.acquire() as connection:
                return await jobs.fail_job(
                    connection,
                    job,
                    code=failure.code,
                    message=failure.message,
                    is_transient=isinstance(failure, TransientError),
                )

    async def _snooze(self, job: ClaimedJob, busy: BusyError) -> str:
        async with self._pool.acquire() as connection:
            await jobs.release_job(connection, job, delay=busy.retry_after, code=busy.code, message=busy.message)
        return "snoozed"

    async def _release(self, job: ClaimedJob) -> str:
        async with self._pool.acquire() as connection:
            await jobs.release_job(connection, job)
        return "released"

    async def _end_failed(self, attempt: _Attempt, error: Exception, span: Span) -> str:
        failure = _as_failure(error)
        mark_failed(span, failure.code)
        self._log.warning("job_attempt_failed", code=failure.code, **describe_error(error))
        return await self._settle(attempt, lambda: self._fail(attempt.job, failure))

    async def _end_cancelled(self, attempt: _Attempt, span: Span) -> str:
        """The worker itself cancelled the attempt: its lease is gone, it is overdue, or the process must end."""
        job, reason = attempt.job, attempt.revoked or "draining"
        attempt.revoked = reason
        self._log.warning("job_given_up", code=reason)
        if reason == "draining":
            return await self._settle(attempt, lambda: self._release(job))
        mark_failed(span, reason)
        if reason == "overdue":
            overdue = TransientError("run_time_exceeded", "The attempt ran longer than its job type allows.")
            return await self._settle(attempt, lambda: self._fail(job, overdue))
        return reason

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _drain(self) -> None:
        """Lets the jobs in hand finish within the window, then hands back the rest without spending an attempt."""
        self._log.info("draining", count=len(self._running))
        for window in (self._settings.drain_seconds, HAND_BACK_SECONDS):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(window):
                    await self._idle.wait()
            for attempt in self._running.values():
                if attempt.task is not None:
                    attempt.task.cancel()


def process_span(job: ClaimedJob, waited: float) -> AbstractContextManager[Span]:
    """The consumer's span, in the trace that the row carries."""
    if not is_exporting():
        return NO_SPAN
    return message_span(
        "process",
        job.job_type,
        SpanKind.CONSUMER,
        parent=job.traceparent,
        **{
            "messaging.message.id": str(job.job_id),
            "job.attempt": job.attempt,
            "job.queue_wait_s": round(waited, 3),
            **_ids(job),
        },
    )


def _ids(job: ClaimedJob) -> dict[str, Any]:
    """By which a span is found: ``{ span.document.id = "…" }``."""
    return {"job.id": str(job.job_id), "document.id": job.shell_file_id}


def _as_failure(error: Exception) -> ChartloomError:
    """What the row says: a code and advice. The text of a foreign exception may quote a record, so it stays out."""
    if isinstance(error, ChartloomError):
        return error
    if isinstance(error, CONNECTION_ERRORS):
        return TransientError("connection_failed", "A connection failed; the attempt is repeated.")
    if isinstance(error, asyncpg.PostgresError):
        return TransientError(
            "database_refused", f"The database refused a statement (SQLSTATE {error.sqlstate}); see the worker's log."
        )
    return TransientError(
        "unexpected_error", f"{type(error).__name__}: a fault in Chartloom; see the worker's log by the job's id."
    )
