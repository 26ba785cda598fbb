"""Supabase Storage's API over HTTP, as its server answers it: statuses, bodies, and what goes wrong on the way."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from aiohttp import web
from aiohttp.test_utils import TestServer

KEY = "service-key-of-tests"
BUCKET = "records"
MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class Fault:
    """What happens to one request instead of its answer. ``cut_after``: the line breaks after so many of its bytes."""

    status: int | None = None
    hang: bool = False
    cut_after: int | None = None


@dataclass
class Stored:
    content: bytes
    mime_type: str
    updated_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    id: str = field(default_factory=lambda: str(uuid4()))


def refusal(status: int, error: str, message: str) -> web.Response:
    """As the server says it: the status twice, and words that may quote a path."""
    return web.json_response({"statusCode": str(status), "error": error, "message": message}, status=status)


class FakeStorage:
    """One private bucket. ``faults`` are played once each, in order, whatever is asked.

    ``users``: whose token is let in beside the service key, each with the publishable key that it comes with.
    """

    def __init__(self) -> None:
        self.files: dict[str, Stored] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.tokens: dict[str, str] = {}
        self.users: dict[str, str] = {}
        self.allowed_types: set[str] | None = None
        self.url = ""
        self._released = asyncio.Event()
        self.app = web.Application(client_max_size=100 << 20, middlewares=[self._middleware])
        routes = self.app.router
        routes.add_post("/storage/v1/object/list/{bucket}", self._list)
        routes.add_get("/storage/v1/object/info/{bucket}/{path:.+}", self._info)
        routes.add_post("/storage/v1/object/upload/sign/{bucket}/{path:.+}", self._sign)
        routes.add_put("/storage/v1/object/upload/sign/{bucket}/{path:.+}", self._put_signed)
        routes.add_post("/storage/v1/object/{bucket}/{path:.+}", self._upload)
        routes.add_get("/storage/v1/object/{bucket}/{path:.+}", self._download)
        routes.add_delete("/storage/v1/object/{bucket}", self._remove)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeStorage"]:
        server = TestServer(self.app)
        await server.start_server()
        self.url = str(server.make_url("/")).rstrip("/")
        try:
            yield self
        finally:
            self._released.set()
            await server.close()

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        fault = self.faults.pop(0) if self.faults else Fault()
        if fault.hang:
            await self._released.wait()
        if fault.status is not None:
            return refusal(fault.status, "Error", f"no: {request.path}")
        if "token" not in request.query:
            shown = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if {KEY: KEY, **self.users}.get(shown) != request.headers.get("apikey"):
                return refusal(403, "Unauthorized", "Invalid Compact JWS")
            bucket = request.match_info.get("bucket")
            if bucket is not None and bucket != BUCKET:
                return refusal(404, "Bucket not found", "Bucket not found")
        answer: web.StreamResponse = await handler(request)
        if fault.cut_after is not None:
            assert isinstance(answer, web.Response)
            assert isinstance(answer.body, bytes)
            cut = web.StreamResponse(headers={"Content-Length": str(len(answer.body))})
            await cut.prepare(request)
            await cut.write(answer.body[: fault.cut_after])
            assert request.transport is not None
            request.transport.abort()
            return cut
        return answer

    async def _store(self, request: web.Request, *, upsert: bool) -> web.Response:
        path = request.match_info["path"]
        if path in self.files and not upsert:
            return refusal(409, "Duplicate", "The resource already exists")
        content, mime_type = b"", "text/plain"
        async for part in await request.multipart():
            if part.name == "file":  # type: ignore[union-attr]
                mime_type = part.headers.get("Content-Type", mime_type)
                content = bytes(await part.read())  # type: ignore[union-attr]
        if len(content) > MAX_BYTES:
            return refusal(413, "Payload too large", "The object exceeded the maximum allowed size")
        if self.allowed_types is not None and mime_type not in self.allowed_types:
            return refusal(415, "invalid_mime_type", f"mime type {mime_type} is not supported")
        self.files[path] = Stored(content, mime_type)
        return web.json_response({"Key": f"{BUCKET}/{path}", "Id": self.files[path].id})

    async def _upload(self, request: web.Request) -> web.Response:
        return await self._store(request, upsert=request.headers.get("x-upsert") == "true")

    async def _sign(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        if path in self.files and request.headers.get("x-upsert") != "true":
            return refusal(409, "Duplicate", "The resource already exists")
        token = uuid4().hex
        self.tokens[token] = path
        return web.json_response({"url": f"/object/upload/sign/{BUCKET}/{path}?token={token}", "token": token})

    async def _put_signed(self, request: web.Request) -> web.Response:
        if self.tokens.get(request.query["token"]) != request.match_info["path"]:
            return refusal(400, "InvalidJWT", "The url do not match the token")
        return await self._store(request, upsert=True)

    def _missing(self) -> web.Response:
        # A plain 400 around a 404: so the server answers.
        answer = {"statusCode": "404", "error": "not_found", "message": "Object not found"}
        return web.json_response(answer, status=400)

    async def _info(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        if (stored := self.files.get(path)) is None:
            return self._missing()
        return web.json_response(
            {
                "id": stored.id,
                "name": path,
                "bucket_id": BUCKET,
                "size": len(stored.content),
                "content_type": stored.mime_type,
                "last_modified": _time(stored.updated_at),
                "created_at": _time(stored.updated_at),
            }
        )

    async def _download(self, request: web.Request) -> web.StreamResponse:
        if (stored := self.files.get(request.match_info["path"])) is None:
            return self._missing()
        if len(stored.content) <= MAX_BYTES:
            return web.Response(body=stored.content, content_type=stored.mime_type)
        # Piece by piece: what a test finds in memory should be the client's.
        response = web.StreamResponse(headers={"Content-Length": str(len(stored.content))})
        await response.prepare(request)
        for start in range(0, len(stored.content), MAX_BYTES):
            await response.write(stored.content[start : start + MAX_BYTES])
        return response

    async def _list(self, request: web.Request) -> web.Response:
        asked = await request.json()
        prefix = f"{asked['prefix'].rstrip('/')}/" if asked["prefix"] else ""
        entries: dict[str, Stored | None] = {}
        for path, stored in sorted(self.files.items()):
            if path.startswith(prefix):
                name, _, inside = path[len(prefix) :].partition("/")
                entries[name] = None if inside else stored
        page = list(entries.items())[asked["offset"] : asked["offset"] + asked["limit"]]
        return web.json_response([_entry(name, stored) for name, stored in page])

    async def _remove(self, request: web.Request) -> web.Response:
        asked = json.loads(await request.text())["prefixes"]
        gone = [path for path in asked if self.files.pop(path, None)]
        return web.json_response([{"name": path, "bucket_id": BUCKET} for path in gone])


def _entry(name: str, stored: Stored | None) -> dict[str, Any]:
    """A folder has a name and nothing else."""
    if stored is None:
        return {"name": name, "id": None, "updated_at": None, "created_at": None, "metadata": None}
    time = _time(stored.updated_at)
    metadata = {"size": len(stored.content), "mimetype": stored.mime_type, "eTag": '"0"'}
    return {"name": name, "id": stored.id, "updated_at": time, "created_at": time, "metadata": metadata}


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
