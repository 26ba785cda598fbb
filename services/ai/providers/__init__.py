"""What a provider is. The passes know this and nothing of who answers."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Generic, Literal, Protocol, TypeVar

import asyncpg
from pydantic import BaseModel

from services.ai.usage import Price
from services.ai.wire import Inputs, WireInputs
from shared.errors import ConfigurationError, JobCancelledError, LeaseLostError, TransientError
from shared.jobs import ClaimedJob

Answer = TypeVar("Answer", bound=BaseModel)


class Task(StrEnum):
    """The three questions, and the one at the start: does the endpoint keep to a schema?"""

    DETECT = "detect"
    ENRICH = "enrich"
    NARRATE = "narrate"
    PROBE = "probe"


@dataclass(frozen=True, slots=True)
class Completion(Generic[Answer]):
    """An answer and how it came about. ``raw`` is the reply's text: never logged, never part of an error."""

    parsed: Answer
    raw: str
    usage: dict[str, int]
    model: str
    request_id: str | None
    finish: str
    latency_s: float


class UnusableReplyError(TransientError):
    """A reply that was paid for and answers nothing. ``usage`` is what it took."""

    def __init__(self, code: str, message: str, usage: dict[str, int]) -> None:
        super().__init__(code, message)
        self.usage = usage


class OutputTruncatedError(UnusableReplyError):
    """The answer did not fit. The same question would not fit again: the passes ask about half as much."""

    def __init__(self, usage: dict[str, int] | None = None) -> None:
        message = "The model ran out of output tokens; use one with a larger limit."
        super().__init__("model_output_truncated", message, usage or {})


class OutputInvalidError(UnusableReplyError):
    """The reply missed the schema. ``complaint`` says where, by place and type, without a word of the reply."""

    def __init__(self, complaint: str, usage: dict[str, int]) -> None:
        super().__init__("model_output_invalid", "The model's reply missed the schema twice.", usage)
        self.complaint = complaint


class Provider(Protocol):
    """Answers the three questions in the given schema, or raises an error of ``shared.errors``."""

    @property
    def name(self) -> str:
        """``local`` or ``openai``."""

    @property
    def model(self) -> str:
        """Which model or rule set answers; stored with every finding."""

    @property
    def window(self) -> int:
        """Characters of a page that one question may hold."""

    def prompt_version(self, task: Task) -> str:
        """What exactly the question is worded like; stored with every finding."""

    async def complete(self, task: Task, inputs: Inputs, schema: type[Answer]) -> Completion[Answer]:
        """Ask."""


class AskingProvider(ABC):
    """A provider that asks somebody else over a wire. ``ask`` is one request; ``complete`` adds one repair at most."""

    name: str
    model: str
    window: int

    @abstractmethod
    def prompt_version(self, task: Task) -> str:
        """As a provider's."""

    @abstractmethod
    async def ask(
        self, task: Task, inputs: WireInputs, schema: type[Answer], complaint: str | None = None
    ) -> Completion[Answer]:
        """One request. ``complaint``: what was wrong with the last reply to the same question."""

    @abstractmethod
    def fall_back(self) -> bool:
        """Speaks the next best API from now on. False: there is none."""

    @abstractmethod
    async def close(self) -> None:
        """Closes its connections."""

    async def complete(self, task: Task, inputs: Inputs, schema: type[Answer]) -> Completion[Answer]:
        """Ask; where the reply misses the schema, once more with what was wrong."""
        try:
            return await self.ask(task, inputs, schema)
        except OutputInvalidError as error:
            complaint, spent = error.complaint, error.usage
        repaired = await self.ask(task, inputs, schema, complaint)
        return replace(repaired, usage=summed([spent, repaired.usage]))


def open_provider(
    *,
    provider: Literal["local", "openai"],
    model: str | None,
    api_key: str | None,
    base_url: str | None,
    timeout_s: float,
    price: Price | None = None,
) -> Provider:
    """The one place where a provider is chosen. Imports are late: neither costs memory where the other one serves."""
    if provider == "local":
        from .local import LocalProvider  # noqa: PLC0415

        return LocalProvider()
    if not api_key:
        raise ConfigurationError("openai_key_missing", "Set OPENAI_API_KEY, or use the local engine.")
    if not model:
        raise ConfigurationError("model_missing", "Name the model that the endpoint shall use.")
    if base_url is not None and not base_url.startswith(("http://", "https://")):
        raise ConfigurationError(
            "model_url_invalid", "OPENAI_BASE_URL: begins with http:// or https://, ends with /v1."
        )
    from .openai import OpenAIProvider  # noqa: PLC0415

    return OpenAIProvider(model=model, api_key=api_key, base_url=base_url, timeout_s=timeout_s, price=price)


def within_limits(provider: Provider, pool: asyncpg.Pool) -> Provider:
    """The local engine has no limits but the machine's."""
    if not isinstance(provider, AskingProvider):
        return provider
    from .limited import LimitedProvider  # noqa: PLC0415

    return LimitedProvider(provider, pool)


@asynccontextmanager
async def with_checkpoints(
    provider: Provider, pool: asyncpg.Pool, job: ClaimedJob, pass_name: str, rows: Sequence[Mapping[str, Any]]
) -> AsyncIterator[Provider]:
    """For one pass of one job, and ``rows`` of what its run has asked: it asks nothing twice.

    The local engine is done before it could be killed.
    """
    if not isinstance(provider, AskingProvider):
        yield provider
        return
    from .checkpointed import CheckpointedProvider, Checkpoints  # noqa: PLC0415

    checkpoints = Checkpoints(pool, job, pass_name, rows)
    try:
        yield CheckpointedProvider(provider, checkpoints)
    except BaseException:
        # A drain that hands the job back among them.
        with suppress(LeaseLostError, JobCancelledError):
            await checkpoints.write_last()
        raise


@asynccontextmanager
async def in_use(provider: Provider) -> AsyncIterator[None]:
    """Probed before, closed after. Raises ConfigurationError where the endpoint's answers could not be used."""
    if not isinstance(provider, AskingProvider):
        yield
        return
    from .probe import probe  # noqa: PLC0415

    try:
        await probe(provider)
        yield
    finally:
        await provider.close()


def summed(usages: list[dict[str, int]]) -> dict[str, Any]:
    """Usage over several questions."""
    total: dict[str, int] = {}
    for usage in usages:
        for name, count in usage.items():
            total[name] = total.get(name, 0) + count
    return total
