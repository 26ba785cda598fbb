"""The claim loop: claims what it has room for, runs each job by its handler, drains when told."""

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind
from pydantic import ValidationError

from . import jobs
from .completer import Completer
from .database import CONNECTION_ERRORS, DATABASE_AWAY, translate
from .errors import BusyError, JobCancelledError, LeaseLostError, TerminalError, TransientError
from .handler import Attempt, Handler, current_attempt
from .jobs import ClaimedJob
from .leases import Leases
from .listener import Listener
from .logs import current_job, describe_error
from .settings import ServiceSettings
from .settling import DATABASE_IS_AWAY, Settler, as_failure, ids_of
from .telemetry import NO_SPAN, is_exporting, mark_failed, message_span, meter

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
YIELD_AFTER_SECONDS = 0.01
MEASURE_EVERY_SECONDS = 0.001
"""Times of up to a thousand jobs a second are recorded, of more a sample: a histogram takes 10 µs for each."""
STALLED_SECONDS = 150.0
"""A claim loop that has not come round for so long is dead. A hung statement takes two minutes to time out."""

_queue_wait = meter.create_histogram(
    "chartloom_queue_wait_seconds", unit="s", description="From the moment a job was due to its claim."
)
_work_time = meter.create_histogram(
    "chartloom_work_seconds", unit="s", description="From claim to settled, one attempt."
)


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
        self._settings = settings
        self._pool = pool
        self._listener = listener
        self._handlers = handlers
        self._claim_order = deque(handlers)
        self._take_turns = take_turns
        # By lease token: after a pause this process may claim again the very job that it still works on.
        self._running: dict[UUID, Attempt] = {}
        self._places_taken = 0
        self._begin: deque[Attempt] = deque()
        self._runners: set[asyncio.Task[None]] = set()
        self._runner_is_due = False
        self._busy = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = asyncio.Event()
        self._waiting: asyncio.Task[Any] | None = None
        # Kept from claim to claim: behind a thousand jobs that wait for a connection, places would stay empty.
        self._claimer: asyncpg.pool.PoolConnectionProxy | None = None
        self._leases = Leases(
            service=service, version=version, settings=settings, details=details, running=self._running, busy=self._busy
        )
        self._settler = Settler(pool)
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
            asyncio.create_task(self._leases.renew(), name="heartbeats"),
            asyncio.create_task(self._leases.watch_deadlines(), name="deadlines"),
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
        await self._settler.learn(list(self._handlers))
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
            attempt = self._running[job.lease_token] = Attempt(job, self._claimed_at)
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

    def _give_up_place(self, attempt: Attempt) -> None:
        self._places_taken -= attempt.has_place
        attempt.has_place = False

    def _ended(self, attempt: Attempt, outcome: str) -> None:
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

    # ── one attempt ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self, attempt: Attempt) -> None:
        job = attempt.job
        if attempt.revoked:
            self._ended(attempt, attempt.revoked)
            return
        current_job.set(job)
        current_attempt.set(attempt)
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

    async def _run_and_settle(self, attempt: Attempt, span: Span) -> str | None:
        """The outcome; None where the completer will tell it."""
        job = attempt.job
        try:
            handler = self._handlers[job.job_type]
            result = jobs.NOOP_PAYLOAD if job.is_noop else await self._work(handler, job)
            if job.is_noop or (handler.store is None and not self._settler.is_followed(job.job_type)):
                self._completer.add(job, result)
                with self._making_room():
                    self._give_up_place(attempt)
                return None
            stored = handler.store(job, result) if handler.store else result
            return await self._settle(attempt, self._settler.complete(attempt, stored))
        except asyncio.CancelledError:
            return await self._end_cancelled(attempt, span)
        except (BusyError, *DATABASE_AWAY) as error:
            # A database that dies under a handler is no fault of the job's, as little as a killed worker is.
            busy = error if isinstance(error, BusyError) else DATABASE_IS_AWAY
            self._log.info("job_snoozed", code=busy.code, retry_after_s=busy.retry_after.total_seconds())
            return await self._settle(attempt, self._settler.snooze(attempt, busy))
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

    async def _fail_completion(self, attempt: Attempt, error: asyncpg.PostgresError) -> None:
        current_job.set(attempt.job)
        self._ended(attempt, await self._end_failed(attempt, error, INVALID_SPAN))

    async def _settle(self, attempt: Attempt, ending: Awaitable[str]) -> str:
        """The work is done: its place is the next job's while that is written."""
        with self._making_room():
            self._give_up_place(attempt)
        return await ending

    async def _end_failed(self, attempt: Attempt, error: Exception, span: Span) -> str:
        failure = as_failure(error)
        mark_failed(span, failure.code)
        self._log.warning("job_attempt_failed", code=failure.code, **describe_error(error))
        return await self._settle(attempt, self._settler.fail(attempt, failure))

    async def _end_cancelled(self, attempt: Attempt, span: Span) -> str:
        """The worker itself cancelled the attempt: its lease is gone, it is overdue, or the process must end."""
        reason = attempt.revoked or "draining"
        attempt.revoked = reason
        self._log.warning("job_given_up", code=reason)
        if reason == "draining":
            return await self._settle(attempt, self._settler.release(attempt))
        mark_failed(span, reason)
        if reason == "overdue":
            overdue = TransientError("run_time_exceeded", "The attempt ran longer than its job type allows.")
            return await self._settle(attempt, self._settler.fail(attempt, overdue))
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
            **ids_of(job),
        },
    )
