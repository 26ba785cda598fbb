"""Pages cut into passages that a provider can take, at the ends of lines and with an overlap."""

from shared.contract.pages import Page

from .wire import Passage

OVERLAP = 200
"""Characters told twice, about two lines: a finding that wraps at a cut is whole in one of the two passages."""
SMALLEST = 400
"""Characters below which a passage is not halved any more: its answer can't honestly be too long."""


def split(page: Page, window: int, role: str = "other") -> list[Passage]:
    """Passages of at most ``window`` characters that cover the page's text; none for a blank page."""
    return _cut(Passage(page=page.page, start=0, text=page.text, role=role), window) if page.text.strip() else []


def halve(passage: Passage) -> list[Passage]:
    """Two overlapping passages in place of one, or none where it is too short to be cut."""
    if len(passage.text) < SMALLEST:
        return []
    return _cut(passage, len(passage.text) // 2 + OVERLAP // 2)[:2]


def _cut(passage: Passage, window: int) -> list[Passage]:
    text, pieces, start = passage.text, [], 0
    while start < len(text):
        end = min(start + window, len(text))
        if end < len(text):
            # A line's end in the second half of the window, else a space, else wherever the window ends.
            for mark in ("\n", " "):
                edge = text.rfind(mark, start + window // 2, end)
                if edge >= 0:
                    end = edge + 1
                    break
        role = "other" if start else passage.role
        pieces.append(Passage(page=passage.page, start=passage.start + start, text=text[start:end], role=role))
        if end == len(text):
            break
        overlap = min(OVERLAP, window // 4)
        line = text.find("\n", end - overlap, end - 1)
        start = line + 1 if line >= 0 else end - overlap
    return pieces
