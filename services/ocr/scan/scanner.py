"""The scan of one file, from the parent's side: the antivirus' word, the child's findings, the policy's decision."""

from pathlib import Path
from typing import NamedTuple

from services.ocr.antivirus import Antivirus
from services.ocr.child import ChildKilledError, confined_child
from services.ocr.file_kind import agrees
from services.ocr.limits import ReaderLimits
from services.ocr.refusal import Refusal, as_error
from services.ocr.sandbox import Sandbox
from shared.errors import TerminalError

from .policy import IN_WORDS, SEVERITY, Policy
from .verdict import AntivirusResult, Finding, Inspect, Inspected, Verdict


class Announced(NamedTuple):
    """What the upload says that the file is: its name's ending, without the dot, and its MIME type."""

    extension: str | None
    mime_type: str | None


class Scanner:
    """Scans files, each in a child of its own; keeps nothing between them and may be shared by tasks."""

    def __init__(self, *, sandbox: Sandbox, limits: ReaderLimits, policy: Policy, antivirus: Antivirus | None) -> None:
        self._sandbox = sandbox
        self._limits = limits
        self._policy = policy
        self._antivirus = antivirus

    async def scan(self, path: Path, announced: Announced) -> Verdict:
        """The verdict on a file, also on one that can't be read. Nothing of it is rendered.

        Raises ``BusyError`` where an antivirus is required and gives no answer.
        """
        antivirus = await self._antivirus.scan(path) if self._antivirus else AntivirusResult(status="not_scanned")
        try:
            inspected = await self._inspect(path)
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

    async def _inspect(self, path: Path) -> Inspected:
        size = path.stat().st_size
        if size == 0:
            raise Refusal("file_empty")
        if size > self._limits.max_bytes:
            raise Refusal("file_too_large")
        for _ in range(2):
            try:
                async with confined_child(
                    self._sandbox,
                    "services.ocr.scan.process",
                    path,
                    memory_bytes=self._limits.memory_bytes,
                    timed_out="file_too_complex",
                    died="file_too_complex",
                ) as child:
                    question = Inspect(path=str(path.absolute()), limits=self._limits)
                    return await child.ask(question, Inspected, seconds=self._limits.scan_seconds)
            except ChildKilledError:
                continue
        raise Refusal("file_too_complex")

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
