"""Bytes that are two kinds of file at once: a picture to one program, and an archive or a page of script to another."""

import mmap
import re
from pathlib import Path

from services.ocr.file_kind import FileKind

_HEAD_BYTES = 1024
_ARCHIVE_TAIL_BYTES = 65_557
"""A ZIP archive is read from its end: a record of 22 bytes and a comment of up to 65,535."""

_AT_THE_START = (
    b"PK\x03\x04",
    b"GIF8",
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"MZ",
    b"\x7fELF",
    b"Rar!",
    b"7z\xbc\xaf",
    b"#!",
    b"RIFF",
)
_SCRIPT = re.compile(rb"<\s*(?:script|html|svg|\?php|!doctype)", re.IGNORECASE)


def count_other_kinds(path: Path, kind: FileKind) -> int:
    """How many kinds besides its own the file could be taken for. A text is a text, whatever it says."""
    if kind == "text":
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        head = content[:_HEAD_BYTES]
        tail = content[-_ARCHIVE_TAIL_BYTES:]
        return sum(
            (
                kind == "pdf" and head.startswith(_AT_THE_START),
                kind != "pdf" and content.find(b"%PDF-") >= 0,
                b"PK\x05\x06" in tail and content.find(b"PK\x01\x02") >= 0,
                bool(_SCRIPT.search(head)),
            )
        )
