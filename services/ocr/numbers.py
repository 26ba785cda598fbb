"""How sure a number is: by several readings of it, by its ink, and by its shape."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from .cells import Mark
from .page_text import ReadWord

_NUMBER = re.compile(r"[<>=≤≥~±+\-(\[]*\d+(?:[.,:/]\d+)*(?:[-–—]\d+(?:[.,]\d+)*)?[)\]%*]*")
"""A value, a range without spaces, a date, a time; and what a laboratory prints around it."""

_UNIT = re.compile(r"x?10[*^](12|9|6|3)/[A-Za-z]+|HbA1c")

_SURE_ONCE = 0.94
"""Confidence from which a number that was read once is taken for certain: 3.5 was read as 3.2 with 0.91."""
_SURE_IN_PROSE = 0.88
"""The same where the words around it make it likelier."""
_SURE_ALL = 0.8
"""The same where all readings agree, of the surest: ranges and what has a sign before it are seldom surer than 0.9."""
_SURE_MOST = 0.88
"""The same where one doesn't, of the least sure of those that do."""
_SURE_LETTERS = 0.85
"""Confidence from which letters alone are taken for what they are."""

_PIECES = {"=": 2, ":": 2, ";": 2, "%": 3, "i": 2, "j": 2, "±": 2, "≤": 2, "≥": 2, "!": 2, "?": 2, "÷": 3}
"""Pieces of ink of a character; of all others one."""

_LETTER_IN_RANGE = re.compile(r"(?:^|[\s(\[<>])[OolISZ|]\s*[-–—=~]\s*\d|\d\s*[-–—=~]\s*[OolISZ|](?:$|[\s)\]])")

_DASHES = re.compile("[-–—−‐~]+")
_RANGE = re.compile(r"[(\[]?\d+(?:[.,]\d+)*(\s?)[-–—](\s?)\d+(?:[.,]\d+)*[)\]]?")
_MOST = 0.8
_ENOUGH = 4
"""Of a column's ranges, and so many, that are spaced alike: then all of them were."""


class Verdict(NamedTuple):
    """What a line of a cell says, and whether a number in it may be another."""

    words: tuple[ReadWord, ...]
    is_uncertain: bool


def has_digit(text: str) -> bool:
    return any(character.isdigit() for character in text)


def is_doubtful(word: ReadWord) -> bool:
    """Whether a word of prose, which is read once, is a number that may well be another."""
    return has_digit(word.text) and (word.confidence < _SURE_IN_PROSE or _is_mixed_up(word.text))


def oddly_spaced(texts: Sequence[str]) -> set[int]:
    """Places of the ranges that are not spaced as the others of their column: a space was lost or made up."""
    styles = {place: found.groups() for place, text in enumerate(texts) if (found := _RANGE.fullmatch(text))}
    if len(styles) < _ENOUGH:
        return set()
    usual, count = Counter(styles.values()).most_common(1)[0]
    return {place for place, style in styles.items() if style != usual} if count >= _MOST * len(styles) else set()


def agree(one: Sequence[ReadWord], other: Sequence[ReadWord]) -> bool:
    """Whether two readings say the same: dashes and spaces are the printer's."""
    return _bare(one) == _bare(other)


def is_settled(words: Sequence[ReadWord], marks: Sequence[Mark], *, is_numeric: bool) -> bool:
    """Whether a cell's line need not be read again. ``is_numeric``: most cells of its column are numbers."""
    if any(has_digit(word.text) for word in words):
        return _lowest(words) >= _SURE_ONCE and _fits_ink(words, marks) and is_number(words)
    return _lowest(words) >= _SURE_LETTERS and not (is_numeric and len(marks) < 3)


def settle(readings: Sequence[Sequence[ReadWord]], marks: Sequence[Mark], *, is_numeric: bool) -> Verdict:
    """The one of several readings of a cell's line that most agree with, that its ink allows, and that is surest."""

    def rank(words: Sequence[ReadWord]) -> tuple[float, ...]:
        supporters = [_lowest(other) for other in readings if agree(words, other)]
        return (sum(supporters) + _fits_ink(words, marks) / 2 + (is_number(words) and is_numeric) / 2, _lowest(words))

    chosen = max(readings, key=rank)
    together = [_lowest(other) for other in readings if agree(chosen, other)]
    if not any(has_digit(word.text) for word in chosen):
        # Where numbers are expected, a word has to be sure that it is one; elsewhere it is nobody's number.
        is_word = len("".join(word.text for word in chosen)) >= 3 and max(together) >= _SURE_LETTERS
        digits_elsewhere = any(has_digit(word.text) for other in readings for word in other)
        return Verdict(tuple(chosen), not chosen or (is_numeric and not is_word) or (digits_elsewhere and not is_word))
    if len(readings) == 1:
        is_sure = together[0] >= _SURE_ONCE
    else:
        is_sure = (len(together) == len(readings) and max(together) >= _SURE_ALL) or (
            len(together) > 1 and min(together) >= _SURE_MOST
        )
    is_mixed_up = any(_is_mixed_up(word.text) for word in chosen) or _lacks_part(chosen)
    return Verdict(tuple(chosen), is_mixed_up or not is_sure or not _fits_ink(chosen, marks))


def _fits_ink(words: Sequence[ReadWord], marks: Sequence[Mark]) -> bool:
    """Whether there are as many characters as pieces of ink: a lost point or an invented digit shows.

    Of characters that touch, which make one wide piece, as many may be missing as there is room for.
    """
    expected = sum(_PIECES.get(character, 1) for word in words for character in word.text)
    if not marks or expected == len(marks):
        return bool(marks)
    tallest = max(mark.height for mark in marks)
    widths = [mark.right - mark.left for mark in marks]
    room = sum(round(width / (0.72 * tallest)) - 1 for width in widths if width > 0.8 * tallest)
    return len(marks) < expected <= len(marks) + room


def is_number(words: Sequence[ReadWord]) -> bool:
    """Whether each word that has a digit has the shape of a number or of a unit, and one has."""
    numbers = [word.text for word in words if has_digit(word.text)]
    return bool(numbers) and all(_NUMBER.fullmatch(n) or _UNIT.fullmatch(n) for n in numbers)


def _is_mixed_up(text: str) -> bool:
    """Whether letters that are mistaken for digits stand among digits: "l0", "O.5", "1O0"."""
    return bool(re.search(r"\d[OolIS|]+\d|\b[OlI|]+[.,]?\d+\b(?!/)|\d[.,][OolIS|]", text))


def _lacks_part(words: Sequence[ReadWord]) -> bool:
    """Whether a bracket has no other, as in "4.9]" for 4.91, or a range begins or ends with a letter: "O - 14"."""
    text = " ".join(word.text for word in words)
    unequal = any(text.count(opening) != text.count(closing) for opening, closing in ("()", "[]"))
    return unequal or bool(_LETTER_IN_RANGE.search(text))


def _lowest(words: Sequence[ReadWord]) -> float:
    """Of the words with digits, if any has: a dash alone is never sure, and needn't be."""
    numbers = [word.confidence for word in words if has_digit(word.text)]
    return min(numbers or [word.confidence for word in words], default=0.0)


def _bare(words: Sequence[ReadWord]) -> str:
    return _DASHES.sub("-", "".join(word.text for word in words))
