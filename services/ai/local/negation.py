"""Whether a finding is absent: the rules' verdict and the words around, weighed by what annotated reports taught.

A logistic model. The rules alone find "negative for CD31" and call CD31 absent; the words around know better.
"""

import json
import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from .tokens import tokens

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


def features(text: str, start: int, end: int, *, label: str, rule: bool, sentence: tuple[int, int]) -> list[str]:
    """What the model looks at."""
    page, (low, high) = tokens(text), sentence
    first, last = bisect_left(page.starts, start), bisect_left(page.starts, end)
    before = page.lower[max(bisect_left(page.starts, low), first - _BEFORE) : first]
    words = page.lower[first:last]
    after = page.lower[last : min(bisect_left(page.starts, high), last + _AFTER)]
    clause, following = _clause(before), _clause(after[::-1])[::-1]
    found = [f"rule={rule}", f"rule={rule},{label}", f"label={label}", f"head={words[-1] if words else ''}"]
    found += [f"in={word}" for word in words if word in _CUES or word in ("a", "any", "other")]
    found += [f"-{distance}={word}" for distance, word in enumerate(reversed(before), 1) if distance < 4]
    found += [f"+{distance}={word}" for distance, word in enumerate(after, 1) if distance < 4]
    found.append(f"-2,-1={' '.join(before[-2:])}")
    found.append(f"-3,-2,-1={' '.join(before[-3:])}")
    found.append(f"+1,+2={' '.join(after[:2])}")
    found += [f"before={word}" for word in set(clause) if word.isalpha()]
    found += [f"before={word},{rule}" for word in set(clause) if word.isalpha()]
    found += [f"after={word}" for word in set(following) if word.isalpha()]
    found += [f"after={word},{rule}" for word in set(following) if word.isalpha()]
    cues = [place for place, word in enumerate(clause) if word in _CUES]
    if cues:
        between = clause[cues[-1] + 1 :]
        found.append(f"cue={clause[cues[-1]]}")
        found.append(f"cue={clause[cues[-1]]},{label}")
        found.append(f"cue,{min(len(between) // 2, 5)}")
        found += [f"cue,then={word}" for word in set(between)]
        found.append(f"cue,or={'or' in between},and={'and' in between},commas={min(between.count(','), 2)}")
    else:
        found.append(f"nocue,{rule}")
    found += [f"cueafter={word},{label}" for word in following if word in _CUES]
    return found


def _clause(before: Sequence[str]) -> list[str]:
    """The words after the last that ends a clause."""
    last = max((place for place, word in enumerate(before) if word in _STOPS), default=-1)
    return list(before[last + 1 :])


class Negation:
    """``weights`` of features, for "absent" against "stated"; ``threshold`` of the probability."""

    def __init__(self, weights: dict[str, float], threshold: float) -> None:
        self._weights = weights
        self._least = math.log(threshold / (1 - threshold))

    def absent(self, found: Sequence[str]) -> bool:
        """The verdict on a finding with these features."""
        return sum(self._weights.get(feature, 0.0) for feature in found) >= self._least


@cache
def load() -> Negation:
    """The model that ships."""
    content = json.loads(FILE.read_text("utf-8"))
    return Negation(content["weights"], content["threshold"])
