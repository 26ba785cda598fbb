"""Words as the terminology compares them: case, plural and spelling variant folded, with their offsets."""

import re
from dataclasses import dataclass
from functools import lru_cache

from .tokens import apart

_WORD = re.compile(r"([^\W_]+(?:['’]s\b)?)")
_JOINS = re.compile(r"(?:['’]?[ \t\u2000-\u200a\u00a0]*[-‐‑–/+&]?[ \t\u2000-\u200a\u00a0]*\n?[ \t]*)")


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a text, as columns."""

    text: str
    keys: list[str]
    starts: list[int]
    ends: list[int]

    def printed(self, place: int) -> str:
        """A word as it stands there."""
        return self.text[self.starts[place] : self.ends[place]]

    def joined(self, place: int) -> bool:
        """Whether nothing but a space, apostrophe, hyphen, slash, "&" or one line break stands before a word."""
        gap = self.text[self.ends[place - 1] : self.starts[place]]
        return gap == " " or _JOINS.fullmatch(gap) is not None

    def run(self, first: int, last: int) -> str:
        """The key of the words [first, last)."""
        return " ".join(self.keys[first:last])


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


def words(text: str) -> Words:
    """The words of ``text`` in order."""
    printed, starts, ends = apart(text, _WORD)
    return Words(text, list(map(key, printed)), starts, ends)


@lru_cache(maxsize=8192)
def phrase(text: str) -> str:
    """A term's key: its words' keys with single spaces."""
    return " ".join([key(word) for word in _WORD.findall(text)])
