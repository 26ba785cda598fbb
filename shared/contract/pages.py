"""Pages as ``services/ocr`` writes them to ``ocr_pages`` and the others read them."""

from typing import Annotated, Literal

from pydantic import Field

from .base import Row

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in page pixels, origin at the top left of the upright page image."""

Confidence = Annotated[float, Field(ge=0.0, le=1.0)]


class Word(Row):
    """One word: ``page.text[start:end] == text``, always."""

    text: str
    box: Box
    confidence: Confidence
    start: int = Field(ge=0)
    end: int = Field(gt=0)
    uncertain: bool = False
    """OCR is not sure of it."""


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
