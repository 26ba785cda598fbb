"""Whether a finding is absent: the rules' verdict and the words around, weighed by what annotated reports taught.

A logistic model. The rules alone find "negative for CD31" and call CD31 absent; the words around know better.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import repeat
from pathlib import Path

from .tokens import tokens

Feature = tuple[str, ...]
FILE = Path(__file__).parent / "model" / "negation.json"
_BEFORE, _AFTER = 14, 7
"""Words on either side that may say so."""
_STOPS = frozenset({".", ";", "but", "however", "although"})
"""They end a clause, and with it what a cue reaches."""
_CUES = frozenset({
    "no", "not", "none", "without", "out", "denied", "denies", "denying", "negative", "never", "neither", "nor",
    "absence", "absent", "lack", "lacked", "excluded", "exclude", "excluding", "exclusion", "ruled", "rule",
    "unremarkable", "free", "failed", "cannot", "unable", "disappeared", "disappearance", "resolved", "resolution",
    "ceased", "cessation", "stopped", "stop", "discontinued", "discontinuation", "withdrawal", "withdrawn",
    "withheld", "held", "refused", "declined", "removed", "removal", "instead", "unlikely", "avoid", "avoided",
})  # fmt: skip
"""Words that may make what stands beside them absent."""
_OPEN = frozenset({"a", "any", "other"})
_BEHIND, _AHEAD = ("-1", "-2", "-3"), ("+1", "+2", "+3")


def features(text: str, start: int, end: int, *, label: str, rule: bool, sentence: tuple[int, int]) -> list[Feature]:
    """What the model looks at."""
    page, (low, high) = tokens(text), sentence
    first, last = bisect_left(page.starts, start), bisect_left(page.starts, end)
    before = page.lower[max(bisect_left(page.starts, low), first - _BEFORE) : first]
    words = page.lower[first:last]
    after = page.lower[last : min(bisect_left(page.starts, high), last + _AFTER)]
    clause, following = _clause(before), _clause(after[::-1])[::-1]
    ruled = str(rule)
    found: list[Feature] = [
        ("rule", ruled),
        ("rule", ruled, label),
        ("label", label),
        ("head", words[-1] if words else ""),
    ]
    found += [("in", word) for word in words if word in _CUES or word in _OPEN]
    found += [(_BEHIND[distance], word) for distance, word in enumerate(before[:-4:-1])]
    found += [(_AHEAD[distance], word) for distance, word in enumerate(after[:3])]
    found += [("-2,-1", *before[-2:]), ("-3,-2,-1", *before[-3:]), ("+1,+2", *after[:2])]
    for side, near in (("before", clause), ("after", following)):
        for word in dict.fromkeys(near):
            if word.isalpha():
                found += [(side, word), (side, word, ruled)]
    cues = [place for place, word in enumerate(clause) if word in _CUES]
    if cues:
        between = clause[cues[-1] + 1 :]
        found += [("cue", clause[cues[-1]]), ("cue", clause[cues[-1]], label)]
        found.append(("cue at", str(min(len(between) // 2, 5))))
        found += [("cue, then", word) for word in dict.fromkeys(between)]
        commas = min(between.count(","), 2)
        found.append(("cue, lists", str("or" in between), str("and" in between), str(commas)))
    else:
        found.append(("no cue", ruled))
    found += [("cue after", word, label) for word in following if word in _CUES]
    return found


def _clause(before: Sequence[str]) -> list[str]:
    """The words after the last that ends a clause."""
    last = max((place for place, word in enumerate(before) if word in _STOPS), default=-1)
    return list(before[last + 1 :])


class Negation:
    """``weights`` of features, for "absent" against "stated"; ``threshold`` of the probability."""

    def __init__(self, weights: Mapping[str, float], threshold: float) -> None:
        self._weights = {tuple(attribute.split("\t")): weight for attribute, weight in weights.items()}
        self._least = math.log(threshold / (1 - threshold))

    def absent(self, found: Sequence[Feature]) -> bool:
        """The verdict on a finding with these features."""
        return sum(map(self._weights.get, found, repeat(0.0))) >= self._least


@cache
def load() -> Negation:
    """The model that ships."""
    content = json.loads(FILE.read_text("utf-8"))
    return Negation(content["weights"], content["threshold"])
