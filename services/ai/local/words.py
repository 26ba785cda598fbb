"""Words as the terminology compares them: case, plural and spelling variant folded, with their offsets."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

_WORD = re.compile(r"[^\W_]+(?:['’]s\b)?")
_JOINS = re.compile(r"(?:[ \t\u2000-\u200a\u00a0]*[-‐‑–/+]?[ \t\u2000-\u200a\u00a0]*\n?[ \t]*)")


class WordAt(NamedTuple):
    """A word of a text. ``joined``: nothing but a space, hyphen, slash or one line break stands before it."""

    text: str
    key: str
    start: int
    end: int
    joined: bool


@lru_cache(maxsize=65536)
def key(word: str) -> str:
    """The form under which a word is compared. Both sides are folded alike, so it need not be a word itself."""
    word = word.lower().removesuffix("'s").removesuffix("’s")
    if len(word) > 4:
        word = word.replace("ae", "e").replace("oe", "e").replace("our", "or").replace("sulph", "sulf")
        if word.endswith(("sis", "ses")):
            return word[:-3] + "s"
        if word.endswith("ies"):
            return word[:-3] + "y"
        if word.endswith("s") and not word.endswith(("ss", "us", "is")):
            return word[:-1].removesuffix("e") if word.endswith(("ches", "shes", "xes")) else word[:-1]
    return word


def words(text: str) -> list[WordAt]:
    """The words of ``text`` in order."""
    found: list[WordAt] = []
    before = 0
    for match in _WORD.finditer(text):
        start, end = match.span()
        gap, word = text[before:start], match.group()
        joined = gap == " " or _JOINS.fullmatch(gap) is not None
        found.append(WordAt(word, key(word), start, end, joined))
        before = end
    return found


@lru_cache(maxsize=8192)
def phrase(text: str) -> str:
    """A term's key: its words' keys with single spaces."""
    return " ".join(key(word) for word in _WORD.findall(text))


def joined(run: Sequence[WordAt]) -> str:
    """The key of a run of words."""
    return " ".join([word.key for word in run])
