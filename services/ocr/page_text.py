"""One page's text, built from its words, so that every word can be found again by its offsets."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pydantic import TypeAdapter

from shared.contract.pages import Box, Cell, Table, Word

_WORDS: TypeAdapter[tuple[Word, ...]] = TypeAdapter(tuple[Word, ...])


class ReadWord(NamedTuple):
    """A word as read: no white space inside; ``box`` in page pixels, ``confidence`` from 0 to 1."""

    text: str
    box: Box
    confidence: float
    uncertain: bool = False


Line = Sequence[ReadWord]
Block = Sequence[Line]


class ReadCell(NamedTuple):
    """A cell as read. No words and ``uncertain``: something stands there that could not be read."""

    row: int
    col: int
    box: Box
    words: tuple[ReadWord, ...]
    confidence: float
    uncertain: bool


class ReadTable(NamedTuple):
    """A table's cells, row by row; boxes in pixels of the page."""

    box: Box
    cells: tuple[ReadCell, ...]

    @property
    def lines(self) -> list[list[ReadWord]]:
        """The words of each row, in the cells' order."""
        rows: dict[int, list[ReadWord]] = {}
        for cell in self.cells:
            rows.setdefault(cell.row, []).extend(cell.words)
        return [words for words in rows.values() if words]


class PageText(NamedTuple):
    """What ``Page`` holds: its text, and the words and tables whose offsets lead into it."""

    text: str
    words: tuple[Word, ...]
    tables: tuple[Table, ...]


def build_page_text(blocks: Iterable[Block | ReadTable], width: int, height: int) -> PageText:
    """The text of a page of ``width`` x ``height`` pixels, from its blocks and tables in reading order.

    Words are joined by a space, lines and a table's rows by a newline, blocks by an empty line; boxes are cut at the
    page's edge. ``text[word.start:word.end] == word.text`` for every word, and for every cell.
    """
    parts: list[str] = []
    tables: list[tuple[int, ReadTable]] = []
    words: list[dict[str, object]] = []
    length = 0
    separator = ""
    # Comparing a float with an integer takes twice as long.
    right, bottom = float(width), float(height)
    for block in blocks:
        if isinstance(block, ReadTable):
            tables.append((len(words), block))
            block = block.lines  # noqa: PLW2901 - a table's text is its rows'
        for line in block:
            if line:
                parts += (separator, " ".join([word[0] for word in line]))
            gap = len(separator)
            for text, box, confidence, uncertain in line:
                x0, y0, x1, y1 = box
                if not (0.0 <= x0 <= x1 <= right and 0.0 <= y0 <= y1 <= bottom):
                    box = _inside(box, width, height)  # noqa: PLW2901
                start = length + gap
                length = start + len(text)
                words.append(
                    {
                        "text": text,
                        "box": box,
                        "confidence": confidence,
                        "start": start,
                        "end": length,
                        "uncertain": uncertain,
                    }
                )
                gap = 1
            if words:
                separator = "\n"
        if words:
            separator = "\n\n"
    # All at once: one by one, half the time of a digital page was spent here.
    text = "".join(parts)
    # Made above of a Word's fields and no others: looking for them took a fifth of its time.
    placed = _WORDS.validate_python(words, extra="ignore")
    size = (width, height)
    return PageText(text, placed, tuple(_table(table, text, placed[first:], size) for first, table in tables))


def _table(table: ReadTable, text: str, words: Sequence[Word], size: tuple[int, int]) -> Table:
    """``words`` are the page's, from the table's first on."""
    cells = []
    first = 0
    end = words[0].start if words else len(text)
    for cell in table.cells:
        own = words[first : first + len(cell.words)]
        first += len(own)
        start, end = (own[0].start, own[-1].end) if own else (end, end)
        cells.append(
            Cell(
                text=text[start:end],
                row=cell.row,
                col=cell.col,
                box=_inside(cell.box, *size),
                confidence=cell.confidence,
                uncertain=cell.uncertain,
                start=start,
                end=end,
            )
        )
    return Table(box=_inside(table.box, *size), cells=tuple(cells))


def _inside(box: Box, width: int, height: int) -> Box:
    x0, y0, x1, y1 = box
    if 0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height:
        return box
    left, right = sorted((min(max(x0, 0.0), width), min(max(x1, 0.0), width)))
    top, bottom = sorted((min(max(y0, 0.0), height), min(max(y1, 0.0), height)))
    return (float(left), float(top), float(right), float(bottom))
