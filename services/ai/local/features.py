"""What the tagger looks at. Features of a word depend on nothing but the word, so a page looks each word up once."""

import re
from collections.abc import Sequence

from . import terminology
from .clusters import clusters
from .tokens import Tokens
from .words import key

Feature = tuple[str, ...]
"""What is seen at a place: a name and the words it is about. Tuples cost half of what formatted strings do."""
EDGE = ""
"""Stands for the places before a sentence and behind it."""
REACH = 2
"""Words on either side that a word's label depends on."""
_OFFSETS = {str(offset): offset for offset in range(-REACH, REACH + 1)}
_GLUE = tuple(tuple(("glue", str(before), str(behind)) for behind in (False, True)) for before in (False, True))
_DIGIT = re.compile(r"\d")


def of_word(offset: int, name: str) -> str:
    """The attribute of a word's feature ``offset`` places before the word."""
    return f"{offset}:{name}"


def of_place(feature: Feature) -> str:
    """The attribute of a place's feature."""
    return "\t".join(feature)


def parted(attribute: str) -> tuple[int | None, Feature]:
    """The way back: (offset, a word's feature), or (None, a place's feature)."""
    head, _, name = attribute.partition(":")
    return (_OFFSETS[head], (name,)) if head in _OFFSETS else (None, tuple(attribute.split("\t")))


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


def place_features(text: str, found: Tokens, sentences: Sequence[tuple[int, int]]) -> list[list[Feature]]:
    """The features of each token that depend on its place: terms that it is part of, pairs of words."""
    terms = _terms(text, found)
    lower = found.lower
    coarse = [_coarse(word) for word in lower]
    features: list[list[Feature]] = []
    for start, end in sentences:
        for place in range(start, end):
            term = terms[place]
            glued = place > start and found.ends[place - 1] == found.starts[place]
            glues = place + 1 < end and found.ends[place] == found.starts[place + 1]
            here: list[Feature] = [("term", term), _GLUE[glued][glues]]
            if place > start:
                here += [
                    ("-1,0", lower[place - 1], lower[place]),
                    ("-1,0c", coarse[place - 1], coarse[place]),
                    ("-1,0term", terms[place - 1], term),
                ]
            if place + 1 < end:
                here += [
                    ("0,1", lower[place], lower[place + 1]),
                    ("0,1c", coarse[place], coarse[place + 1]),
                    ("0,1term", term, terms[place + 1]),
                ]
            if start < place and place + 1 < end:
                here.append(("-1,1c", coarse[place - 1], coarse[place + 1]))
            if glued and place - 1 > start:
                here.append(("glued", coarse[place - 2], found.texts[place - 1]))
            if glues and place + 2 < end:
                here.append(("glues", found.texts[place + 1], coarse[place + 2]))
            features.append(here)
    return features


def _terms(text: str, found: Tokens) -> list[str]:
    """For each token the label of the term that it is part of, with "B" at its beginning; "" outside terms."""
    marks = [""] * len(found.texts)
    place = 0
    for start, end, concept in terminology.found(text):
        while place < len(marks) and found.starts[place] < start:
            place += 1
        first = place
        while place < len(marks) and found.starts[place] < end:
            marks[place] = f"{'B' if place == first else 'I'}{concept.label}"
            place += 1
    return marks


def _coarse(word: str) -> str:
    """A pair of words is seen more often by their coarse clusters."""
    grains = clusters(word)
    if grains:
        return str(grains[-1])
    return "0" if word[0].isdigit() else word if not word[0].isalpha() else "?"
