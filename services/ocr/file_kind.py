"""What a file is, by its content: a name's ending proves nothing."""

from pathlib import Path
from typing import Literal

from .refusal import Refusal

FileKind = Literal["pdf", "jpeg", "png", "tiff", "text"]

_HEAD_BYTES = 1024
"""PDF readers accept the header anywhere in the first 1024 bytes (mail gateways prepend lines), and so do we."""

_MAGIC: tuple[tuple[bytes, FileKind], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
)
_TEXT_CONTROLS = frozenset("\t\n\r\f")


def recognise_kind(path: Path) -> FileKind:
    """The kind of the file. Raises ``Refusal``: ``file_empty``, ``file_type_unknown``."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise Refusal("file_empty")
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if b"%PDF-" in head:
        return "pdf"
    if _is_text(path):
        return "text"
    raise Refusal("file_type_unknown")


def _is_text(path: Path) -> bool:
    """UTF-8 without control characters; the whole file, since an ending in binary is not a text."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return not any(character < " " and character not in _TEXT_CONTROLS for character in set(text))
