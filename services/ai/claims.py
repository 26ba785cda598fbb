"""What a sentence may say: its numbers, dates, medicines, conditions and names stand in the entities that it cites."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from shared.contract.findings import Entity

from .local import terminology
from .local.terminology import Concept
from .local.words import key, phrase, words

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_MONTH = re.compile(
    r"\b(january|february|march|april|may(?=\s+\d|,)|june|july|august|september|october|november|december)\b", re.I
)
_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_SHORT_MONTHS = tuple(name[:3] for name in _MONTHS)
_MONTH_KEYS = frozenset(map(key, _MONTHS))
_BEGINS_MONTH = re.compile(rf"\b({'|'.join(_SHORT_MONTHS)})", re.I)
_ISO_MONTH = re.compile(r"\b\d{4}-(0[1-9]|1[0-2])\b")
_NUMERALS = {
    word: str(count)
    for count, word in enumerate(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], start=2
    )
}

_NAMED = frozenset({"medication", "disease", "symptom", "procedure"})
"""Labels of what must not be said of anybody without a source."""
_GENERIC = frozenset({"sign", "and", "symptom", "disease", "condition", "finding", "result"})
"""Of "signs and symptoms" and the like, which name nothing."""
# A capital inside a sentence: a person, a place, an abbreviation. A word that opens one may be any.
_NAME = re.compile(r"(?<=[\w,;)'’\"] )[(\[\"'‘“]?(?P<name>[A-Z][\w'’-]*)")
_ADDRESS = re.compile(r"https?:|www\.|\S@\S", re.I)
_CATEGORY = 3
"""Characters of an ICD-10 code that say which disease it is; the others say where and how."""
_TEXTS_KEPT = 4096
"""Entities are cited again, and documents say the same of many patients."""
_SHORT = 3
"""Letters of a word that may be what a sentence names: fewer are "the", "was", "of"."""


def _plain(number: str) -> str:
    """A number without the zeros that carry no value: "09" is the ninth, "5.0" mg are 5 mg."""
    if _GROUPED.fullmatch(number):
        number = number.replace(",", "")
    whole, point, rest = number.replace(",", ".").partition(".")
    rest = rest.rstrip("0")
    return (whole.lstrip("0") or "0") + (point + rest if rest else "")


@lru_cache(maxsize=_TEXTS_KEPT)
def _numbers(text: str) -> frozenset[str]:
    return _counted(text, phrase(text).split())


def _counted(text: str, keys: Iterable[str]) -> frozenset[str]:
    """The numbers of a text, whose words have these keys."""
    return frozenset(map(_plain, _NUMBER.findall(text))).union(map(_NUMERALS.__getitem__, _NUMERALS.keys() & keys))


def _borne(entity: Entity, document_date: str | None) -> Iterable[str]:
    yield entity.text
    for attribute in entity.attributes.values():
        yield attribute.text
        if attribute.normalised is not None:
            yield str(attribute.normalised)
    if document_date:
        yield document_date


def _months_of(said: str) -> set[str]:
    return {_MONTHS[_SHORT_MONTHS.index(month.lower())] for month in _BEGINS_MONTH.findall(said)} | {
        _MONTHS[int(month) - 1] for month in _ISO_MONTH.findall(said)
    }


def holds(sentence: str, cited: Sequence[Entity], document_date: str | None) -> bool:
    """Whether the cited entities bear what the sentence says, and the sentence says something of them."""
    texts = dict.fromkeys(text for entity in cited for text in _borne(entity, document_date))
    # Apart, so that no term runs from one into the next.
    said = "\n\n".join(texts)
    told_words = words(sentence)
    # The parts of an ISO date are numbers of their own: 2024-03-09 bears "9 March 2024".
    numbers = _counted(sentence, told_words.keys)
    if not numbers <= frozenset[str]().union(*map(_numbers, texts)) or _ADDRESS.search(sentence):
        return False
    months = set() if _MONTH_KEYS.isdisjoint(told_words.keys) else {month.lower() for month in _MONTH.findall(sentence)}
    if months and not months <= _months_of(said):
        return False
    printed = {word for text in texts for word in phrase(text).split()}
    names = {word for match in _NAME.finditer(sentence) for word in phrase(match["name"]).split()} - {"i"}
    if not names <= printed | {key(month) for month in months}:
        return False
    told = terminology.named(told_words, _NAMED)
    borne = printed | _GENERIC
    renamed = [concept for concept, spelling in told.items() if not spelling <= borne]
    # What fits any citation was made up, or copied: it names one thing at least that it cites.
    cites = any(word in printed for word in told_words.keys if len(word) >= _SHORT or not word.isalpha())
    if cites and not renamed:
        return True
    known = terminology.named(words(said), _NAMED)
    return all(_is_one_of(concept, known) for concept in renamed) and (
        cites or any(_is_one_of(concept, known) for concept in told)
    )


def _is_one_of(concept: Concept, known: Iterable[Concept]) -> bool:
    """By name, or by a code's category: a heart attack is a myocardial infarction. A sign without a code may be any."""
    categories = {(code.system, code.code[:_CATEGORY]) for other in known for code in other.codes}
    if any(concept.name == other.name for other in known):
        return True
    if concept.label == "medication":
        return False
    if not concept.codes:
        return concept.label == "symptom"
    return any((code.system, code.code[:_CATEGORY]) in categories for code in concept.codes)
