"""The gate between a claim and a fact: a quote is found on the page, or it is no finding.

Three steps, each only if the one before failed: the exact words; the words with layout and OCR noise folded away; at
most one edit in a long word. What is returned is always the page's own stretch, so what is stored is what is printed.

Each step is linear in the text: ``Ground.steps`` counts what was looked at, and a test holds it to that.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from shared.contract.findings import Alignment, Source, folded
from shared.contract.pages import Box, Page, Word

_WORD = re.compile(r"\w+")
_HYPHENS = "-‐‑‒–—−"
_TYPOGRAPHY = {**dict.fromkeys(_HYPHENS, "-"), "’": "'", "‘": "'", "“": '"', "”": '"', "µ": "u", "μ": "u"}
# No two digits share a class: a number can never be taken for another number.
_CONFUSIONS = str.maketrans({"0": "o", "1": "l", "i": "l", "|": "l", "!": "l", "5": "s", "8": "b"})
_CONFUSIONS_FROM = 4
"""Characters. In a shorter quote one confusion is a quarter of it: "8" would be found in every "B"."""
_FUZZY_WORD_FROM = 6
"""Characters. One edit in a shorter word makes another word (ileum, ilium; male, mole)."""
_TEXTS_KEPT = 16
_UNBOUNDED_FROM = 4
"""Characters of a quote that may begin or end inside a word ("hypertens"); shorter ones match everywhere."""
_APART = " \n\t()[]:;"
"""What stands between words, and in none; the empty string before a text and behind it is in it, too."""


class Match(NamedTuple):
    """Where a quote stands: offsets in the searched text."""

    start: int
    end: int
    alignment: Alignment


@dataclass(frozen=True, slots=True)
class _Folded:
    text: str
    starts: list[int]
    ends: list[int]


def _fold(text: str, *, confusions: bool) -> _Folded:
    """Fold case, ligatures, white space and hyphenation, with the way back to the offsets of ``text``."""
    out: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    position, length = 0, len(text)
    while position < length:
        character, after = text[position], position + 1
        if character == "\u00ad":
            position = after
            continue
        if character.isspace():
            while after < length and text[after].isspace():
                after += 1
            if out and out[-1] != " ":
                out.append(" ")
                starts.append(position)
                ends.append(after)
            position = after
            continue
        if character in _HYPHENS and position and text[position - 1].isalpha():
            while after < length and text[after].isspace():
                after += 1
            if after < length and text[after].isalpha():
                position = after
                continue
            after = position + 1
        for plain in _TYPOGRAPHY.get(character) or unicodedata.normalize("NFKC", character).lower():
            folded = plain.translate(_CONFUSIONS) if confusions else plain
            if confusions and folded == "n" and out and out[-1] == "r":
                out[-1], ends[-1] = "m", after
                continue
            out.append(folded)
            starts.append(position)
            ends.append(after)
        position = after
    return _Folded("".join(out), starts, ends)


def _bounded(text: str, start: int, end: int) -> bool:
    """Whether [start, end) cuts no word in two. "5mg" is two words, a number and its unit; "B12" is one."""
    return not (_inside_word(text, start) or _inside_word(text, end))


def _inside_word(text: str, position: int) -> bool:
    if position in (0, len(text)):
        return False
    left, right = text[position - 1], text[position]
    return left.isalnum() and right.isalnum() and not (left.isdigit() and right.isalpha())


def _inside_number(text: str, position: int) -> bool:
    """Whether a number goes on on both sides: "5" is neither in "2.5" nor in "1500"."""
    if not 0 < position < len(text):
        return False
    left, right = text[position - 1], text[position]
    if right.isdigit():
        return left.isdigit() or (left in ".," and text[max(position - 2, 0)].isdigit())
    return left.isdigit() and right in ".," and text[position + 1 : position + 2].isdigit()


def spans(text: str, quote: str) -> list[tuple[int, int]]:
    """Every place of ``quote`` in ``text``, whole words first choice, never a part of a number; linear in the text."""
    return _chosen(text, list(_places(text, quote)), len(quote))


def _places(text: str, quote: str) -> Iterator[tuple[int, int]]:
    at = text.find(quote)
    while at >= 0 and quote:
        yield at, at + len(quote)
        at = text.find(quote, at + 1)


def _chosen(text: str, found: list[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    if all(text[start - 1 : start] in _APART and text[end : end + 1] in _APART for start, end in found):
        return found  # most stand between spaces
    found = [span for span in found if not (_inside_number(text, span[0]) or _inside_number(text, span[1]))]
    whole = [span for span in found if _bounded(text, *span)]
    return whole or (found if length >= _UNBOUNDED_FROM else [])


class Places:
    """Where quotes stand in a text, each looked for once: a table says "mmol/L" a hundred times."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._spans: dict[str, list[tuple[int, int]]] = {}

    def of(self, quote: str) -> list[tuple[int, int]]:
        """The places of a quote, in order."""
        if quote not in self._spans:
            self._spans[quote] = spans(self._text, quote)
        return self._spans[quote]

    def occurrence(self, start: int, end: int) -> int:
        """Which occurrence (from 1) of its own words the stretch [start, end) is."""
        return 1 + bisect_left(self.of(self._text[start:end]), (start, 0))


