"""What a file is and holds, found in the child before anything of it is rendered."""

from collections import Counter
from pathlib import Path

from services.ocr.file_kind import recognise_kind
from services.ocr.limits import ReaderLimits

from .images import count_frames
from .pdf import inspect_pdf
from .policy import FindingKind
from .polyglots import count_other_kinds
from .verdict import Inspected


def inspect(path: Path, limits: ReaderLimits) -> Inspected:
    """Raises ``Refusal``."""
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
