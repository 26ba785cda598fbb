"""Whether a finding is absent: the rules' verdict and the words around, weighed by what annotated reports taught.

A logistic model. The rules alone find "negative for CD31" and call CD31 absent; the words around know better. It is
asked where a rule or a cue says that something may be absent, one finding in three; the others are stated.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from .tokens import tokens

Feature = tuple[str, ...]
FILE = Path(__file__).parent / "model" / "negation.json"
_BEFORE, _AFTER = 14, 7
"""Words on either side that may say so."""
_AHEAD_OF = 24
"""Words behind a finding in which a cue may speak of a list that it is in: "fever, cough, … and rash were not seen"."""
_PAGES_KEPT = 16
_STOPS = frozenset({".", ";", "but", "however", "although"})
"""They end a clause, and with it what a cue reaches."""
_CUES = frozenset({
    "no", "not", "none", "without", "out", "denied", "denies", "denying", "negative", "never", "neither", "nor",
    "absence", "absent", "lack", "lacked", "excluded", "exclude", "excluding", "exclusion", "ruled", "rule",
    "unremarkable", "free", "failed", "cannot", "unable", "disappeared", "disappearance", "resolved", "resolution",
    "ceased", "cessation", "stopped", "stop", "discontinued", "discontinuation", "withdrawal", "withdrawn",
    "withheld", "held", "refused", "declined", "removed", "removal", "instead", "unlikely", "avoid", "avoided",
    "relieved", "terminated", "unavailable", "unaffected", "uneventful", "rather",
})  # fmt: skip
"""Words that may make what stands beside them absent."""
_OPEN = frozenset({"a", "any", "other"})
_NOTHING = repeat(0.0)
_BEHIND, _AHEAD = ("-1", "-2", "-3"), ("+1", "+2", "+3")


class Around(NamedTuple):
    """A finding and the words around it: ``clause`` and ``following`` are those that a cue in its clause may be."""

    label: str
    ruled: str
    """What the rules say."""
    words: list[str]
    before: list[str]
    after: list[str]
    clause: list[str]
    following: list[str]
    onward: list[str]
    """The rest of the clause as far as it may be a list."""

    @property
    def doubted(self) -> bool:
        """Whether anything near may make the finding absent."""
        near = (self.words, self.clause, self.onward)
        return self.ruled == str(True) or not all(map(_CUES.isdisjoint, near))


def around(text: str, start: int, end: int, *, label: str, rule: bool, sentence: tuple[int, int]) -> Around:
    """What the model looks at."""
    page, (low, high) = tokens(text), sentence
    first, last = bisect_left(page.starts, start), bisect_left(page.starts, end)
    before = page.lower[max(bisect_left(page.starts, low), first - _BEFORE) : first]
    onward = page.lower[last : min(bisect_left(page.starts, high), last + _AHEAD_OF)]
    after = onward[:_AFTER]
    return Around(
        label,
        str(rule),
        page.lower[first:last],
        before,
        after,
        _up_to_stop(before[::-1])[::-1],
        _up_to_stop(after),
        _up_to_stop(onward),
    )


def cue_near(text: str, start: int, end: int) -> bool:
    """Whether a cue stands among the words that may make [start, end) absent: without one, and a rule, nothing does."""
    page, cues = tokens(text), _cue_places(text)
    first = bisect_left(cues, bisect_left(page.starts, start) - _BEFORE)
    return first < len(cues) and cues[first] < bisect_left(page.starts, end) + _AHEAD_OF


@lru_cache(maxsize=_PAGES_KEPT)
def _cue_places(text: str) -> list[int]:
    return [place for place, word in enumerate(tokens(text).lower) if word in _CUES]


def _up_to_stop(words: list[str]) -> list[str]:
    """The words before the first that ends a clause."""
    if _STOPS.isdisjoint(words):
        return words
    return words[: _first(_STOPS, words)]


def _first(wanted: frozenset[str], words: list[str]) -> int:
    """The place of the first word that is one of ``wanted``."""
    return list(map(wanted.__contains__, words)).index(True)


def features(here: Around) -> list[Feature]:
    """What is learnt of a finding, each feature by itself. ``Negation`` sums the same by tables."""
    label, ruled, words, before, after, clause, following, _ = here
    found: list[Feature] = [("rule", ruled), ("rule", ruled, label), ("label", label), ("head", _head(words))]
    found += [("in", word) for word in words if word in _CUES or word in _OPEN]
    found += [(_BEHIND[distance], word) for distance, word in enumerate(before[:-4:-1])]
    found += [(_AHEAD[distance], word) for distance, word in enumerate(after[:3])]
    found += _phrases(here)
    for side, near in (("before", clause), ("after", following)):
        for word in dict.fromkeys(near):
            if word.isalpha():
                found += [(side, word), (side, word, ruled)]
    return found + _of_cues(here)


def _head(words: Sequence[str]) -> str:
    return words[-1] if words else ""


def _phrases(here: Around) -> list[Feature]:
    return [("-2,-1", *here.before[-2:]), ("-3,-2,-1", *here.before[-3:]), ("+1,+2", *here.after[:2])]


def _of_cues(here: Around) -> list[Feature]:
    """The nearest cue before and the nearest behind, what stands between, and all close behind."""
    clause, onward, found = here.clause, here.onward, list[Feature]()
    if _CUES.isdisjoint(clause):
        found.append(("no cue", here.ruled))
    else:
        last = len(clause) - 1 - _first(_CUES, clause[::-1])
        found += [("cue", clause[last]), ("cue", clause[last], here.label), *_between("cue", clause[last + 1 :])]
    if not _CUES.isdisjoint(onward):
        first = _first(_CUES, onward)
        found += [("ahead", onward[first]), *_between("ahead", onward[:first])]
        found += [("cue after", word, here.label) for word in here.following if word in _CUES]
    return found


def _between(cue: str, words: list[str]) -> Iterator[Feature]:
    """How far a cue is, by which words, and whether they are a list."""
    yield f"{cue} at", str(min(len(words) // 2, 5))
    for word in dict.fromkeys(words):
        yield f"{cue}, then", word
    yield f"{cue}, lists", str("or" in words), str("and" in words), str(min(words.count(","), 2))


class Negation:
    """``weights`` of features, for "absent" against "stated"; ``threshold`` of the probability."""

    def __init__(self, weights: Mapping[str, float], threshold: float) -> None:
        self._weights = {tuple(attribute.split("\t")): weight for attribute, weight in weights.items()}
        self._least = math.log(threshold / (1 - threshold))
        of_word: dict[str, dict[str, float]] = {}
        for feature, weight in self._weights.items():
            if len(feature) == 2:
                of_word.setdefault(feature[0], {})[feature[1]] = weight
        self._head, self._inside = of_word.get("head", {}), of_word.get("in", {})
        self._behind = [of_word.get(place, {}) for place in _BEHIND]
        self._ahead = [of_word.get(place, {}) for place in _AHEAD]
        # A word beside a finding has two features: one with what the rules say, one without.
        self._beside = {
            (side, ruled): of_word.get(side, {})
            | {
                feature[1]: weight + of_word.get(side, {}).get(feature[1], 0.0)
                for feature, weight in self._weights.items()
                if len(feature) == 3 and feature[::2] == (side, ruled)
            }
            for side in ("before", "after")
            for ruled in (str(True), str(False))
        }
        self._of_label = cache(
            lambda label, ruled: self._sum([("rule", ruled), ("rule", ruled, label), ("label", label)])
        )

    def _sum(self, found: Sequence[Feature]) -> float:
        return sum(map(self._weights.get, found, _NOTHING))

    def absent(self, here: Around) -> bool:
        """The verdict on a finding."""
        if not here.doubted:
            return False
        label, ruled, words, before, after, clause, following, _ = here
        said = self._of_label(label, ruled) + self._sum(_phrases(here)) + self._sum(_of_cues(here))
        said += self._head.get(_head(words), 0.0) + sum(map(self._inside.get, words, _NOTHING))
        for of_word, word in zip(self._behind, before[:-4:-1], strict=False):
            said += of_word.get(word, 0.0)
        for of_word, word in zip(self._ahead, after, strict=False):
            said += of_word.get(word, 0.0)
        said += sum(map(self._beside["before", ruled].get, dict.fromkeys(clause), _NOTHING))
        said += sum(map(self._beside["after", ruled].get, dict.fromkeys(following), _NOTHING))
        return said >= self._least


@cache
def load() -> Negation:
    """The model that ships."""
    content = json.loads(FILE.read_text("utf-8"))
    return Negation(content["weights"], content["threshold"])
