"""Words, numbers and signs of a text as the tagger reads them: finer than the terminology's words, hyphens apart."""

import re
from dataclasses import dataclass
from functools import lru_cache

_TOKEN = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*|[^\w\s\x00]|_")
"""A blanked heading is no sign."""
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
    found = list(_TOKEN.finditer(text))
    texts = [match.group() for match in found]
    return Tokens(
        texts, [word.lower() for word in texts], [match.start() for match in found], [match.end() for match in found]
    )
