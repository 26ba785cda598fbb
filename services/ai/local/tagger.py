"""The trained tagger: a linear chain of labels whose weights ``services.ai.training`` learnt, decoded with numpy.

A word's weights are summed once and kept: pages repeat themselves, and looking features up is what takes the time.
"""

import gzip
import io
import json
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .features import EDGE, REACH, coarse, parted, terms, word_features
from .pairs import UNKNOWN, Numbers, PairIndex
from .sections import sentences
from .tokens import Tokens, tokens

FILE = Path(__file__).parent / "model" / "tagger.npz"
_WORDS_KEPT = 20_000
"""Words whose weights are kept beside those of training, 420 bytes each with 21 labels in five places."""
_WORDS_AT_ONCE = 1000
_PLACES = 2 * REACH + 1
_PAGES_KEPT = 16
_LONGEST = 120
"""Tokens of a sentence; a page without stops is cut there."""
_AT_ONCE = 64
"""Sentences that are decoded together."""
OUTSIDE = "O"
_HYPHENS = frozenset("-–‐‑*")
"""They join the parts of a name."""
Matrix = NDArray[np.float32]


class Tagged(NamedTuple):
    """A stretch of text that got one label."""

    start: int
    end: int
    label: str


class Tagger:
    """``weights[attribute, label]`` of the features that were seen in training, ``steps[before, after]`` of labels."""

    def __init__(self, labels: Sequence[str], attributes: Sequence[str], weights: Matrix, steps: Matrix) -> None:
        self.labels = list(labels)
        pairs: dict[str, int] = {}
        self._features: dict[str, int] = {}
        of_words: list[tuple[int, int, int]] = []
        for row, attribute in enumerate(attributes):
            offset, feature = parted(attribute)
            if offset is None:
                pairs[feature] = row
            else:
                of_words.append((self._features.setdefault(feature, len(self._features)), offset + REACH, row))
        self._pairs = PairIndex(pairs)
        # The last row is of no feature.
        self._weights, self._steps = np.vstack([weights, np.zeros_like(weights[:1])]), steps
        # [feature, place around the word, label], so that a word's features are looked up once for all places.
        around = np.zeros((len(self._features) + 1, _PLACES, len(labels)), np.float32)
        if of_words:
            feature_rows, places, rows = np.array(of_words).T
            around[feature_rows, places] = weights[rows]
        self._around = around.reshape(len(around), -1)
        self._words: dict[str, int] = {}
        self._learnt: dict[str, int] = {}
        """The words of training: half of what a page says that the pages before it did not."""
        self._kept: Matrix = np.empty((0, _PLACES, len(labels)), np.float32)
        """``_kept[_words[word]]``: what a word says at the places around it."""
        self._paired: Numbers = np.empty((0, 3), np.int64)
        """``_paired[_words[word]]``: what it is in pairs: in lower case, by its coarse cluster, and as it is."""
        self._apart, self._glued = self._pairs.numbers([str(False), str(True)])
        self._learn()
        self.find = lru_cache(maxsize=_PAGES_KEPT)(self._find)
        """The stretches of a text that are something. Passes 1 and 2 of a page often follow each other."""

    @classmethod
    def load(cls, content: bytes) -> "Tagger":
        """A tagger from its file."""
        with np.load(io.BytesIO(content)) as arrays:
            head: dict[str, Any] = json.loads(gzip.decompress(arrays["head"].tobytes()))
            rows, columns, values = arrays["rows"], arrays["columns"], arrays["values"]
            weights = np.zeros((len(head["attributes"]), len(head["labels"])), np.float32)
            weights[rows, columns] = values
            return cls(head["labels"], head["attributes"], weights, arrays["steps"].astype(np.float32))

    def _find(self, text: str) -> tuple[Tagged, ...]:
        found = tokens(text)
        runs = runs_of(found, text)
        if not runs:
            return ()
        likely = self.likely(text, found, runs)
        tagged = stretches(found, runs, [self.labels[label] for label in likely.argmax(axis=1).tolist()])
        # A full stop says nothing, whatever it seems to be.
        return tuple(one for one in tagged if any(map(str.isalnum, text[one.start : one.end])))

    def likely(self, text: str, found: Tokens, runs: Sequence[tuple[int, int]]) -> Matrix:
        """How likely each label is at each token."""
        return likelihoods(self.scores(text, found, runs), runs, self._steps)

    def scores(self, text: str, found: Tokens, runs: Sequence[tuple[int, int]]) -> Matrix:
        """What the features of each token say for each label."""
        padded: list[str] = []
        places: list[int] = []
        for start, end in runs:
            padded += [EDGE] * REACH
            places += range(len(padded), len(padded) + end - start)
            padded += found.texts[start:end]
        padded += [EDGE] * REACH
        words, at = self._of_words(padded), np.array(places)
        scores = np.zeros((len(places), len(self.labels)), np.float32)
        for rows in self._pairs.rows(self._columns(text, found, words, at), at, none=len(self._weights) - 1):
            scores += self._weights.take(rows, axis=0)
        said = self._kept.take(words, axis=0)
        for offset in range(-REACH, REACH + 1):
            scores += said[:, offset + REACH].take(at + offset, axis=0)
        return scores

    def _columns(self, text: str, found: Tokens, words: Numbers, at: Numbers) -> dict[str, Numbers]:
        """What pairs are made of, as ``features.columns`` tells it, in the places of ``words``."""
        lower, of_cluster, printed = self._paired[words].T
        meets = np.array(found.ends[:-1]) == np.array(found.starts[1:])
        glued, glues = np.append(False, meets), np.append(meets, False)
        in_page = {
            "term": np.array(self._pairs.numbers(terms(text, found))),
            "glued": np.where(glued, self._glued, self._apart),
            "glues": np.where(glues, self._glued, self._apart),
            "joins": np.where(glued | glues, printed[at], UNKNOWN),
        }
        padded = {name: np.full(len(words), UNKNOWN) for name in in_page}
        for name, numbers in in_page.items():
            padded[name][at] = numbers
        return {"lower": lower, "coarse": of_cluster, **padded}

    def _learn(self) -> None:
        """Keep the words of training."""
        names = (name.partition("=") for name in self._features)
        words = list(dict.fromkeys(word for kind, _, word in names if kind in ("w", "W")))
        self._make_room(len(words) + _WORDS_KEPT)
        for first in range(0, len(words), _WORDS_AT_ONCE):
            self._keep(words[first : first + _WORDS_AT_ONCE])
        self._learnt = dict(self._words)

    def _make_room(self, count: int) -> None:
        """Room for so many words, those that are kept among them."""
        kept, paired = self._kept, self._paired
        self._kept = np.empty((count, *kept.shape[1:]), np.float32)
        self._paired = np.empty((count, 3), np.int64)
        self._kept[: len(kept)], self._paired[: len(paired)] = kept, paired

    def _of_words(self, words: Sequence[str]) -> Numbers:
        """Where in ``_kept`` the words stand."""
        new = [word for word in dict.fromkeys(words) if word not in self._words]
        if len(self._words) + len(new) > len(self._kept):
            self._words = dict(self._learnt)
            new = [word for word in dict.fromkeys(words) if word not in self._words]
            if len(self._words) + len(new) > len(self._kept):
                self._make_room(len(self._words) + len(new))
        if new:
            self._keep(new)
        return np.array(list(map(self._words.__getitem__, words)))

    def _keep(self, new: Sequence[str]) -> None:
        known, none = self._features.get, len(self._features)
        rows: list[int] = []
        firsts: list[int] = []
        for word in new:
            firsts.append(len(rows))
            rows += map(known, word_features(word, 0), repeat(none))
        first, last = len(self._words), len(self._words) + len(new)
        said = np.add.reduceat(self._around.take(rows, axis=0), firsts, axis=0)
        self._kept[first:last] = said.reshape(len(new), *self._kept.shape[1:])
        lower = [word.lower() if word != EDGE else None for word in new]
        of_cluster = [coarse(word) if word else None for word in lower]
        for column, of_pair in enumerate((lower, of_cluster, [word or None for word in new])):
            self._paired[first:last, column] = self._pairs.numbers(of_pair)
        self._words.update(zip(new, range(first, last), strict=True))


