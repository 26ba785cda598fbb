"""The child that looks through one file: ``python -m services.ocr.scan.process RESTRICTIONS``."""

import sys
from collections import Counter
from pathlib import Path
from typing import BinaryIO

from services.ocr.confinement import Restrictions, confine, limit_processor_time
from services.ocr.file_kind import recognise_kind
from services.ocr.limits import ReaderLimits
from services.ocr.page_process import replies_only
from services.ocr.page_protocol import HEADER, Refused, to_frame
from services.ocr.refusal import Refusal

from .policy import FindingKind
from .verdict import Inspect, Inspected


def inspect(path: Path, limits: ReaderLimits) -> Inspected:
    """Raises ``Refusal``."""
    # When this process is confined: these are the libraries that parse what people send.

    from .images import count_frames  # noqa: PLC0415
    from .pdf import inspect_pdf  # noqa: PLC0415
    from .polyglots import count_other_kinds  # noqa: PLC0415

    kind = recognise_kind(path)
    findings: Counter[FindingKind] = Counter()
    pages, is_encrypted = 1, False
    if kind == "pdf":
        pages, is_encrypted, found = inspect_pdf(path, limits)
        findings.update(found)
    elif kind != "text":
        pages = count_frames(path, kind, limits)
    if others := count_other_kinds(path, kind):
        findings["polyglot"] = others
    return Inspected(file_kind=kind, pages=pages, is_encrypted=is_encrypted, findings=findings)


def answer(requests: BinaryIO, replies: BinaryIO) -> None:
    (length,) = HEADER.unpack(requests.read(HEADER.size))
    asked = Inspect.model_validate_json(requests.read(length))
    limit_processor_time(asked.limits.scan_seconds)
    try:
        reply = to_frame(inspect(Path(asked.path), asked.limits))
    except Refusal as refusal:
        reply = to_frame(Refused(code=refusal.code))
    except MemoryError:
        reply = to_frame(Refused(code="file_too_complex"))
    replies.write(reply)
    replies.flush()


def main() -> None:
    replies = replies_only()
    confine(Restrictions.model_validate_json(sys.argv[1]))
    answer(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
