"""The engine that needs no key and no network, behind the same protocol as a model."""

import asyncio
import time

from pydantic import BaseModel

from services.ai.local.engine import ENGINE_VERSION, Engine, load
from services.ai.wire import Inputs

from . import Answer, Completion, Task


class LocalProvider:
    """Answers on this machine. A page is one question: rules need its headings, and nothing limits their output."""

    name = "local"
    model = f"local-{ENGINE_VERSION}"
    window = 1_000_000

    def __init__(self, engine: Engine | None = None) -> None:
        self._engine = engine

    def prompt_version(self, task: Task) -> str:
        """It has no prompt: its own version stands for it."""
        return f"{task}.local-{ENGINE_VERSION}"

    async def complete(self, task: Task, inputs: Inputs, schema: type[Answer]) -> Completion[Answer]:
        """Answer in a thread: a page takes milliseconds, forty would hold up the worker's heartbeat."""
        started = time.monotonic()
        parsed: BaseModel = await asyncio.to_thread(self._answer, inputs)
        if not isinstance(parsed, schema):
            raise TypeError(f"{task} is answered by {type(parsed).__name__}")
        return Completion(
            parsed=parsed,
            raw="",
            usage={"requests": 1},
            model=self.model,
            request_id=None,
            finish="completed",
            latency_s=time.monotonic() - started,
        )

    @property
    def engine(self) -> Engine:
        """The engine that answers; loaded when it is first asked for."""
        return self._engine or load()

    def _answer(self, inputs: Inputs) -> BaseModel:
        return self.engine.answer(inputs)
