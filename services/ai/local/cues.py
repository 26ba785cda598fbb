"""Words that say something of what stands beside them, and where to look for them."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache, reduce
from operator import or_

from .sections import one_of, rules
from .tokens import tokens

_TEXTS_KEPT = 16
"""Each finding of a page asks what stands beside it."""
_OF_ATTRIBUTES = ("value_words", "routes", "frequencies", "severities", "sites")
_STRETCHES_KEPT = 1024
"""What stands before a finding is asked for its assertion, its subject and each of its attributes."""
Present = int
"""Which cues a stretch of tokens may hold, a bit each."""
_FIRST, _SECOND = 32, 64
"""Bits up from those of cues of one token: of the first tokens of longer ones, and of their second tokens.

So there is room for 32 cues; there are 21.
"""
_ALONE = (1 << _FIRST) - 1


class Cue:
    """One of several words or phrases, whole. Where their first tokens are not present, no cue is.

    Asking for a bit is a hundredth of the price of trying a hundred words at each letter, and most clauses have no cue.
    """

    def __init__(self, terms: Sequence[str], number: int, *, before_hyphens: bool = True) -> None:
        ends = r"(?!\w)" if before_hyphens else r"(?![\w-])"
        self.pattern = re.compile(rf"(?:(?<![\w-])|(?!\w))(?:{one_of(terms)}){ends}", re.I)
        self.openings = [tokens(term).lower[:2] for term in terms]
        self.bit: Present = 1 << number

    def stands(self, text: str, present: Present) -> bool:
        """Whether a cue stands in a text that is made of these tokens, or some of them."""
        return self.may_stand(present) and self.pattern.search(text) is not None

    def within(self, text: str, start: int, end: int) -> Iterator[re.Match[str]]:
        """Where cues stand in [start, end)."""
        free = start
        for place in self.places(text, start, end):
            if place >= free and (match := self.pattern.match(text, place, end)):
                free = match.end()
                yield match

    def places(self, text: str, start: int, end: int) -> list[int]:
        """Where in [start, end) tokens stand that a cue begins with."""
        if not self.may_stand(present(text, start, end)):
            return []
        starts, openings = _openings_in(text)
        low, high = bisect_left(starts, start), bisect_left(starts, end)
        begins = self.bit | self.bit << _FIRST
        return [starts[number] for number in range(low, high) if openings[number] & begins]

    def may_stand(self, present: Present) -> bool:
        """Whether a text of these tokens can hold a cue."""
        return present & self.bit != 0


@cache
def cue(kind: str, side: str) -> Cue:
    """The cues of ``assertion.toml``."""
    return _cues()[kind, side]


@cache
def words_for(name: str) -> Cue:
    """The words of ``attributes.toml``."""
    return _cues()["attributes", name]


@lru_cache(maxsize=_STRETCHES_KEPT)
def present(text: str, start: int, end: int) -> Present:
    """The cues that may stand among the tokens that begin in [start, end)."""
    starts, openings = _openings_in(text)
    found = reduce(or_, openings[bisect_left(starts, start) : bisect_left(starts, end)], 0)
    return (found | (found >> _FIRST & found >> _SECOND)) & _ALONE


@lru_cache(maxsize=_TEXTS_KEPT)
def _openings_in(text: str) -> tuple[list[int], list[Present]]:
    """Where tokens stand that may open a cue, and which cues: a quarter of all tokens."""
    page, known = tokens(text), _openings()
    places = [place for place, word in enumerate(page.lower) if word in known]
    return [page.starts[place] for place in places], [known[page.lower[place]] for place in places]


@cache
def _cues() -> dict[tuple[str, str], Cue]:
    terms = {(kind, side): terms for kind, sides in rules("assertion").items() for side, terms in sides.items()}
    found = {place: Cue(terms[place], number) for number, place in enumerate(terms)}
    for number, name in enumerate(_OF_ATTRIBUTES, start=len(found)):
        found["attributes", name] = Cue(rules("attributes")[name], number, before_hyphens=False)
    return found


@cache
def _openings() -> dict[str, Present]:
    """Token → the cues that are nothing but it; ``_FIRST`` bits higher those that it begins; then those it goes on."""
    found: dict[str, Present] = {}
    for known in _cues().values():
        for one, *other in known.openings:
            found[one] = found.get(one, 0) | known.bit << (_FIRST if other else 0)
            for word in other:
                found[word] = found.get(word, 0) | known.bit << _SECOND
    return found
