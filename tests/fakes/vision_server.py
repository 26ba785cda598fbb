"""Google Cloud Vision's REST API: ``POST /v1/images:annotate`` as documented, and what goes wrong there."""

import asyncio
import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

KEY = "api-key-of-tests"

SPACE, SURE_SPACE, EOL, HYPHEN, LINE_BREAK = "SPACE", "SURE_SPACE", "EOL_SURE_SPACE", "HYPHEN", "LINE_BREAK"


@dataclass(frozen=True)
class Fault:
    """One request's fate. ``image_error``: a code of gRPC's inside a 200."""

    status: int | None = None
    reason: str = "UNAVAILABLE"
    headers: dict[str, str] = field(default_factory=dict)
    image_error: int | None = None
    cut: bool = False


@dataclass(frozen=True)
class Seen:
    """A word as Vision sees it. ``after``: the break behind its last symbol, or none."""

    text: str
    box: tuple[int, int, int, int]
    after: str | None = SPACE
    confidence: float = 0.98


class FakeVision:
    """Sees the same on every image: ``paragraphs`` of one block each. ``faults`` come first, once each."""

    def __init__(self) -> None:
        self.paragraphs: list[Sequence[Seen]] = []
        self.faults: list[Fault] = []
        self.images: list[bytes] = []
        self.features: list[Any] = []
        self.url = ""
        self.app = web.Application(client_max_size=20 << 20)
        self.app.router.add_post("/v1/images:annotate", self._annotate)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeVision"]:
        server = TestServer(self.app)
        await server.start_server()
        self.url = str(server.make_url("/")).rstrip("/")
        try:
            yield self
        finally:
            await server.close()

    async def _annotate(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("x-goog-api-key") != KEY:
            return _failure(403, "PERMISSION_DENIED", {})
        body = await request.json()
        (asked,) = body["requests"]
        self.images.append(base64.b64decode(asked["image"]["content"]))
        self.features.append(asked["features"])
        fault = self.faults.pop(0) if self.faults else Fault()
        if fault.status is not None:
            return _failure(fault.status, fault.reason, fault.headers)
        if fault.cut:
            cut = web.StreamResponse(headers={"Content-Length": "1000", "Content-Type": "application/json"})
            await cut.prepare(request)
            await cut.write(b'{"responses": [{"full')
            await asyncio.sleep(0)
            assert request.transport is not None
            request.transport.abort()
            return cut
        if fault.image_error is not None:
            error = {"code": fault.image_error, "message": "no: the image of a patient"}
            return web.json_response({"responses": [{"error": error}]})
        return web.json_response({"responses": [{"fullTextAnnotation": self._annotation()} if self.paragraphs else {}]})

    def _annotation(self) -> dict[str, Any]:
        blocks = [
            {"blockType": "TEXT", "paragraphs": [{"words": [_word(seen) for seen in paragraph]}]}
            for paragraph in self.paragraphs
        ]
        text = " ".join(seen.text for paragraph in self.paragraphs for seen in paragraph)
        return {"pages": [{"width": 1, "height": 1, "blocks": blocks, "confidence": 0.97}], "text": text}


def _failure(status: int, reason: str, headers: dict[str, str]) -> web.Response:
    # Errors quote what they were sent; so does this one, so that a leak would show.
    error = {"code": status, "message": "no: the image of a patient", "status": reason}
    return web.json_response({"error": error}, status=status, headers=headers)


def _word(seen: Seen) -> dict[str, Any]:
    x0, y0, x1, y1 = seen.box
    symbols: list[dict[str, Any]] = [{"text": character, "confidence": seen.confidence} for character in seen.text]
    if seen.after:
        symbols[-1]["property"] = {"detectedBreak": {"type": seen.after}}
    # Zeros are left out, as in any message of theirs.
    corners = [{name: value for name, value in (("x", x), ("y", y)) if value} for x, y in _corners(x0, y0, x1, y1)]
    return {"boundingBox": {"vertices": corners}, "symbols": symbols, "confidence": seen.confidence}


def _corners(x0: int, y0: int, x1: int, y1: int) -> tuple[tuple[int, int], ...]:
    return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
