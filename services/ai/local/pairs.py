"""Which features the pairs of a page are, all looked up at once: a page of 600 words has 6,000 of them."""

from collections.abc import Iterable, Mapping
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from .features import PAIRS, pair_of

Numbers = NDArray[np.int64]
UNKNOWN = -(1 << 40)
"""The number of what makes no pair: whatever it is paired with, the pair's code is below zero, and no pair has it."""
_SIDES = frozenset(side for pair in PAIRS for side in (pair.left, pair.right))


class PairIndex:
    """Pair → row of weights. A pair is one number, made of its feature's, its left word's and its right word's."""

    def __init__(self, rows: Mapping[str, int]) -> None:
        feature = {pair.name: number for number, pair in enumerate(PAIRS)}
        read = [(*pair_of(attribute), row) for attribute, row in rows.items()]
        self._words: dict[str | None, int] = {}
        for _, left, right, _ in read:
            self._words.setdefault(left, len(self._words))
            self._words.setdefault(right, len(self._words))
        codes = np.array(
            [self._code(feature[name], self._words[left], self._words[right]) for name, left, right, _ in read],
            np.int64,
        )
        order = np.argsort(codes)
        # The last is of no pair, so that each search ends somewhere.
        self._codes = np.append(codes[order], np.iinfo(np.int64).max)
        self._rows = np.append(np.array([row for *_, row in read], np.int64)[order], 0)

    def _code(self, feature: int, left: int, right: int) -> int:
        return (feature * len(self._words) + left) * len(self._words) + right

    def numbers(self, words: Iterable[str | None]) -> list[int]:
        """What words are in the index."""
        return list(map(self._words.get, words, repeat(UNKNOWN)))

    def rows(self, columns: Mapping[str, Numbers], at: Numbers, *, none: int) -> Numbers:
        """``rows[pair, token]``; ``none`` where the tagger has not learnt the pair.

        ``columns`` are numbers of words; ``at`` says where in them the tokens stand, so that sentences lie apart.
        """
        sides = {side: columns[side.column].take(at + side.offset) for side in _SIDES}
        codes = np.stack(
            [
                (feature * len(self._words) + sides[pair.left]) * len(self._words) + sides[pair.right]
                for feature, pair in enumerate(PAIRS)
            ]
        )
        place = np.searchsorted(self._codes, codes)
        return np.where(self._codes.take(place) == codes, self._rows.take(place), none)
