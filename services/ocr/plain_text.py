"""A plain text file as one page, its words on a typewriter's grid."""

import math
import re
from pathlib import Path

from shared.contract.pages import Page, Word

from .limits import ReaderLimits
from .refusal import Refusal

_COLUMNS = 120
_CELL_WIDTH = 20.0
_CELL_HEIGHT = 42.0
"""10 point Courier at 300 dpi, with a line and a bit for every line."""


def read_plain_text(path: Path, limits: ReaderLimits) -> Page:
    """The file's own text, unchanged: offsets into the page are offsets into the file's decoded UTF-8.

    Boxes are where a monospaced print-out of 120 columns would have the words. Raises ``Refusal``: ``file_too_large``,
    ``page_too_dense``.
    """
    if path.stat().st_size > limits.max_text_bytes:
        raise Refusal("file_too_large")
    # Bytes, not read_text: its newline translation would shift every offset behind a \r\n.
    text = path.read_bytes().decode("utf-8")
    if len(text.split()) > limits.max_page_words:
        raise Refusal("page_too_dense")
    placed: list[tuple[re.Match[str], int, int]] = []
    row = 0
    offset = 0
    for line in text.splitlines(keepends=True):
        bend = 0
        for match in re.compile(r"\S+").finditer(text, offset, offset + len(line)):
            column = len(text[offset : match.start()].expandtabs(8)) - bend
            if column > 0 and column + len(match[0]) > _COLUMNS:
                bend += column
                row += 1
                column = 0
            placed.append((match, row, column))
        offset += len(line)
        row += 1
    rows = max(row, 1)
    scale = min(1.0, math.sqrt(limits.max_page_pixels / (_COLUMNS * _CELL_WIDTH * rows * _CELL_HEIGHT)))
    cell_width, cell_height = _CELL_WIDTH * scale, _CELL_HEIGHT * scale
    width, height = math.ceil(_COLUMNS * cell_width), math.ceil(rows * cell_height)
    words = tuple(
        Word(
            text=match[0],
            box=(
                column * cell_width,
                line_row * cell_height,
                min((column + len(match[0])) * cell_width, width),
                (line_row + 1) * cell_height,
            ),
            confidence=1.0,
            start=match.start(),
            end=match.end(),
        )
        for match, line_row, column in placed
    )
    return Page(
        page=1,
        width=width,
        height=height,
        text=text,
        words=words,
        text_source="text_layer" if words else "blank",
        engine="plain_text",
        engine_version="1",
    )
