"""Which features the pairs of a page are, all looked up at once: a page of 600 words has 6,000 of them."""

from collections.abc import Iterable, Mapping
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from .features import PAIRS, Side, pair_of

Numbers = NDArray[np.int64]
UNKNOWN = -1
"""The number of what makes no pair."""


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
        self._codes, self._rows = codes[order], np.array([row for *_, row in read], np.int64)[order]

    def _code(self, feature: int, left: int, right: int) -> int:
        return (feature * len(self._words) + left) * len(self._words) + right

    def numbers(self, words: Iterable[str | None]) -> list[int]:
        """What words are in the index."""
        return list(map(self._words.get, words, repeat(UNKNOWN)))

    def rows(self, columns: Mapping[str, Numbers], at: Numbers, *, none: int) -> Numbers:
        """``rows[pair, token]``; ``none`` where the tagger has not learnt the pair.

        ``columns`` are numbers of words; ``at`` says where in them the tokens stand, so that sentences lie apart.
        """
        if not len(self._codes):
            return np.full((len(PAIRS), len(at)), none, np.int64)
        sides: dict[Side, Numbers] = {}
        codes = np.empty((len(PAIRS), len(at)), np.int64)
        for feature, pair in enumerate(PAIRS):
            for side in (pair.left, pair.right):
                if side not in sides:
                    sides[side] = columns[side.column][at + side.offset]
            left, right = sides[pair.left], sides[pair.right]
            code = (feature * len(self._words) + left) * len(self._words) + right
            codes[feature] = np.where(np.minimum(left, right) == UNKNOWN, UNKNOWN, code)
        place = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        return np.where(self._codes[place] == codes, self._rows[place], none)
