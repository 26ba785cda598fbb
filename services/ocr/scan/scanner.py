"""The scan of one file, from the parent's side: the antivirus' word, the child's findings, the policy's decision."""

from pathlib import Path
from typing import NamedTuple, Protocol

from services.ocr.antivirus import Antivirus
from services.ocr.file_kind import agrees
from services.ocr.refusal import Refusal, as_error
from shared.errors import TerminalError

from .policy import IN_WORDS, SEVERITY, Policy
from .verdict import AntivirusResult, Finding, Inspected, Verdict


class Announced(NamedTuple):
    """What the upload says that the file is: its name's ending, without the dot, and its MIME type."""

    extension: str | None
    mime_type: str | None


class Inspectable(Protocol):
    """A file, and a child that looks through it."""

    path: Path

    async def inspect(self) -> Inspected:
        """Raises ``Refusal``."""


class Scanner:
    """Keeps nothing between files and may be shared by tasks."""

    def __init__(self, *, policy: Policy, antivirus: Antivirus | None) -> None:
        self._policy = policy
        self._antivirus = antivirus

    async def scan(self, document: Inspectable, announced: Announced) -> Verdict:
        """The verdict on a file, also on one that can't be read. Nothing of it is rendered.

        Raises ``BusyError`` where an antivirus is required and gives no answer.
        """
        antivirus = (
            await self._antivirus.scan(document.path) if self._antivirus else AntivirusResult(status="not_scanned")
        )
        try:
            inspected = await document.inspect()
        except Refusal as refusal:
            # What could not be looked through is at least known to be infected.
            is_infected = antivirus.status == "infected"
            return Verdict(
                decision="quarantine" if is_infected else "refuse",
                reason="file_infected" if is_infected else refusal.code,
                file_kind=None,
                pages=None,
                is_encrypted=refusal.code == "file_encrypted",
                findings=(),
                antivirus=antivirus,
            )
        return self._decide(inspected, announced, antivirus)

    def _decide(self, inspected: Inspected, announced: Announced, antivirus: AntivirusResult) -> Verdict:
        counts = dict(inspected.findings)
        if not agrees(inspected.file_kind, announced.extension, announced.mime_type):
            counts["type_mismatch"] = 1
        findings = tuple(Finding(kind=kind, count=count, action=self._policy[kind]) for kind, count in counts.items())
        decision = max((finding.action for finding in findings), key=SEVERITY.__getitem__, default="allow")
        is_infected = antivirus.status == "infected"
        return Verdict(
            decision="quarantine" if is_infected else decision,
            reason="file_infected" if is_infected else "file_has_active_content" if decision == "quarantine" else None,
            file_kind=inspected.file_kind,
            pages=inspected.pages,
            is_encrypted=inspected.is_encrypted,
            findings=findings,
            antivirus=antivirus,
        )


def objection(verdict: Verdict) -> TerminalError | None:
    """What ends a document that is not to be read; None where it may be."""
    if verdict.reason is None:
        return None
    held = (IN_WORDS[finding.kind] for finding in verdict.findings if finding.action == "quarantine")
    return as_error(verdict.reason, *held)