def runs_of(found: Tokens, text: str) -> list[tuple[int, int]]:
    """The tokens of each sentence, [first, last)."""
    runs: list[tuple[int, int]] = []
    first = 0
    for _, end in sentences(text):
        last = bisect_left(found.starts, end, first)
        runs += [(begin, min(begin + _LONGEST, last)) for begin in range(first, last, _LONGEST)]
        first = last
    return runs


def likelihoods(scores: Matrix, runs: Sequence[tuple[int, int]], steps: Matrix) -> Matrix:
    """How likely each label is at each token, given its run: forward and backward, runs of like length at once."""
    likely = np.empty_like(scores)
    lengths = np.array([end - start for start, end in runs])
    firsts = np.cumsum(lengths) - lengths
    ordered = np.argsort(lengths, kind="stable")
    onward = np.exp(np.stack([steps, steps.T]))
    local = np.exp(scores - scores.max(axis=1, keepdims=True))
    for group in (ordered[begin : begin + _AT_ONCE] for begin in range(0, len(ordered), _AT_ONCE)):
        # Of each token: its run in the group, its place from the run's beginning, and from its end.
        run = np.repeat(np.arange(len(group)), lengths[group])
        place = np.arange(len(run)) - (np.cumsum(lengths[group]) - lengths[group])[run]
        back = lengths[group][run] - 1 - place
        tokens_of = firsts[group][run] + place
        # Every run from its beginning, and every run from its end. What stands behind a shorter one is not read.
        both = np.ones((lengths[group[-1]], 2, len(group), scores.shape[1]), np.float32)
        both[place, 0, run] = both[back, 1, run] = local[tokens_of]
        heard = np.empty_like(both)
        state = heard[0] = np.ones(both.shape[1:], np.float32)
        for step in range(1, len(both)):
            state = (state * both[step - 1]) @ onward
            state /= np.add.reduce(state, axis=2, keepdims=True)
            heard[step] = state
        joint = heard[place, 0, run] * local[tokens_of] * heard[back, 1, run]
        likely[tokens_of] = joint / joint.sum(axis=1, keepdims=True)
    return likely


