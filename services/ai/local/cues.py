"""Words that say something of what stands beside them, and where to look for them."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from functools import cache, lru_cache

from .sections import one_of, rules
from .tokens import tokens

_TEXTS_KEPT = 16
"""Each finding of a page asks what stands beside it."""


class Cue:
    """One of several words or phrases, whole. Where their first tokens are not present, no cue is.

    Looking in a set is a tenth of the price of trying a hundred words at each letter, and most clauses have no cue.
    """

    def __init__(self, terms: Sequence[str], *, before_hyphens: bool = True) -> None:
        ends = r"(?!\w)" if before_hyphens else r"(?![\w-])"
        self.pattern = re.compile(rf"(?<![\w-])(?:{one_of(terms)}){ends}", re.I)
        openings = [tokens(term).lower[:2] for term in terms]
        self._alone = frozenset(first for first, *seconds in openings if not seconds)
        self._seconds: dict[str, set[str]] = {}
        for first, second in (opening for opening in openings if len(opening) == 2):
            self._seconds.setdefault(first, set()).add(second)
        self._firsts = frozenset(self._seconds)

    def stands(self, text: str, present: AbstractSet[str]) -> bool:
        """Whether a cue stands in a text that is made of these tokens, or some of them."""
        return self.may_stand(present) and self.pattern.search(text) is not None

    def within(self, text: str, start: int, end: int) -> Iterator[re.Match[str]]:
        """Where cues stand in [start, end)."""
        return self.pattern.finditer(text, start, end) if self.may_stand(present(text, start, end)) else iter(())

    def may_stand(self, present: AbstractSet[str]) -> bool:
        """Whether a text of these tokens can hold a cue."""
        if not present:
            return False
        return not self._alone.isdisjoint(present) or any(
            not self._seconds[first].isdisjoint(present) for first in self._firsts & present
        )


@cache
def cue(kind: str, side: str) -> Cue:
    """The cues of ``assertion.toml``."""
    return Cue(rules("assertion")[kind][side])


def present(text: str, start: int, end: int) -> frozenset[str]:
    """The tokens that begin in [start, end) and may open a cue, in lower case."""
    starts, words = _openings_in(text)
    return frozenset(words[bisect_left(starts, start) : bisect_left(starts, end)])


@lru_cache(maxsize=_TEXTS_KEPT)
def _openings_in(text: str) -> tuple[list[int], list[str]]:
    """Where tokens stand that may open a cue, and which: a quarter of all."""
    page, known = tokens(text), _openings()
    places = [place for place, word in enumerate(page.lower) if word in known]
    return [page.starts[place] for place in places], [page.lower[place] for place in places]


@cache
def _openings() -> frozenset[str]:
    """The first two tokens of every cue, and of all words that are looked for in the same way."""
    terms = [term for sides in rules("assertion").values() for words in sides.values() for term in words]
    terms += [term for words in rules("attributes").values() for term in words]
    return frozenset(word for term in terms for word in tokens(term).lower[:2])
