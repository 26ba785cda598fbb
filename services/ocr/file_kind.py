"""What a file is, by its content: a name's ending proves nothing."""

from pathlib import Path
from typing import Literal

from .refusal import Refusal

ImageKind = Literal["jpeg", "png", "tiff", "webp", "heic"]
FileKind = Literal["pdf", "text"] | ImageKind

PILLOW_FORMATS: dict[ImageKind, str] = {
    "jpeg": "JPEG",
    "png": "PNG",
    "tiff": "TIFF",
    "webp": "WEBP",
    "heic": "HEIF",
}
"""What each is opened as; an explicit format keeps Pillow's forty other parsers away from hostile bytes."""

_HEAD_BYTES = 1024
"""PDF readers accept the header anywhere in the first 1024 bytes (mail gateways prepend lines), and so do we."""

_MAGIC: tuple[tuple[int, bytes, FileKind], ...] = (
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"II*\x00", "tiff"),
    (0, b"MM\x00*", "tiff"),
    (8, b"WEBP", "webp"),
    *((4, b"ftyp" + brand, "heic") for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")),
)
_TEXT_CONTROLS = frozenset("\t\n\r\f")

_EXTENSIONS: dict[FileKind, frozenset[str]] = {
    "pdf": frozenset({"pdf"}),
    "jpeg": frozenset({"jpg", "jpeg", "jpe", "jfif"}),
    "png": frozenset({"png"}),
    "tiff": frozenset({"tif", "tiff"}),
    "webp": frozenset({"webp"}),
    "heic": frozenset({"heic", "heif", "hif"}),
    "text": frozenset({"txt", "text", "md", "csv", "log", "asc"}),
}
_MIME_TYPES: dict[FileKind, frozenset[str]] = {
    "pdf": frozenset({"application/pdf", "application/x-pdf"}),
    "jpeg": frozenset({"image/jpeg", "image/jpg", "image/pjpeg"}),
    "png": frozenset({"image/png", "image/x-png"}),
    "tiff": frozenset({"image/tiff", "image/x-tiff"}),
    "webp": frozenset({"image/webp"}),
    "heic": frozenset({"image/heic", "image/heif", "image/heic-sequence", "image/heif-sequence"}),
    "text": frozenset({"text/plain", "text/markdown", "text/csv"}),
}
_SAYS_NOTHING = frozenset({"application/octet-stream", "binary/octet-stream"})
"""What clients send that don't know."""


def recognise_kind(path: Path) -> FileKind:
    """The kind of the file. Raises ``Refusal``: ``file_empty``, ``file_type_unknown``."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise Refusal("file_empty")
    for offset, magic, kind in _MAGIC:
        if head.startswith(magic, offset):
            return kind
    if b"%PDF-" in head:
        return "pdf"
    if _is_text(path):
        return "text"
    raise Refusal("file_type_unknown")


def agrees(kind: FileKind, extension: str | None, mime_type: str | None) -> bool:
    """Whether a name's ending and a MIME type, where there are any, are those of the kind."""
    bare_type = (mime_type or "").split(";")[0].strip().lower()
    return (not extension or extension.lower() in _EXTENSIONS[kind]) and (
        not bare_type or bare_type in _SAYS_NOTHING or bare_type in _MIME_TYPES[kind]
    )


def register_formats() -> None:
    """Teaches Pillow HEIC, of which it knows nothing itself."""
    import pi_heif  # noqa: PLC0415 - for images only

    # No thumbnails, depth maps and the rest, and no thread beside the one that reads.
    pi_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)


def _is_text(path: Path) -> bool:
    """UTF-8 without control characters; the whole file, since an ending in binary is not a text."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return not any(character < " " and character not in _TEXT_CONTROLS for character in set(text))
