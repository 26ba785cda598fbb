"""Which features the pairs of a page are, all looked up at once: a page of 600 words has 6,000 of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .features import PAIRS, pair_of

Numbers = NDArray[np.int64]


class PairIndex:
    """Pair → row of weights. A pair is one number, made of its feature's, its left word's and its right word's."""

    def __init__(self, rows: Mapping[str, int]) -> None:
        feature = {pair.name: number for number, pair in enumerate(PAIRS)}
        read = [(*pair_of(attribute), row) for attribute, row in rows.items()]
        self._words: dict[str, int] = {}
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
        numbers = {
            name: np.array([self._words.get(word, -1) if word is not None else -1 for word in column], np.int64)
            for name, column in columns.items()
        }
        found = np.full((len(PAIRS), len(run_of)), -1, np.int64)
        for feature, pair in enumerate(PAIRS):
            left, right = (_shifted(numbers[side.column], side.offset, run_of) for side in (pair.left, pair.right))
            known = (left >= 0) & (right >= 0)
            found[feature, known] = (feature * len(self._words) + left[known]) * len(self._words) + right[known]
        if not len(self._codes):
            return np.full_like(found, none)
        place = np.searchsorted(self._codes, found).clip(max=len(self._codes) - 1)
        return np.where(self._codes[place] == found, self._rows[place], none)


def _shifted(numbers: Numbers, offset: int, run_of: Numbers) -> Numbers:
    """What stands ``offset`` places on in the same run; -1 where it ends before."""
    places = np.arange(len(numbers)) + offset
    inside = (places >= 0) & (places < len(numbers))
    places = places.clip(0, len(numbers) - 1)
    return np.where(inside & (run_of[places] == run_of), numbers[places], -1)
