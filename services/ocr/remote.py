"""Engines that answer over the network: the parent asks them, since the document's child has none."""

from typing import Protocol

from .page_text import ReadWord


class RemoteEngine(Protocol):
    """Reads the image of an upright page. ``version`` says which model answers."""

    version: str

    async def recognise(self, jpeg: bytes) -> list[list[list[ReadWord]]]:
        """Blocks of lines of words in reading order; boxes in the image's pixels.

        Raises BusyError where the service asks for patience, TransientError where it fails, TerminalError where it
        refuses.
        """
