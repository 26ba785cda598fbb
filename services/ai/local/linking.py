"""Which finding words like "50 mg", "oral" or "severe" are said about: the likeliest one in their sentence.

A logistic model of few features: how many findings stand between, what signs and words, on which side.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import repeat
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from services.ai import dates, dosing
from services.ai.wire import Target
from shared.contract.findings import AttributeName

from .assertion import sentence
from .attributes import Found, said_of_a_result
from .tagger import Tagged
from .times import MEASURED
from .tokens import tokens

FILE = Path(__file__).parent / "model" / "linking.json"
_SIGNS = frozenset(
    {
        ",",
        ";",
        "(",
        ")",
        "and",
        "or",
        "of",
        "with",
        "was",
        "were",
        "to",
        "in",
        "by",
        "for",
        "followed",
        ":",
        "then",
        "the",
    }
)
"""What stands between and may tell two findings apart."""
_NO_SITE = re.compile(r"\d\.\d|\s\d|\d{3}")
"""A figure is no part of the body; a vertebra, "L5/S1", is."""
_STATE = re.compile(r"\s+(?:soft|normal|clear)\b", re.I)
"""How a part of the body is found to be: "abdomen soft"."""
_AMOUNT = re.compile(
    r"\d|\b(?:one|two|three|four|half|high|low|full|thin|single|double|loading|maintenance|dose)\b", re.I
)
_REACHES = (0, 1, 2, 4, 7, 12, 1_000_000)
"""Words between, by classes."""
_PLACES_KEPT = 16384


_NAMES: dict[str, AttributeName] = {
    "value": "value",
    "dose": "dose",
    "route": "route",
    "frequency": "frequency",
    "severity": "severity",
    "site": "site",
}
"""The tagger's labels of what is said about a finding. Times are left to rules: half of those it sees name no day."""


@dataclass(frozen=True, slots=True)
class Head:
    """A finding that something may be said about."""

    id: str
    start: int
    end: int
    kind: str
    label: str


class Place(NamedTuple):
    """Where words stand that are said about something, seen from a finding. A page has few kinds of places."""

    name: str
    side: str
    label: str
    kind: str
    between: int
    """Findings that stand between, up to three."""
    alike: int
    """Those of them with the same label, up to three."""
    reach: int


class Linking:
    """``weights`` of features, for "about this one" against "about another"."""

    def __init__(self, weights: dict[str, float]) -> None:
        self._weights = weights
        self._of_place = lru_cache(maxsize=_PLACES_KEPT)(lambda place: self._sum(_of_place(place)))
        self._of_sign = cache(lambda name, side, sign: self._sum(_of_sign(name, side, sign)))

    def _sum(self, found: Sequence[str]) -> float:
        return sum(map(self._weights.get, found, repeat(0.0)))

    def head(
        self, text: str, said: tuple[str, int, int], heads: Sequence[Head], edges: Sequence[tuple[int, int]]
    ) -> Head | None:
        """The finding that ``said`` (name, start, end) belongs to; ``heads`` in the order of their places."""
        near = candidates(said, heads, edges)

        def weight(head: Head) -> float:
            place, words = _place(text, said, head, near)
            name, side = place[:2]
            signs = sum([self._of_sign(name, side, sign) for sign in _signs(words)])
            only = self._weights.get(_only(place, words[0]), 0.0) if len(words) == 1 else 0.0
            return self._of_place(place) + signs + only

        return max(near, key=weight, default=None) if len(near) != 1 else near[0]


def linked(
    text: str, targets: Sequence[Target], edges: Sequence[tuple[int, int]], tagged: Sequence[Tagged], linking: Linking
) -> dict[str, list[Found]]:
    """What the tagger saw said about each finding, by the finding's id; the first of each name."""
    heads = sorted(
        (Head(target.id, target.start, target.end, target.kind, target.label) for target in targets),
        key=lambda head: head.start,
    )
    found: dict[str, list[Found]] = {}
    for stretch in tagged:
        name = _NAMES.get(stretch.label)
        if name is None or _is_part(stretch, heads):
            continue
        start, end = stretch.start, stretch.end
        if name == "site" and (state := _STATE.search(text, start, end)):
            end = state.start()
        head = linking.head(text, (name, start, end), heads, edges)
        if head is not None and _fits(name, text[start:end], head):
            said = said_of_a_result(text, start, end) if name == "value" else [(name, start, end)]
            found.setdefault(head.id, []).extend(said)
    return found


