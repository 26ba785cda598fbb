"""What the reader and its child say to each other: frames of JSON, each behind its length in four bytes, big-endian."""

import struct
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from shared.contract.base import Row
from shared.contract.pages import Page

from .limits import ReaderLimits
from .page_text import ReadWord
from .refusal import RefusalCode
from .scan.verdict import Inspect

Renderer = Literal["pypdfium2", "pdf2image"]
Engine = Literal["tesserocr", "pytesseract", "google"]

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 32 * 1024 * 1024
"""A dense page of 1 500 words is 0.2 MB. The dearest plain text, 0.5 MiB of one-letter words, is 30 MB."""


class _WithBytes(Row):
    """Bytes are base64 in the JSON."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class Open(Row):
    """Opens the document; once, after ``Inspect`` or without it."""

    kind: Literal["open"] = "open"
    path: str
    renderer: Renderer
    engine: Engine
    tesseract_command: str | None
    limits: ReaderLimits


class Read(Row):
    """Asks for one page, counted from 1, and whether its image is wanted."""

    kind: Literal["read"] = "read"
    page: int = Field(ge=1)
    with_image: bool = False


class Words(Row):
    """What the engine that the parent asked has read: the answer to ``Recognise``."""

    kind: Literal["words"] = "words"
    blocks: list[list[list[ReadWord]]]
    engine_version: str


class Opened(Row):
    """How many pages the document has."""

    kind: Literal["opened"] = "opened"
    pages: int = Field(ge=1)


class PageRead(_WithBytes):
    """The page that was asked for. ``image`` is the upright page as a JPEG, of the page's width and height."""

    kind: Literal["page"] = "page"
    page: Page
    image: bytes | None = None


class Recognise(_WithBytes):
    """The child asks back: the words on this image (a JPEG), of an engine that only the parent can reach."""

    kind: Literal["recognise"] = "recognise"
    image: bytes


class Refused(Row):
    """The document or the page isn't read; nothing more can be asked."""

    kind: Literal["refused"] = "refused"
    code: RefusalCode


Request = Annotated[Inspect | Open | Read | Words, Field(discriminator="kind")]

request_adapter: TypeAdapter[Inspect | Open | Read | Words] = TypeAdapter(Request)


def to_frame(message: Row) -> bytes:
    """The message's JSON in UTF-8 behind its length."""
    body = message.model_dump_json().encode()
    return HEADER.pack(len(body)) + body
