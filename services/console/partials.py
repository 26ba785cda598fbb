"""Uploads on their way in. They come in parts, and one that was cut off goes on at the byte where it stopped."""

import asyncio
import hashlib
import tempfile
import time
from collections.abc import AsyncIterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

KEPT_SECONDS = 3600.0
"""How long the rest of a file may be awaited; after that, or in another process, it starts anew."""
MOST_OF_A_USER = 10
"""Under way at once; the browser sends three. The one that was touched least goes first."""


@dataclass
class Partial:
    """What has come of a file so far. The last who began to write is the only one who may."""

    file: IO[bytes]
    digest: Any = field(default_factory=hashlib.sha256)
    received: int = 0
    touched_at: float = field(default_factory=time.monotonic)
    writer: object = None
    submitting: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Whoever asks again after a proxy gave up must not read the file while it is being put."""

    async def append(self, chunks: AsyncIterable[bytes], *, most: int) -> bool:
        """Whether all of it came and fits. What came before a cut stays."""
        # A line that died may be noticed long after its client came again by another one.
        me = self.writer = object()
        async for chunk in chunks:
            if self.writer is not me or self.received + len(chunk) > most:
                return False
            self.file.seek(self.received)
            self.file.write(chunk)
            self.digest.update(chunk)
            self.received += len(chunk)
            self.touched_at = time.monotonic()
        return self.writer is me


class Partials:
    """The files that are under way, each by its user and the name that the client gave the upload."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._partials: dict[tuple[Any, str], Partial] = {}

    def open(self, user: Any, name: str) -> Partial:
        key = (user, name)
        if key not in self._partials:
            self._make_room(user)
            self._partials[key] = Partial(tempfile.TemporaryFile(dir=self._folder))  # noqa: SIM115 - closed by drop
        return self._partials[key]

    def drop(self, user: Any, name: str) -> None:
        partial = self._partials.pop((user, name), None)
        if partial is not None:
            partial.writer = None
            partial.file.close()

    def _make_room(self, user: Any) -> None:
        now = time.monotonic()
        own = sorted((one.touched_at, name) for (whose, name), one in self._partials.items() if whose == user)
        for key, one in list(self._partials.items()):
            if now - one.touched_at > KEPT_SECONDS:
                self.drop(*key)
        for _, name in own[: max(len(own) - MOST_OF_A_USER + 1, 0)]:
            self.drop(user, name)
