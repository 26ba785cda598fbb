"""A model endpoint that speaks the real wire over HTTP: Responses, chat completions, and all that goes wrong there."""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer


@dataclass(frozen=True)
class Play:
    """What the server does with one request. ``answer`` may be the reply's JSON or be made from the request's body."""

    answer: Any = None
    text: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    refuse: bool = False
    truncate: bool = False
    hang: bool = False
    cut: bool = False
    seconds: float = 0
    """How long it takes to answer."""
    on_end: Callable[[bool], None] | None = None
    """Called when the reply is about to leave (True) or the caller is gone."""
    error_code: str | None = None


Script = Callable[[dict[str, Any]], Play]


class FakeOpenAI:
    """Plays ``plays`` in order, the last one for ever; or ``script`` decides by the request.

    A service's question at its start, whether schemas are kept to, is answered apart: yes, but by ``heedless`` APIs.
    """

    def __init__(self) -> None:
        self.plays: deque[Play] = deque()
        self.script: Script | None = None
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.probes: list[str] = []
        self.heedless: set[str] = set()
        self.denies = False
        self.arrivals: list[float] = []
        """When each request came, probes among them, by ``time.monotonic()``."""
        self.on_request: Callable[[], Awaitable[None]] | None = None
        self._released = asyncio.Event()
        self.app = web.Application()
        self.app.router.add_post("/v1/responses", self._responses)
        self.app.router.add_post("/v1/chat/completions", self._chat)
        self.url = ""

    def play(self, *plays: Play) -> None:
        self.plays.extend(plays)

    def _following(self) -> Play:
        return self.plays.popleft() if len(self.plays) > 1 else self.plays[0]

    async def _next(self, request: web.Request) -> tuple[dict[str, Any], Play]:
        self.arrivals.append(time.monotonic())
        body = await request.json()
        form = form_of(body)
        if form["name"] == "probe":
            self.probes.append(request.path)
            if self.denies:
                return body, Play(status=401)
            word = form["schema"]["properties"]["word"]["enum"][0]
            return body, Play({"word": "Good morning."} if request.path in self.heedless else {"word": word})
        self.requests.append(body)
        self.paths.append(request.path)
        if self.on_request:
            await self.on_request()
        play = self.script(body) if self.script else self._following()
        if play.hang:
            await self._released.wait()
        is_answered = False
        try:
            await asyncio.sleep(play.seconds)
            is_answered = True
        finally:
            if play.on_end:
                play.on_end(is_answered)
        if play.cut:
            assert request.transport is not None
            response = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
            await response.prepare(request)
            await response.write(b'{"id": "cut')
            request.transport.abort()
        return body, play

    def _failure(self, play: Play) -> web.Response:
        # Real endpoints quote the request in their errors; so does this one, so that a leak would show.
        error = {"message": f"no: {self.requests[-1:]}", "type": "error", "code": play.error_code}
        return web.json_response({"error": error}, status=play.status, headers=play.headers)

    def _text(self, play: Play) -> str:
        text = play.text if play.text is not None else json.dumps(play.answer)
        return text[: len(text) // 2] if play.truncate else text

    async def _responses(self, request: web.Request) -> web.Response:
        body, play = await self._next(request)
        if play.status != 200:
            return self._failure(play)
        part = {"type": "refusal", "refusal": "I can't."} if play.refuse else {
            "type": "output_text", "text": self._text(play), "annotations": []
        }  # fmt: skip
        reply = {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "model": body["model"],
            "status": "incomplete" if play.truncate else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if play.truncate else None,
            "output": [
                {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
            ],
            "usage": {"input_tokens": 100, "output_tokens": 20, "total_tokens": 120},
        }
        return web.json_response(reply, headers={"x-request-id": "req_1"})

    async def _chat(self, request: web.Request) -> web.Response:
        body, play = await self._next(request)
        if play.status != 200:
            return self._failure(play)
        message = {
            "role": "assistant",
            "content": None if play.refuse else self._text(play),
            "refusal": "I can't." if play.refuse else None,
        }
        reply = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "length" if play.truncate else "stop"}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        }
        return web.json_response(reply)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeOpenAI"]:
        server = TestServer(self.app)
        await server.start_server()
        self.url = str(server.make_url("/v1"))
        try:
            yield self
        finally:
            self._released.set()
            await server.close()


def form_of(body: dict[str, Any]) -> dict[str, Any]:
    """Name and schema of the answer that is asked for, from whichever API."""
    form: dict[str, Any] = body["text"]["format"] if "text" in body else body["response_format"]["json_schema"]
    return form


def document_of(body: dict[str, Any]) -> str:
    """The document's text in a request, from whichever API."""
    asked: str = body["input"] if "input" in body else body["messages"][-1]["content"]
    return asked.split("<document-", 1)[1].split(">\n", 1)[1].rsplit("\n</document-", 1)[0]
