"""What a provider is. The passes know this and nothing of who answers."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Literal, Protocol, TypeVar

import asyncpg
from pydantic import BaseModel

from services.ai.usage import Price
from services.ai.wire import Inputs
from shared.errors import ConfigurationError, TransientError

Answer = TypeVar("Answer", bound=BaseModel)


class Task(StrEnum):
    """The three questions."""

    DETECT = "detect"
    ENRICH = "enrich"
    NARRATE = "narrate"


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


class OutputTruncatedError(TransientError):
    """The answer did not fit. The same question would not fit again: the passes ask about half as much."""

    def __init__(self) -> None:
        super().__init__("model_output_truncated", "The model ran out of output tokens; use one with a larger limit.")


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
    from .openai import OpenAIProvider  # noqa: PLC0415

    return OpenAIProvider(model=model, api_key=api_key, base_url=base_url, timeout_s=timeout_s, price=price)


def within_limits(provider: Provider, pool: asyncpg.Pool) -> Provider:
    """The local engine has no limits but the machine's."""
    if provider.name == "local":
        return provider
    from .limited import LimitedProvider  # noqa: PLC0415

    return LimitedProvider(provider, pool)


def summed(usages: list[dict[str, int]]) -> dict[str, Any]:
    """Usage over several questions."""
    total: dict[str, int] = {}
    for usage in usages:
        for name, count in usage.items():
            total[name] = total.get(name, 0) + count
    return total
