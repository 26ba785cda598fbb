"""What laboratories write that Tesseract's model hardly knows: "10^9/L" becomes 10*9/L or 1049/L, "HbA1c" HbAlc."""

import re
from collections.abc import Sequence

from .cells import Mark, TableInk, is_hollow
from .page_text import ReadWord

_POWER = re.compile(r"10(?P<sign>[^\s/]?)(?P<power>12|9|6|3)(?=/)")
_ASTERISKS = "*°"
"""What an asterisk is read as; a caret is read as anything but a raised sign."""
_HBA1C = re.compile(r"HbA[1lI|]{1,2}c", re.IGNORECASE)
_SETTLED = 0.92
"""What made the reading unsure is settled; its digits still have to be read alike every time."""


def with_known_names(words: Sequence[ReadWord]) -> list[ReadWord]:
    """HbA1c, however its 1 was read: there is no other word like it."""
    return [
        word._replace(text=_HBA1C.sub("HbA1c", word.text), confidence=max(word.confidence, _SETTLED))
        if _HBA1C.search(word.text)
        else word
        for word in words
    ]


def with_exponents(words: Sequence[ReadWord], ink: TableInk, marks: Sequence[Mark]) -> list[ReadWord]:
    """A power of ten with the sign that the ink shows: a caret is hollow, an asterisk isn't."""
    return [_with_exponent(word, ink, marks) if _POWER.search(word.text) else word for word in words]


def _with_exponent(word: ReadWord, ink: TableInk, marks: Sequence[Mark]) -> ReadWord:
    raised = _raised(marks)
    found = _POWER.search(word.text)
    if found is None or (raised is None and found["sign"] in ("", *_ASTERISKS)):
        return word
    sign = "^" if raised is None or is_hollow(ink, raised) else "*"
    text = _POWER.sub(rf"10{sign}\g<power>", word.text)
    return word._replace(text=text, confidence=max(word.confidence, _SETTLED))


def _raised(marks: Sequence[Mark]) -> Mark | None:
    """The one small piece of ink that stands above the middle of the line."""
    if not marks:
        return None
    top, bottom = min(mark.top for mark in marks), max(mark.bottom for mark in marks)
    height = bottom - top
    small = [
        mark
        for mark in marks
        if mark.bottom < top + 0.7 * height and mark.height < 0.6 * height and mark.right - mark.left > 0.15 * height
    ]
    return small[0] if len(small) == 1 else None
