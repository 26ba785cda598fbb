"""A way to Postgres that can be cut, or go dead without a word: sockets stay open, and nothing comes through."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit


@dataclass(eq=False)
class _Flow:
    """One connection through the proxy. Once dead it swallows everything, the end of either side included."""

    client: asyncio.StreamWriter
    task: asyncio.Task[None]
    dead: bool = False
    delayed: bool = False


@dataclass
class Proxy:
    """Forwards to Postgres until told otherwise."""

    host: str
    server_port: int
    port: int = 0
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """What ``lose`` or ``delay`` waited for has come by."""
    _flows: set[_Flow] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _passable: asyncio.Event = field(default_factory=asyncio.Event)
    _delivered: asyncio.Event = field(default_factory=asyncio.Event)
    _pattern: bytes | None = None
    _does: Literal["lose request", "lose answer", "delay answer"] = "lose request"

    def url(self, url: str) -> str:
        """The same URL by this way."""
        parts = urlsplit(url)
        return parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{self.port}").geturl()

    def cut(self, *, only_dead: bool = False) -> None:
        """Ends the connections that are there with a reset, or only the dead ones of them; new ones work."""
        for flow in self._flows:
            if flow.dead or not only_dead:
                flow.client.transport.abort()
                flow.task.cancel()

    def strand(self) -> None:
        """As when a router on the way forgets its connections: those there are stay open and dead; new ones work."""
        for flow in self._flows:
            flow.dead = True

    def black_hole(self) -> None:
        """As when the network is cut: those there are go dead, and new ones get no answer until ``heal``."""
        self.strand()
        self._passable.clear()

    def heal(self) -> None:
        self._passable.set()

    def lose(self, pattern: bytes, what: Literal["request", "answer"]) -> None:
        """Strands the next connection on which a client says this: before that arrives, or when the answer comes."""
        self._pattern = pattern
        self._does = "lose request" if what == "request" else "lose answer"

    def delay(self, pattern: bytes) -> None:
        """Keeps what the server answers on the next connection on which a client says this, until ``deliver``."""
        self._pattern, self._does = pattern, "delay answer"

    def deliver(self) -> None:
        self._delivered.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        flow = _Flow(writer, task)
        self._flows.add(flow)
        self._tasks.add(task)
        # A cancelled one is at its end, too: asyncio would print a traceback.
        with contextlib.suppress(asyncio.CancelledError):
            await self._serve(flow, reader, writer)
        writer.close()
        self._flows.discard(flow)
        self._tasks.discard(task)

    async def _serve(self, flow: _Flow, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._passable.wait()
            server_reader, server_writer = await asyncio.open_connection(self.host, self.server_port)
            try:
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._pump(flow, reader, server_writer, from_client=True))
                    pumps.create_task(self._pump(flow, server_reader, writer, from_client=False))
            finally:
                server_writer.close()
        except* OSError:
            pass  # Postgres is away, or one side ended in the middle of something

    async def _pump(
        self, flow: _Flow, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool
    ) -> None:
        while data := await reader.read(1 << 16):
            if from_client and not flow.dead and self._pattern and self._pattern in data:
                self._pattern = None
                if self._does == "lose answer":
                    writer.write(data)
                flow.delayed = self._does == "delay answer"
                flow.dead = not flow.delayed
                self.lost.set()
            if flow.delayed and not from_client:
                await self._delivered.wait()
            if not flow.dead:
                writer.write(data)
                await writer.drain()
        if flow.dead:
            await asyncio.Event().wait()
        writer.close()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
            await task


@asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[Proxy]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    proxy = Proxy(parts.hostname, parts.port)
    proxy.heal()
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
