"""The engine that needs no key and no network, behind the same protocol as a model."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel

from services.ai.local.engine import ENGINE_VERSION, Engine, load
from services.ai.wire import Inputs

from . import Answer, Completion, Task

_THREAD = ThreadPoolExecutor(1, thread_name_prefix="local-engine")
"""One, since Python runs one at a time: more would only take turns with the worker's own, and load the models twice."""


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
        parsed = await asyncio.get_running_loop().run_in_executor(_THREAD, self._answer, inputs)
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
