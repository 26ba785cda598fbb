"""What a sentence may say: every number, date and medicine in it stands in the entities that it cites."""

import re
from collections.abc import Callable, Iterable

from shared.contract.findings import Entity

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_GROUPED = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?")
_MONTH = re.compile(
    r"\b(january|february|march|april|may(?=\s+\d|,)|june|july|august|september|october|november|december)\b", re.I
)
_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip
_NUMERALS = {
    word: str(count)
    for count, word in enumerate(
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"], start=2
    )
}
_NUMERAL = re.compile(rf"\b({'|'.join(_NUMERALS)})\b", re.I)

Medicines = Callable[[str], set[str]]
"""The medicines that a text names, by concept, so that a brand and its substance are the same."""


def _plain(number: str) -> str:
    """A number without the zeros that carry no value: "09" is the ninth, "5.0" mg are 5 mg."""
    if _GROUPED.fullmatch(number):
        number = number.replace(",", "")
    whole, point, rest = number.replace(",", ".").partition(".")
    rest = rest.rstrip("0")
    return (whole.lstrip("0") or "0") + (point + rest if rest else "")


def _numbers(text: str) -> set[str]:
    return {_plain(match) for match in _NUMBER.findall(text)} | {
        _NUMERALS[word.lower()] for word in _NUMERAL.findall(text)
    }


def _borne(entity: Entity, document_date: str | None) -> Iterable[str]:
    yield entity.text
    for attribute in entity.attributes.values():
        yield attribute.text
        if attribute.normalised is not None:
            yield str(attribute.normalised)
    if document_date:
        yield document_date


def holds(sentence: str, cited: Iterable[Entity], document_date: str | None, medicines: Medicines) -> bool:
    """Whether the cited entities bear all numbers, months and medicines of the sentence."""
    words = [text for entity in cited for text in _borne(entity, document_date)]
    said = "\n".join(words)
    # The parts of an ISO date are numbers of their own: 2024-03-09 bears "9 March 2024".
    if not _numbers(sentence) <= _numbers(said):
        return False
    months = {match.lower() for match in _MONTH.findall(sentence)}
    borne = {name for name in _MONTHS if re.search(rf"\b{name[:3]}", said, re.I)} | {
        _MONTHS[int(month) - 1] for month in re.findall(r"\b\d{4}-(0[1-9]|1[0-2])\b", said)
    }
    if not months <= borne:
        return False
    return medicines(sentence) <= medicines(said)
