"""Words, numbers and signs of a text as the tagger reads them: finer than the terminology's words, hyphens apart."""

import re
from dataclasses import dataclass

_TOKEN = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*|[^\w\s\x00]|_")
"""A blanked heading is no sign."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text, as columns."""

    texts: list[str]
    starts: list[int]
    ends: list[int]


def tokens(text: str) -> Tokens:
    """All tokens in order; what lies between them is white space."""
    found = Tokens([], [], [])
    for match in _TOKEN.finditer(text):
        found.texts.append(match.group())
        start, end = match.span()
        found.starts.append(start)
        found.ends.append(end)
    return found
