"""A provider that asks nothing twice: what each question of a pass came to is a row, until the pass is stored."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import asyncpg
import structlog

from services.ai.wire import SCHEMA_VERSION, WireInputs
from shared.database import CONNECTION_ERRORS, translate
from shared.jobs import ClaimedJob
from shared.logs import describe_error

from . import Answer, AskingProvider, Completion, OutputInvalidError, OutputTruncatedError, Task


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a question came to. ``kind`` is ``answered``, ``truncated`` or ``invalid``."""

    kind: str
    usage: dict[str, int]
    answer: Any = None
    complaint: str | None = None


class Checkpoints:
    """The rows of one pass of one run, written by the lease of the attempt in hand.

    An answer holds for the run. What is no answer holds for the attempt: a kill does not ask again what was cut off,
    a retry may have more luck.
    """

    def __init__(self, pool: asyncpg.Pool, job: ClaimedJob, pass_name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self._pool = pool
        self._job = job
        self._pass_name = pass_name
        self._known = {
            row["question"]: Outcome(row["outcome"], row["usage"], row["answer"], row["complaint"])
            for row in rows
            if row["pass"] == pass_name
        }
        self._open = 0
        self._last: tuple[str, Outcome] | None = None

    def find(self, question: str) -> Outcome | None:
        return self._known.get(question)

    @asynccontextmanager
    async def asking(self, question: str) -> AsyncIterator[Callable[[Outcome], None]]:
        """Around one question; what is yielded takes its outcome, which is kept at the end.

        What comes last is stored with the pass itself: its row is written only where something else follows. Most
        documents have one question a pass.
        """
        self._open += 1
        await self.write_last()
        outcomes: list[Outcome] = []
        try:
            yield outcomes.append
        finally:
            self._open -= 1
            for outcome in outcomes:
                if self._open:
                    await self._write(question, outcome)
                else:
                    self._last = question, outcome

    async def write_last(self) -> None:
        """Before another question, and where the pass fails after all."""
        if self._last is not None:
            last, self._last = self._last, None
            await self._write(*last)

    async def _write(self, question: str, outcome: Outcome) -> None:
        """Raises LeaseLostError, JobCancelledError: nobody wants the other answers either."""
        try:
            await self._pool.execute(
                "select chartloom.save_ai_checkpoint($1, $2, $3, $4, $5, $6, $7, $8)",
                self._job.job_id,
                self._job.lease_token,
                self._pass_name,
                question,
                outcome.kind,
                outcome.answer,
                outcome.complaint,
                outcome.usage,
            )
        except CONNECTION_ERRORS as error:
            # The answer is in hand, and what ends the attempt waits for the database.
            structlog.get_logger().warning("checkpoint_failed", **describe_error(error))
        except asyncpg.PostgresError as error:
            raise translate(error) from error


class CheckpointedProvider(AskingProvider):
    """Answers from the checkpoints what was asked before, by whichever process; keeps what is asked now."""

    def __init__(self, provider: AskingProvider, checkpoints: Checkpoints) -> None:
        self._provider = provider
        self._checkpoints = checkpoints
        self.name = provider.name
        self.model = provider.model
        self.window = provider.window

    def prompt_version(self, task: Task) -> str:
        return self._provider.prompt_version(task)

    def fall_back(self) -> bool:
        return self._provider.fall_back()

    async def close(self) -> None:
        await self._provider.close()

    async def ask(
        self, task: Task, inputs: WireInputs, schema: type[Answer], complaint: str | None = None
    ) -> Completion[Answer]:
        question = self._fingerprint(task, inputs, complaint)
        known = self._checkpoints.find(question)
        if known is not None:
            return self._recalled(known, schema)
        async with self._checkpoints.asking(question) as keep:
            try:
                completion = await self._provider.ask(task, inputs, schema, complaint)
            except OutputTruncatedError as error:
                keep(Outcome("truncated", error.usage))
                raise
            except OutputInvalidError as error:
                keep(Outcome("invalid", error.usage, complaint=error.complaint))
                raise
            keep(Outcome("answered", completion.usage, completion.parsed.model_dump(mode="json")))
        return completion

    def _recalled(self, known: Outcome, schema: type[Answer]) -> Completion[Answer]:
        if known.kind == "truncated":
            raise OutputTruncatedError(known.usage)
        if known.kind == "invalid":
            raise OutputInvalidError(known.complaint or "", known.usage)
        return Completion(
            parsed=schema.model_validate(known.answer),
            raw="",
            usage=known.usage,
            model=self.model,
            request_id=None,
            finish="checkpoint",
            latency_s=0.0,
        )

    def _fingerprint(self, task: Task, inputs: WireInputs, complaint: str | None) -> str:
        """All that the answer hangs on: another model, prompt or schema asks again."""
        parts = [self.name, self.model, self.prompt_version(task), SCHEMA_VERSION, inputs.model_dump_json(), complaint]
        return sha256(json.dumps(parts).encode()).hexdigest()
