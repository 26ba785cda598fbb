"""Whether a finding is absent: the rules' verdict and the words around, weighed by what annotated reports taught.

A logistic model. The rules alone find "negative for CD31" and call CD31 absent; the words around know better.
"""

import json
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from .tokens import tokens

FILE = Path(__file__).parent / "model" / "negation.json"
_BEFORE, _AFTER = 8, 5
"""Words on either side that may say so."""
_STOPS = frozenset({".", ";", "but", "however", "although"})


def features(text: str, start: int, end: int, *, label: str, rule: bool, sentence: tuple[int, int]) -> list[str]:
    """What the model looks at."""
    low, high = sentence
    before = [word.lower() for word in tokens(text[max(low, start - 120) : start]).texts][-_BEFORE:]
    after = [word.lower() for word in tokens(text[end : min(high, end + 80)]).texts][:_AFTER]
    words = [word.lower() for word in tokens(text[start:end]).texts]
    found = [f"rule={rule}", f"rule={rule},{label}", f"label={label}", f"head={words[-1] if words else ''}"]
    found += [f"first={words[0]}"] if words else []
    found += [f"-{distance}={word}" for distance, word in enumerate(reversed(before), 1) if distance < 4]
    found += [f"+{distance}={word}" for distance, word in enumerate(after, 1) if distance < 4]
    found.append(f"-2,-1={' '.join(before[-2:])}")
    found.append(f"+1,+2={' '.join(after[:2])}")
    clause = _clause(before)
    found += [f"before={word}" for word in set(clause) if word.isalpha()]
    found += [f"before={word},{rule}" for word in set(clause) if word.isalpha()]
    found += [f"after={word}" for word in set(after) if word.isalpha()]
    found.append(f"commas={min(clause.count(','), 3)},{rule}")
    return found


def _clause(before: Sequence[str]) -> list[str]:
    """The words of the clause that a finding stands in, as far as they lie before it."""
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