def stretches(found: Tokens, runs: Sequence[tuple[int, int]], labels: Sequence[str]) -> list[Tagged]:
    """Neighbours with one label are one stretch, and a word that is printed in one piece is not cut."""
    marked: list[list[int]] = []
    names: list[str] = []
    at = iter(labels)
    for start, end in runs:
        previous = OUTSIDE
        for place, label in zip(range(start, end), at, strict=False):
            if label == previous and label != OUTSIDE:
                marked[-1][1] = place
            elif label != OUTSIDE:
                marked.append([place, place])
                names.append(label)
            previous = label
    result: list[Tagged] = []
    free = 0
    for (begin, end), name in zip(marked, names, strict=True):
        if end < free:
            continue
        first, last = _whole(found, max(begin, free), end, free)
        result.append(Tagged(found.starts[first], found.ends[last], name))
        free = last + 1
    return result


def _whole(found: Tokens, first: int, last: int, low: int) -> tuple[int, int]:
    """A stretch of tokens with what is printed in one piece with it: "salpingo-oophorectomy", "DRB1*08"."""

    high = len(found.texts) - 1

    def glued(place: int) -> bool:
        return found.ends[place] == found.starts[place + 1]

    def word(place: int) -> bool:
        return found.texts[place][0].isalnum()

    while last > first and found.texts[last] in _HYPHENS:
        last -= 1
    while first < last and found.texts[first] in _HYPHENS:
        first += 1
    while first > low and glued(first - 1) and word(first):
        if word(first - 1):
            first -= 1
        elif first - 1 > low and found.texts[first - 1] in _HYPHENS and glued(first - 2) and word(first - 2):
            first -= 2
        else:
            break
    while last < high and glued(last) and word(last):
        if word(last + 1):
            last += 1
        elif last + 1 < high and found.texts[last + 1] in _HYPHENS and glued(last + 1) and word(last + 2):
            last += 2
        else:
            break
    return first, last


@cache
def load() -> Tagger:
    """The tagger that ships."""
    return Tagger.load(FILE.read_bytes())