@lru_cache(maxsize=_TEXTS_KEPT)
def places(text: str) -> Places:
    """Who answers on this machine looks for the same quotes as the gate behind."""
    return Places(text)


class Ordinals:
    """Which of the places of its own words on a page a stretch is, whatever else was found there."""

    def __init__(self, text: str) -> None:
        self._text = folded(text)
        self._starts: dict[str, list[int]] = {}

    def of(self, source: Source) -> int:
        """From 1."""
        words = folded(source.quote)
        if words not in self._starts:
            starts = self._starts[words] = []
            at = self._text.find(words)
            while at >= 0:
                starts.append(at)
                at = self._text.find(words, at + 1)
        return 1 + bisect_left(self._starts[words], source.start)


def _one_edit(left: str, right: str) -> bool:
    """Whether two words differ by at most one inserted, lost or changed character."""
    if abs(len(left) - len(right)) > 1:
        return False
    same = 0
    while same < min(len(left), len(right)) and left[same] == right[same]:
        same += 1
    return left[same + 1 :] == right[same + 1 :] or left[same + 1 :] == right[same:] or left[same:] == right[same + 1 :]


def _alike(left: str, right: str) -> bool:
    if left == right:
        return True
    if min(len(left), len(right)) < _FUZZY_WORD_FROM or re.sub(r"\D", "", left) != re.sub(r"\D", "", right):
        return False
    return _one_edit(left, right)


