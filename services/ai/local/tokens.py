"""Words, numbers and signs of a text as the tagger reads them: finer than the terminology's words, hyphens apart."""

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

_TOKEN = re.compile(r"([^\W\d_]+|\d+(?:[.,]\d+)*|[^\w\s\x00]|_)")
"""In brackets, so that a text is split into them and what lies between. A blanked heading is no sign."""
_TEXTS_KEPT = 64
"""All that looks at the words of a page asks for its tokens."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text, as columns; ``lower`` are they in lower case."""

    texts: list[str]
    lower: list[str]
    starts: list[int]
    ends: list[int]


@lru_cache(maxsize=_TEXTS_KEPT)
def tokens(text: str) -> Tokens:
    """All tokens in order; what lies between them is white space."""
    texts, starts, ends = apart(text, _TOKEN)
    return Tokens(texts, list(map(str.lower, texts)), starts, ends)


def apart(text: str, wanted: re.Pattern[str]) -> tuple[list[str], list[int], list[int]]:
    """(matches, starts, ends) of a pattern that is one group: a split is a third of the price of asking each match."""
    pieces = wanted.split(text)
    edges = list(accumulate(map(len, pieces)))
    return pieces[1::2], edges[:-1:2], edges[1::2]
