"""What a page looks like: its image where one is kept, else a drawing of its words. Nobody here reads a user's file."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import structlog

from shared.errors import ChartloomError
from shared.logs import describe_error

IMAGE_TYPES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"RIFF": "image/webp",
}
"""By the first bytes. Whatever is none of these was not made by our own OCR."""
BASELINE = 0.79
"""Of a line's height, from the top."""

Page = dict[str, Any]


async def page_image(stream: Callable[[str], AsyncIterator[bytes]], page: Page) -> tuple[str, AsyncIterator[bytes]]:
    """The image's media type and its bytes, at the page's own size. ``stream``: a file of the user's by its path."""
    path = page.get("image_path")
    if path:
        chunks = stream(path)
        try:
            first = await anext(chunks)
        except ChartloomError as error:
            # The words are in the database: a page without its picture is better than none.
            structlog.get_logger().warning("page_image_missing", **describe_error(error))
            first = b""
        for magic, media_type in IMAGE_TYPES.items():
            if first.startswith(magic):
                return media_type, _joined(first, chunks)
    return "image/svg+xml", _once(draw_page(page).encode())


async def _joined(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def draw_page(page: Page) -> str:
    """Each word in its box, all words of a line in one size."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {page["width"]} {page["height"]}" '
        f'width="{page["width"]}" height="{page["height"]}" font-family="Georgia, serif">'
        '<rect width="100%" height="100%" fill="#fff"/>'
    ]
    for line in _lines(page["words"]):
        top = min(word["box"][1] for word in line)
        height = max(word["box"][3] for word in line) - top
        for word in line:
            x0, _, x1, _ = word["box"]
            parts.append(
                f'<text x="{x0:.1f}" y="{top + BASELINE * height:.1f}" font-size="{height:.1f}" '
                f'textLength="{x1 - x0:.1f}" lengthAdjust="spacingAndGlyphs" fill={quoteattr(INK)}>'
                f"{escape(_printable(word['text']))}</text>"
            )
    parts.append("</svg>")
    return "".join(parts)


INK = "#26292e"


def _printable(text: str) -> str:
    """Without what XML may not hold."""
    return "".join(character for character in text if character >= " " or character in "\t\n")


def _lines(words: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    lines: list[list[dict[str, Any]]] = []
    for word in words:
        _, top, _, bottom = word["box"]
        middle = (top + bottom) / 2
        if lines and lines[-1][0]["box"][1] < middle < lines[-1][0]["box"][3]:
            lines[-1].append(word)
        else:
            lines.append([word])
    return lines