def _is_part(stretch: Tagged, heads: Sequence[Head]) -> bool:
    """Whether some of the words are a finding's own: of "eye redness, fever" the eye is no fever's."""
    place = bisect_left(heads, stretch.end, key=_start) - 1
    return place >= 0 and stretch.start < heads[place].end


def _fits(name: AttributeName, words: str, head: Head) -> bool:
    """Whether words may be what the tagger takes them for: it learnt prose, and "BD" and "T 37.2" stand in none."""
    if name == "value":
        return _is_value(words, head)
    if name == "dose":
        return _AMOUNT.search(words) is not None and dosing.frequency(words) is None
    if name == "route":
        return dosing.frequency(words) is None
    return name != "site" or _NO_SITE.search(words) is None


def _is_value(words: str, head: Head) -> bool:
    """Outside prose the tagger takes days, shares and doses for results."""
    return (
        head.label in MEASURED
        and not dates.find(words)
        and re.search(r"\bcontrast\b|[/|]\s*$|^\s*[/|]|\s{3}|\||\d:\d\d", words) is None
    )


def candidates(said: tuple[str, int, int], heads: Sequence[Head], edges: Sequence[tuple[int, int]]) -> list[Head]:
    """The findings of the sentence that the words stand in."""
    low, high = sentence(edges, said[1])
    return [
        head
        for head in _between(heads, low, high)
        if head.kind != "context" and (head.start >= said[2] or head.end <= said[1])
    ]


def _between(heads: Sequence[Head], low: int, high: int) -> Sequence[Head]:
    """The findings that begin in [low, high)."""
    return heads[bisect_left(heads, low, key=_start) : bisect_left(heads, high, key=_start)]


_start = attrgetter("start")


def features(text: str, said: tuple[str, int, int], head: Head, near: Sequence[Head]) -> list[str]:
    """What speaks for or against ``said`` being about ``head``, one of the candidates ``near``."""
    place, words = _place(text, said, head, near)
    return [*_of_place(place), *_of_words(place, words)]


def _place(text: str, said: tuple[str, int, int], head: Head, near: Sequence[Head]) -> tuple[Place, list[str]]:
    """The place, and the words between."""
    name, start, end = said
    side = "after" if start >= head.end else "before"
    low, high = (head.end, start) if side == "after" else (end, head.start)
    inside = [other.label for other in near if low <= other.start and other.end <= high]
    page = tokens(text)
    words = page.lower[bisect_left(page.starts, low) : bisect_left(page.starts, high)]
    reach = _REACHES[bisect_left(_REACHES, len(words))]
    alike = min(inside.count(head.label), 3)
    return Place(name, side, head.label, head.kind, min(len(inside), 3), alike, reach), words


def _of_place(place: Place) -> list[str]:
    name, side, label, kind, inside, alike, reach = place
    between = f"{side},between={inside}"
    return [
        f"{name},{side}",
        f"{name},label={label}",
        f"{name},kind={kind}",
        between,
        f"{name},{between}",
        f"{name},{side},alike={alike}",
        f"{side},reach={reach}",
        f"{name},{side},reach={reach}",
        f"{name},label={label},{side}",
    ]


def _of_words(place: Place, words: Sequence[str]) -> list[str]:
    found = [feature for sign in _signs(words) for feature in _of_sign(place.name, place.side, sign)]
    return [*found, _only(place, words[0])] if len(words) == 1 else found


def _signs(words: Sequence[str]) -> list[str]:
    return sorted(_SIGNS.intersection(words))


def _of_sign(name: str, side: str, sign: str) -> tuple[str, str]:
    return f"{side},sign={sign}", f"{name},{side},sign={sign}"


def _only(place: Place, word: str) -> str:
    return f"{place.name},{place.side},only={word}"


@cache
def load() -> Linking:
    """The model that ships."""
    return Linking(json.loads(FILE.read_text("utf-8"))["weights"])
