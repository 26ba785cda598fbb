"""What the tagger looks at: words, each looked up once a page, and pairs of what stands at two places."""

import re
from bisect import bisect_left
from functools import lru_cache
from typing import NamedTuple

from . import terminology
from .clusters import clusters
from .tokens import Tokens
from .words import key

EDGE = ""
"""Stands for the places before a sentence and behind it."""
REACH = 2
"""Words on either side that a word's label depends on."""
_OFFSETS = {str(offset): offset for offset in range(-REACH, REACH + 1)}
_DIGIT = re.compile(r"\d")


def of_word(offset: int, name: str) -> str:
    """The attribute of a word's feature ``offset`` places before the word."""
    return f"{offset}:{name}"


def parted(attribute: str) -> tuple[int | None, str]:
    """The way back: (offset, a word's feature), or (None, the attribute) of a pair."""
    head, _, name = attribute.partition(":")
    return (_OFFSETS[head], name) if head in _OFFSETS else (None, attribute)


def attribute_of_pair(name: str, left: str, right: str) -> str:
    """The attribute of a pair; no word has a tab."""
    return f"{name}\t{left}\t{right}"


def pair_of(attribute: str) -> tuple[str, str, str]:
    """The way back: (name, left, right)."""
    name, left, right = attribute.split("\t")
    return name, left, right


def word_features(word: str, distance: int) -> list[str]:
    """The features that ``word`` gives to a place ``distance`` places away, on either side."""
    if word == EDGE:
        return ["edge"]
    lower = word.lower()
    if word[0].isdigit():
        return [f"w={_DIGIT.sub('0', word)}", "number", *([f"n={word}"] if distance == 0 else [])]
    if not word[0].isalpha():
        return [f"w={word}", "sign"]
    found = [f"w={lower}"]
    grains = clusters(lower)
    if distance == REACH:
        return found + [f"c{grain}={name}" for grain, name in enumerate(grains) if grain]
    found += [f"c{grain}={name}" for grain, name in enumerate(grains)]
    found += [f"t={part}" for part in terminology.load().parts(key(word))]
    found.append(f"form={_form(word)}")
    ends = (3,) if distance else (1, 2, 3, 4, 5)
    found += [f"s{size}={lower[-size:]}" for size in ends if len(lower) > size]
    if distance == 0:
        found += [f"p{size}={lower[:size]}" for size in (2, 3, 4, 5) if len(lower) > size]
        found.append(f"W={word}")
        found.append(f"k={key(word)}")
    return found


def _form(word: str) -> str:
    if word.islower():
        return "x" if len(word) == 1 else "xx" if len(word) < 4 else "xxx"
    if word.isupper():
        return "X" if len(word) == 1 else "XX"
    return "Xx" if word[1:].islower() else "xX"


class Side(NamedTuple):
    """What a pair takes from ``offset`` places on."""

    column: str
    offset: int


class Pair(NamedTuple):
    """A feature of a place: what two columns say there. No pair reaches over a sentence's edge."""

    name: str
    left: Side
    right: Side


PAIRS = (
    Pair("term", Side("term", 0), Side("term", 0)),
    Pair("glue", Side("glued", 0), Side("glues", 0)),
    Pair("-1,0", Side("lower", -1), Side("lower", 0)),
    Pair("-1,0c", Side("coarse", -1), Side("coarse", 0)),
    Pair("-1,0term", Side("term", -1), Side("term", 0)),
    Pair("0,1", Side("lower", 0), Side("lower", 1)),
    Pair("0,1c", Side("coarse", 0), Side("coarse", 1)),
    Pair("0,1term", Side("term", 0), Side("term", 1)),
    Pair("-1,1c", Side("coarse", -1), Side("coarse", 1)),
    Pair("before", Side("coarse", -2), Side("joins", -1)),
    Pair("behind", Side("joins", 1), Side("coarse", 2)),
)


def columns(text: str, found: Tokens) -> dict[str, list[str | None]]:
    """What pairs are made of, for each token. None makes no pair. The tagger makes the same of kept words' numbers."""
    glued = [False, *(end == start for end, start in zip(found.ends[:-1], found.starts[1:], strict=True)), False]
    return {
        "term": [*terms(text, found)],
        "lower": [*found.lower],
        "coarse": [coarse(word) for word in found.lower],
        "glued": [str(before) for before in glued[:-1]],
        "glues": [str(behind) for behind in glued[1:]],
        # A sign that stands between two words without a space: "vertex-transverse".
        "joins": [
            word if before or behind else None
            for word, before, behind in zip(found.texts, glued[:-1], glued[1:], strict=True)
        ],
    }


def terms(text: str, found: Tokens) -> list[str]:
    """For each token the label of the term that it is part of, with "B" at its beginning; "" outside terms."""
    marks = [""] * len(found.texts)
    last = 0
    for start, end, concept in terminology.found(text):
        first = bisect_left(found.starts, start, last)
        last = bisect_left(found.starts, end, first)
        marks[first:last] = [f"{'B' if place == first else 'I'}{concept.label}" for place in range(first, last)]
    return marks


@lru_cache(maxsize=65536)
def coarse(word: str) -> str:
    """A pair of words is seen more often by their coarse clusters."""
    grains = clusters(word)
    if grains:
        return str(grains[-1])
    return "0" if word[0].isdigit() else word if not word[0].isalpha() else "?"
