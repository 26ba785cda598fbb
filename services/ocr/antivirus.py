"""ClamAV, by the INSTREAM command of its daemon: the bytes go there, a verdict comes back.

Its own client, since the kept ones speak TCP only or block: it is a length before each chunk, and a zero at the end.
"""

import asyncio
import contextlib
import re
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from shared.errors import BusyError, ConfigurationError
from shared.logs import describe_error
from shared.storage import CHUNK_BYTES

from .scan.verdict import AntivirusResult

_MAX_REPLY_BYTES = 4096
_SIGNATURE = re.compile(r"stream: ([\w.\-/:()]{1,200}) FOUND")
_RETRY_AFTER = timedelta(seconds=30)


class Antivirus:
    """A daemon at ``unix:///run/clamav/clamd.ctl`` or ``tcp://host:3310``; may be shared by tasks."""

    def __init__(self, address: str, *, is_required: bool, seconds: float) -> None:
        """``seconds`` is for one file. Raises ``ConfigurationError``."""
        self._parts = urlsplit(address)
        is_known = (self._parts.scheme == "unix" and self._parts.path) or (
            self._parts.scheme == "tcp" and self._parts.hostname and self._parts.port
        )
        if not is_known:
            raise ConfigurationError(
                "clamd_address_invalid", "CLAMD_ADDRESS must look like unix:///run/clamav/clamd.ctl or tcp://host:3310."
            )
        self._is_required = is_required
        self._seconds = seconds

    async def scan(self, path: Path) -> AntivirusResult:
        """``clean``, ``infected``, or ``unavailable`` where the daemon gave no verdict: too large for it, or away.

        Raises ``BusyError`` instead of the last where a verdict is required: no file is read without.
        """
        try:
            async with asyncio.timeout(self._seconds):
                engine = await self._ask(b"VERSION")
                reply = await self._ask(b"INSTREAM", path)
        except (OSError, EOFError, asyncio.LimitOverrunError) as error:
            structlog.get_logger().warning("antivirus_unavailable", **describe_error(error))
            return self._without_verdict()
        if reply == "stream: OK":
            return AntivirusResult(status="clean", engine=engine)
        if found := _SIGNATURE.fullmatch(reply):
            return AntivirusResult(status="infected", signature=found[1], engine=engine)
        # "INSTREAM size limit exceeded. ERROR", or what a later version says.
        structlog.get_logger().warning("antivirus_unavailable", code="no_verdict")
        return self._without_verdict()

    def _without_verdict(self) -> AntivirusResult:
        if self._is_required:
            raise BusyError(
                "antivirus_unavailable",
                "The virus scanner gives no verdict, and one is required. Look at clamd and its StreamMaxLength.",
                _RETRY_AFTER,
            )
        return AntivirusResult(status="unavailable")

    async def _ask(self, command: bytes, path: Path | None = None) -> str:
        async with self._connection() as (reader, writer):
            writer.write(b"z" + command + b"\0")
            if path is not None:
                # It hangs up in the middle of a file that is too large for it, and has said so.
                with contextlib.suppress(ConnectionError):
                    await _send(path, writer)
            reply = await reader.readuntil(b"\0")
            return reply[:-1].decode("utf-8", "replace").strip()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        if self._parts.scheme == "unix":
            reader, writer = await asyncio.open_unix_connection(self._parts.path, limit=_MAX_REPLY_BYTES)
        else:
            reader, writer = await asyncio.open_connection(
                self._parts.hostname, self._parts.port, limit=_MAX_REPLY_BYTES
            )
        try:
            yield reader, writer
        finally:
            writer.close()


async def _send(path: Path, writer: asyncio.StreamWriter) -> None:
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            writer.write(struct.pack(">I", len(chunk)) + chunk)
            await writer.drain()
    writer.write(struct.pack(">I", 0))
    await writer.drain()
