"""What the reader and its child say to each other: frames of JSON, each behind its length in four bytes, big-endian."""

import struct
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from shared.contract.base import Row
from shared.contract.pages import Page

from .limits import ReaderLimits
from .refusal import RefusalCode

Renderer = Literal["pypdfium2", "pdf2image"]
Engine = Literal["tesserocr", "pytesseract"]

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 32 * 1024 * 1024
"""A dense page of 1 500 words is 0.2 MB. The dearest plain text, 0.5 MiB of one-letter words, is 30 MB."""


class Open(Row):
    """Opens the document; the first request, once."""

    kind: Literal["open"] = "open"
    path: str
    renderer: Renderer
    engine: Engine
    tesseract_command: str | None
    limits: ReaderLimits


class Read(Row):
    """Asks for one page, counted from 1."""

    kind: Literal["read"] = "read"
    page: int = Field(ge=1)


class Opened(Row):
    """How many pages the document has."""

    kind: Literal["opened"] = "opened"
    pages: int = Field(ge=1)


class PageRead(Row):
    """The page that was asked for."""

    kind: Literal["page"] = "page"
    page: Page


class Refused(Row):
    """The document or the page isn't read; nothing more can be asked."""

    kind: Literal["refused"] = "refused"
    code: RefusalCode


Request = Annotated[Open | Read, Field(discriminator="kind")]
Reply = Annotated[Opened | PageRead | Refused, Field(discriminator="kind")]

request_adapter: TypeAdapter[Open | Read] = TypeAdapter(Request)
reply_adapter: TypeAdapter[Opened | PageRead | Refused] = TypeAdapter(Reply)


def to_frame(message: Row) -> bytes:
    """The message's JSON in UTF-8 behind its length."""
    body = message.model_dump_json().encode()
    return HEADER.pack(len(body)) + body
