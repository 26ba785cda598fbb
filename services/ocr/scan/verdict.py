"""What was found and what was decided, as the child, the scanner and ``scan_verdicts`` say it."""

from typing import Annotated, Literal

from pydantic import Field

from services.ocr.file_kind import FileKind
from services.ocr.limits import ReaderLimits
from services.ocr.refusal import RefusalCode
from shared.contract.base import Row

from .policy import Action, FindingKind

Count = Annotated[int, Field(ge=1)]


class Inspect(Row):
    """Asks the child to look through a file."""

    kind: Literal["inspect"] = "inspect"
    path: str
    limits: ReaderLimits


class Inspected(Row):
    """What the child found. ``pages`` is what the file says of itself."""

    kind: Literal["inspected"] = "inspected"
    file_kind: FileKind
    pages: int = Field(ge=1)
    is_encrypted: bool
    findings: dict[FindingKind, Count]


class AntivirusResult(Row):
    """``not_scanned``: none is configured. ``unavailable``: one is, and it gave no answer on this file."""

    status: Literal["clean", "infected", "not_scanned", "unavailable"]
    signature: str | None = None
    """The scanner's name for what it found: nothing of the file's."""
    engine: str | None = None


class Finding(Row):
    kind: FindingKind
    count: Count
    action: Action


class Verdict(Row):
    """One file, in one run. ``reason`` says why it is refused or in quarantine; codes of ``refusal``."""

    decision: Literal["allow", "flag", "quarantine", "refuse"]
    reason: RefusalCode | None
    file_kind: FileKind | None
    """None where it could not be told."""
    pages: int | None
    is_encrypted: bool
    findings: tuple[Finding, ...]
    antivirus: AntivirusResult
