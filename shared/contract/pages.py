"""Pages as ``services/ocr`` writes them to ``ocr_pages`` and the others read them."""

import operator
from typing import Annotated, Literal

from pydantic import Field

from .base import Row

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in page pixels, origin at the top left of the upright page image."""

DPI = 300
"""Of a PDF page that is recognised. 150 dpi is 1.7 times faster with the same errors in prose, but reads 67 instead of
84 % of table numbers."""
SHOWN_DPI = 200
"""Of a page whose text layer is read: its image is for people alone, and takes half the time that 300 dpi do."""

Confidence = Annotated[float, Field(ge=0.0, le=1.0)]


class Word(Row):
    """One word: ``page.text[start:end] == text``, always.

    ``uncertain``: it has a digit in it, and may well have been misread. A value that is built on it is for a person.
    """

    text: str
    box: Box
    confidence: Confidence
    start: int = Field(ge=0)
    end: int = Field(gt=0)
    uncertain: bool = Field(default=False, exclude_if=operator.not_)


class Cell(Row):
    """One cell of a table: its text is ``page.text[start:end]``, empty where nothing stands or nothing could be read.

    ``row`` and ``col`` count from 0. ``uncertain``: a number in it may be misread, or something in it was not read.
    """

    text: str
    row: int = Field(ge=0)
    col: int = Field(ge=0)
    box: Box
    confidence: Confidence
    uncertain: bool
    start: int = Field(ge=0)
    end: int = Field(ge=0)


class Table(Row):
    """A ruled table, its cells row by row."""

    box: Box
    cells: tuple[Cell, ...]


Correction = Literal["shading", "noise", "skew", "rotation", "text_layer_rejected"]
"""What was done to a page before it was read. ``text_layer_rejected``: its text is not what the page shows."""


class Page(Row):
    """One page. ``page`` counts from 1; ``width`` and ``height`` are the pixels that the boxes refer to."""

    page: int = Field(ge=1)
    width: int = Field(gt=0)
    height: int = Field(gt=0)
    text: str
    words: tuple[Word, ...]
    text_source: Literal["text_layer", "ocr", "blank"]
    engine: str
    engine_version: str
    tables: tuple[Table, ...] = ()
    corrections: tuple[Correction, ...] = ()
    timings: dict[str, float] = Field(default_factory=dict)
    """Seconds by step: ``extract``, ``sample``, ``render``, ``correct``, ``recognise``, ``tables``."""
