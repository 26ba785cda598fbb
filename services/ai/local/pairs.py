"""Which features the pairs of a page are, all looked up at once: a page of 600 words has 6,000 of them."""

from collections.abc import Mapping, Sequence
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from .features import PAIRS, Side, pair_of

Numbers = NDArray[np.int64]


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

    def rows(self, columns: Mapping[str, Sequence[str | None]], run_of: Numbers, *, none: int) -> Numbers:
        """``rows[pair, token]``; ``none`` where the tagger has not learnt the pair, or a sentence ends between."""
        if not len(self._codes):
            return np.full((len(PAIRS), len(run_of)), none, np.int64)
        shifted: dict[Side, Numbers] = {}
        numbers = {name: self._numbers(column) for name, column in columns.items()}
        codes = np.full((len(PAIRS), len(run_of)), -1, np.int64)
        for feature, pair in enumerate(PAIRS):
            for side in (pair.left, pair.right):
                if side not in shifted:
                    shifted[side] = _shifted(numbers[side.column], side.offset, run_of)
            left, right = shifted[pair.left], shifted[pair.right]
            code = (feature * len(self._words) + left) * len(self._words) + right
            codes[feature] = np.where((left >= 0) & (right >= 0), code, -1)
        place = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        return np.where(self._codes[place] == codes, self._rows[place], none)

    def _numbers(self, column: Sequence[str | None]) -> Numbers:
        return np.fromiter(map(self._words.get, column, repeat(-1)), np.int64, len(column))


def _shifted(numbers: Numbers, offset: int, run_of: Numbers) -> Numbers:
    """What stands ``offset`` places on in the same run; -1 where it ends before."""
    places = np.arange(len(numbers)) + offset
    inside = (places >= 0) & (places < len(numbers))
    places = places.clip(0, len(numbers) - 1)
    return np.where(inside & (run_of[places] == run_of), numbers[places], -1)
