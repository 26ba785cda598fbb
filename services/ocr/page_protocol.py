"""What the reader and its child say to each other: frames of JSON, each with the image that belongs to it, if any."""

import struct
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from shared.contract.base import Row
from shared.contract.pages import Page

from .limits import ReaderLimits
from .page_text import ReadWord
from .refusal import RefusalCode
from .scan.verdict import Inspect

Renderer = Literal["pypdfium2", "pdf2image"]
Engine = Literal["tesserocr", "pytesseract", "google"]

HEADER = struct.Struct(">II")
"""A frame begins with the bytes of its JSON, and of the image behind it: as base64 it took a page's parent 10 ms."""
MAX_FRAME_BYTES = 32 * 1024 * 1024
"""A dense page of 1 500 words is 0.2 MB. The dearest plain text, 0.5 MiB of one-letter words, is 30 MB."""


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


class _WithImage(Row):
    """``image`` is a JPEG, empty where there is none."""

    image: bytes = Field(b"", exclude=True)


class PageRead(_WithImage):
    """The page that was asked for, and the upright page's image, of the page's width and height."""

    kind: Literal["page"] = "page"
    page: Page


class Recognise(_WithImage):
    """The child asks back: the words on this image, of an engine that only the parent can reach."""

    kind: Literal["recognise"] = "recognise"


class Refused(Row):
    """The document or the page isn't read; nothing more can be asked."""

    kind: Literal["refused"] = "refused"
    code: RefusalCode


Request = Annotated[Inspect | Open | Read | Words, Field(discriminator="kind")]

request_adapter: TypeAdapter[Inspect | Open | Read | Words] = TypeAdapter(Request)


def to_frame(message: Row) -> bytes:
    """The message's JSON in UTF-8 and its image, behind their lengths."""
    body = message.model_dump_json().encode()
    image = message.image if isinstance(message, _WithImage) else b""
    return HEADER.pack(len(body), len(image)) + body + image


def from_frame(adapter: TypeAdapter[Any], body: bytes, image: bytes) -> Any:
    """The message. Raises ``pydantic.ValidationError``."""
    message = adapter.validate_json(body)
    return message.model_copy(update={"image": image}) if isinstance(message, _WithImage) else message
