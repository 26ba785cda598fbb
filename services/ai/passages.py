"""Pages cut into passages that a provider can take, where sections begin or at the ends of lines, with an overlap."""

from collections.abc import Sequence

from shared.contract.findings import Finding
from shared.contract.pages import Page

from .local.sections import at, sections
from .wire import Passage

OVERLAP = 200
"""Characters told twice, about two lines: a finding that wraps at a cut is whole in one of the two passages."""
SMALLEST = 400
"""Characters below which a passage is not halved any more: its answer can't honestly be too long."""


def split(page: Page, window: int, role: str = "other") -> list[Passage]:
    """Passages of at most ``window`` characters that cover the page's text; none for a blank page."""
    return _cut(Passage(page=page.page, start=0, text=page.text, role=role), window) if page.text.strip() else []


def halve(passage: Passage) -> list[Passage]:
    """Overlapping passages of half the length that cover one, or none where it is too short to be cut."""
    if len(passage.text) < SMALLEST:
        return []
    return _cut(passage, len(passage.text) // 2 + OVERLAP // 2)


def _cut(passage: Passage, window: int) -> list[Passage]:
    if len(passage.text) <= window:
        return [passage]
    text, pieces, start = passage.text, [], 0
    parts = sections(text, passage.role)
    edges = [part.start for part in parts]
    while True:
        end = min(start + window, len(text))
        if end < len(text):
            end = _edge(text, edges, start + window // 2, end)
        role = at(parts, start).role if start else passage.role
        pieces.append(Passage(page=passage.page, start=passage.start + start, text=text[start:end], role=role))
        if end == len(text):
            return pieces
        overlap = min(OVERLAP, window // 4)
        line = text.find("\n", end - overlap, end - 1)
        start = line + 1 if line >= 0 else end - overlap


def _edge(text: str, edges: Sequence[int], first: int, last: int) -> int:
    """Where the last section between the two begins, else after a line, else after a word, else the end of both."""
    section = max((edge for edge in edges if first < edge <= last), default=None)
    if section is not None:
        return section
    for mark in ("\n", " "):
        found = text.rfind(mark, first, last)
        if found >= 0:
            return found + 1
    return last


class Merger:
    """The findings of overlapping passages, each once.

    Where two passages tell the same words differently, the longer quote stays: what a cut does to one is to shorten it.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self._passages: list[Passage] = []
        self._places: dict[tuple[int, int, int, str], int] = {}

    def add(self, finding: Finding, passage: Passage) -> None:
        source = finding.source
        key = (source.page, source.start, source.end, finding.kind)
        if key in self._places:
            return
        rival = self._rival(finding, passage)
        if rival is None:
            place = len(self.findings)
            self.findings.append(finding)
            self._passages.append(passage)
        elif _length(self.findings[rival]) >= _length(finding):
            return
        else:
            place = rival
            self.findings[place] = finding.model_copy(update={"id": self.findings[place].id})
            self._passages[place] = passage
        self._places[key] = place

    def _rival(self, finding: Finding, passage: Passage) -> int | None:
        """Where another passage told some of the same words, in the lines that both have."""
        if passage.start == 0 or finding.source.start >= passage.start + OVERLAP:
            return None
        for place in range(len(self.findings) - 1, -1, -1):
            other = self.findings[place].source
            if other.page != finding.source.page:
                break
            overlaps = other.start < finding.source.end and finding.source.start < other.end
            if overlaps and self._passages[place] != passage:
                return place
        return None


def _length(finding: Finding) -> int:
    return finding.source.end - finding.source.start
