"""The engine that needs no key and no network, behind the same protocol as a model."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from services.ai.local.engine import ENGINE_VERSION, Engine, load
from services.ai.wire import Inputs, NarrateInputs

from . import Answer, Completion, Task

_THREAD = ThreadPoolExecutor(1, thread_name_prefix="local-engine")
"""One, since Python runs one at a time: more would only take turns with the worker's own, and load the models twice."""
_LONGEST_IN_LOOP = 20_000
"""Characters of a page, four times a densely printed one, that the event loop itself reads: 50 ms."""
_FACTS_IN_LOOP = 500


class LocalProvider:
    """Answers on this machine. A page is one question: rules need its headings, and nothing limits their output."""

    name = "local"
    model = f"local-{ENGINE_VERSION}"
    window = 1_000_000

    def __init__(self, engine: Engine | None = None, *, beside: bool = False) -> None:
        """``beside``: read in a thread, where somebody else's answers are waited for and not these."""
        self._engine, self._beside = engine, beside
        self._turn = asyncio.Lock()

    def prompt_version(self, task: Task) -> str:
        """It has no prompt: its own version stands for it."""
        return f"{task}.local-{ENGINE_VERSION}"

    async def complete(self, task: Task, inputs: Inputs, schema: type[Answer]) -> Completion[Answer]:
        """Answer between two turns of the event loop, a page at a time: a heartbeat waits for one page, not for forty.

        A thread would hold nobody up, and read a page in a sixth more of CPU: it wakes on a core whose caches know
        nothing of it. What would hold up the others for long goes there all the same.
        """
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        engine = self._engine
        if engine is None:
            engine = await loop.run_in_executor(_THREAD, load)
        if self._beside or _is_long(inputs):
            parsed = await loop.run_in_executor(_THREAD, engine.answer, inputs)
        else:
            async with self._turn:
                await asyncio.sleep(0)
                parsed = engine.answer(inputs)
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


def _is_long(inputs: Inputs) -> bool:
    if isinstance(inputs, NarrateInputs):
        return len(inputs.facts) > _FACTS_IN_LOOP
    return len(inputs.passage.text) > _LONGEST_IN_LOOP