class Ground:
    """A text that quotes are looked for in. Foldings and index are made once, by the first quote that needs them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.steps = 0
        """Characters and words looked at so far: what a search costs, on any machine."""
        self._found: dict[str, list[Match]] = {}

    @cached_property
    def _plain(self) -> _Folded:
        self.steps += len(self.text)
        return _fold(self.text, confusions=False)

    @cached_property
    def _confused(self) -> _Folded:
        self.steps += len(self.text)
        return _fold(self.text, confusions=True)

    @cached_property
    def _words(self) -> list[tuple[str, int, int]]:
        plain = self._plain
        self.steps += len(plain.text)
        return [
            (match.group(), plain.starts[match.start()], plain.ends[match.end() - 1])
            for match in _WORD.finditer(plain.text)
        ]

    @cached_property
    def _numbers_of(self) -> dict[str, list[int]]:
        """Where each word stands, by its number in the text."""
        numbers: dict[str, list[int]] = {}
        for number, (word, _, _) in enumerate(self._words):
            numbers.setdefault(word, []).append(number)
        self.steps += len(self._words)
        return numbers

    def find(self, quote: str, *, occurrence: int | None = 1, near: int | None = None) -> Match | None:
        """The ``occurrence``-th place of ``quote`` (the last, if there are fewer), or the one nearest to ``near``."""
        quote = quote.strip()
        if quote not in self._found:
            if not any(character.isalnum() or character in "+-%" for character in quote):
                return None
            self._found[quote] = self._exact(quote) or self._normalised(quote) or self._fuzzy(quote)
        places = self._found[quote]
        if not places:
            return None
        if occurrence is None:
            anchor = near or 0
            return min(places, key=lambda place: abs(place.start - anchor))
        return places[min(max(occurrence, 1), len(places)) - 1]

    def _exact(self, quote: str) -> list[Match]:
        found = places(self.text).of(quote)
        self.steps += len(self.text) + len(found) * len(quote)
        return [Match(start, end, "exact") for start, end in found]

    def _scan(self, text: str, quote: str) -> list[tuple[int, int]]:
        found = list(_places(text, quote))
        self.steps += len(text) + len(found) * len(quote)
        return found

    def _normalised(self, quote: str) -> list[Match]:
        for confusions in (False, True):
            # A quote may end in the first half of a hyphenated word; the page's own fold has no hyphen there.
            needle = _fold(quote, confusions=confusions).text.strip().rstrip("-")
            if not needle or (confusions and len(needle) < _CONFUSIONS_FROM):
                continue
            folded = self._confused if confusions else self._plain
            # What cuts a word or a number is seen in the text itself: folded, "10.5" is "lo.s".
            found = [(folded.starts[start], folded.ends[end - 1]) for start, end in self._scan(folded.text, needle)]
            if places := _chosen(self.text, found, len(needle)):
                return [Match(start, end, "normalised") for start, end in places]
        return []

    def _fuzzy(self, quote: str) -> list[Match]:
        """Same number of words, all the same but a third of them (at least one), these within one edit."""
        needle = _WORD.findall(_fold(quote, confusions=False).text)
        if not needle:
            return []
        may_differ = max(1, len(needle) // 3)
        words = self._words
        places = []
        for first in self._candidates(needle, may_differ):
            differing = 0
            for offset, wanted in enumerate(needle):
                self.steps += 1
                word = words[first + offset][0]
                if word == wanted:
                    continue
                differing += 1
                if differing > may_differ or not _alike(word, wanted):
                    break
            else:
                start, end = words[first][1], words[first + len(needle) - 1][2]
                if not (_inside_number(self.text, start) or _inside_number(self.text, end)):
                    places.append(Match(start, end, "fuzzy"))
        return places

    def _candidates(self, needle: Sequence[str], may_differ: int) -> list[int]:
        """First words of stretches that may be the quote: of any ``may_differ`` + 1 of its words, one is as printed."""
        numbers = self._numbers_of
        last = len(self._words) - len(needle)
        if len(needle) <= may_differ:
            self.steps += len(numbers)
            near = [word for word in numbers if abs(len(word) - len(needle[0])) <= 1]
            return sorted(number for word in near for number in numbers[word] if number <= last)
        rarest = sorted(range(len(needle)), key=lambda offset: len(numbers.get(needle[offset], ())))[: may_differ + 1]
        firsts = {number - offset for offset in rarest for number in numbers.get(needle[offset], ())}
        self.steps += len(firsts)
        return sorted(first for first in firsts if 0 <= first <= last)


def _same_line(page: Page, left: Word, right: Word) -> bool:
    if "\n" in page.text[left.end : right.start]:
        return False
    shared = min(left.box[3], right.box[3]) - max(left.box[1], right.box[1])
    lower = min(left.box[3] - left.box[1], right.box[3] - right.box[1])
    # Half the lower word's height: below that it is the next line of a layer without line breaks, not a superscript.
    return shared >= 0.5 * lower and right.box[0] >= left.box[0]


def boxes(page: Page, start: int, end: int) -> tuple[Box, ...]:
    """One box for each line of [start, end), covering all words that overlap it, in page pixels."""
    lines: list[list[Word]] = []
    for word in _words_of(page, start, end):
        if lines and _same_line(page, lines[-1][-1], word):
            lines[-1].append(word)
        else:
            lines.append([word])
    return tuple(_around(line) for line in lines)


def is_uncertain(page: Page, source: Source) -> bool:
    """Whether OCR was not sure of one of the words."""
    return any(word.uncertain for word in _words_of(page, source.start, source.end))


def _words_of(page: Page, start: int, end: int) -> Iterator[Word]:
    """The words that overlap [start, end); a page's words stand in the order of its text."""
    for number in range(bisect_right(page.words, start, key=lambda word: word.end), len(page.words)):
        word = page.words[number]
        if word.start >= end:
            return
        yield word


def _around(words: Sequence[Word]) -> Box:
    return (
        min(word.box[0] for word in words),
        min(word.box[1] for word in words),
        max(word.box[2] for word in words),
        max(word.box[3] for word in words),
    )


def source(page: Page, start: int, end: int) -> Source:
    """The stretch [start, end) of a page as a source: ``source.quote == page.text[start:end]``."""
    return Source(page=page.page, start=start, end=end, quote=page.text[start:end], boxes=boxes(page, start, end))
