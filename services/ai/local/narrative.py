"""Pass 3 by rules: a few sentences for each kind of thing that the record states, in the record's own words."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.ai import dosing, units
from services.ai.merging import merged
from services.ai.wire import Claim, Fact

from . import terminology
from .sections import rules

_LONGEST = 12
"""Items of one sentence. More are told in further sentences: a citation of forty entities helps nobody."""
_CHARACTERS = 450
"""Of the items of one sentence; the schema has room for 600 with the opening."""
_TELLING: tuple[str, ...] = ("value", "unit", "site", "severity")
_HOW = ("value", "unit", "dose", "route", "frequency")
_CITED = 60
"""Entities of one sentence, as the schema bounds it."""
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_ISO = re.compile(r"(\d{4})(?:-(\d\d))?(?:-(\d\d))?")
_ORDINARY = re.compile(r"(?:No|[A-Z][a-z]{2,})(?![A-Za-z0-9])")
_SEXES = {"m": "male", "f": "female"}
_NO_ALLERGIES = re.compile(r"no\b|NKDA", re.I)
_LOW, _HIGH = frozenset({"l", "ll", "low", "↓"}), frozenset({"h", "hh", "high", "↑"})


@dataclass(frozen=True, slots=True)
class _Part:
    """``opening`` stands before the items; ``again`` before those that the first sentence has no room for.

    ``by_day``: a sentence for each day, named once.
    """

    opening: str
    chosen: Callable[[Fact], bool]
    again: str = "Also"
    by_day: bool = False


def _is(*labels: str, assertion: str = "affirmed") -> Callable[[Fact], bool]:
    return lambda fact: fact.label in labels and fact.assertion == assertion and fact.subject == "patient"


def _result(*labels: str, notable: bool | None = None) -> Callable[[Fact], bool]:
    is_one = _is(*labels)

    def chosen(fact: Fact) -> bool:
        if not is_one(fact) or "value" not in fact.details:
            return False
        return notable is None or notable == bool(_deviation(fact))

    return chosen


_PARTS = (
    _Part("About the patient", _is("age", "sex", "occupation", "background")),
    _Part("Course", lambda fact: _is("clinical_event", "outcome")(fact) and _dated(fact)),
    _Part("Conditions named in the record", _is("disease"), "Further conditions"),
    _Part("Symptoms and signs described", _is("symptom"), "Further symptoms and signs"),
    _Part(
        "Suspected, but not confirmed",
        lambda fact: fact.assertion == "possible" and fact.subject == "patient",
    ),
    _Part(
        "Denied, or looked for and not found",
        lambda fact: (
            fact.assertion == "negated"
            and fact.subject == "patient"
            and fact.label in ("disease", "symptom", "allergy", "test", "imaging", "examination")
            and not _NO_ALLERGIES.match(fact.text)
        ),
        "Also denied or not found",
    ),
    _Part("Measurements", _result("vital_sign"), by_day=True),
    _Part("Results outside their reference range", _result("test", notable=True), by_day=True),
    _Part("Other results", _result("test", notable=False), by_day=True),
    _Part(
        "Imaging and examinations",
        lambda fact: (
            _is("imaging", "examination")(fact) or (_is("test")(fact) and "value" not in fact.details and _dated(fact))
        ),
        "Further examinations",
    ),
    _Part("Medicines", _is("medication"), "Further medicines"),
    _Part("Earlier or stopped medicines", _is("medication", assertion="historical")),
    _Part("Not given, or to be avoided", _is("medication", "procedure", assertion="negated")),
    _Part("Procedures and treatments", _is("procedure"), "Further procedures and treatments"),
    _Part(
        "In the past",
        lambda fact: (
            fact.assertion == "historical"
            and fact.subject == "patient"
            and fact.label not in ("medication", "clinical_event")
        ),
        "Also in the past",
    ),
    _Part(
        "Allergies and intolerances",
        lambda fact: _is("allergy")(fact) or (fact.label == "allergy" and bool(_NO_ALLERGIES.match(fact.text))),
    ),
    _Part("Way of life", _is("lifestyle", "history")),
    _Part("In the family", lambda fact: fact.subject == "family" and fact.assertion != "negated"),
    _Part(
        "Planned or advised",
        _is("test", "imaging", "examination", "procedure", "medication", "vital_sign", assertion="hypothetical"),
        "Also planned or advised",
    ),
    _Part("To be watched for or prevented", _is("disease", "symptom", assertion="hypothetical")),
)
"""In the order of a letter: who, what, how it was found, what was done, what comes next."""


def narrative(facts: Sequence[Fact]) -> list[Claim]:
    """Sentences that cite the facts they are made of. What is mentioned twice is told once and cites both."""
    groups = merged(
        [fact for fact in facts if not _untold(fact)],
        lambda fact: (fact.subject, fact.assertion, fact.label, terminology.name(fact.text)),
        _details,
        lends_date=lambda fact: fact.label == "medication",
    )
    return [claim for part in _PARTS for claim in _told(part, [group for group in groups if part.chosen(group[0])])]


def _told(part: _Part, groups: Sequence[list[Fact]]) -> list[Claim]:
    """Sentences of one part; results of one day share a sentence that names the day once."""
    days: dict[str | None, list[list[Fact]]] = {}
    for group in groups:
        days.setdefault(_date(group) if part.by_day else None, []).append(group)
    claims: list[Claim] = []
    for date, some in days.items():
        when = f" ({_day(date)})" if date else ""
        for chunk, told in _chunks(some, dated=not part.by_day):
            opening = f"{part.again if claims and not part.by_day else part.opening}{when}"
            items = _listed(told)
            # Each item's own fact before its repetitions, so that the bound never cuts off what bears a number.
            ids = [group[0].id for group in chunk] + [fact.id for group in chunk for fact in _lender_first(group)]
            claims.append(Claim(text=f"{opening}: {items}.", entity_ids=ids[:_CITED]))
    return claims


def _chunks(groups: Sequence[list[Fact]], *, dated: bool) -> list[tuple[list[list[Fact]], list[str]]]:
    """What goes into one sentence: groups, and each in words."""
    chunks: list[tuple[list[list[Fact]], list[str]]] = []
    room = 0
    for group in groups:
        item = _item(group, dated=dated)
        length = len(item) + 2
        if length > _CHARACTERS:
            continue
        if not chunks or len(chunks[-1][0]) == _LONGEST or length > room:
            chunks.append(([], []))
            room = _CHARACTERS
        chunks[-1][0].append(group)
        chunks[-1][1].append(item)
        room -= length
    return chunks


def _lender_first(group: Sequence[Fact]) -> list[Fact]:
    return sorted(group[1:], key=lambda fact: not _dated(fact))


def _date(group: Sequence[Fact]) -> str | None:
    return next((fact.details["date"] for fact in group if _dated(fact)), None)


def _untold(fact: Fact) -> bool:
    words = fact.text.lower()
    listed = rules("attributes")
    return words in listed["untold"] or (words in listed["adjectives"] and "site" not in fact.details)


def _details(fact: Fact) -> dict[str, str]:
    """What tells two mentions of one thing apart, in a comparable form."""
    kept: dict[str, str] = {name: fact.details[name] for name in _TELLING if name in fact.details}
    for name, normal in (("dose", dosing.dose), ("route", dosing.route), ("frequency", dosing.frequency)):
        if name in fact.details:
            kept[name] = normal(fact.details[name]) or fact.details[name]
    if _dated(fact):
        kept["date"] = fact.details["date"]
    return kept


def _dated(fact: Fact) -> bool:
    return _ISO.fullmatch(fact.details.get("date", "")) is not None


def _item(group: Sequence[Fact], *, dated: bool) -> str:
    fact = group[0]
    details = fact.details
    words, notes = _in_sentence(fact), []
    if site := details.get("site"):
        if fact.text.lower() in rules("attributes")["adjectives"]:
            words = f"{words} {_small(site)}"
        else:
            notes.append(site)
    if (severity := details.get("severity")) and fact.label in ("symptom", "disease"):
        words = f"{severity.lower()} {words}"
    how = [_small(details[name]) for name in _HOW if name in details]
    notes += [note for note in (_deviation(fact), _since(group) if dated else None) if note]
    text = " ".join([words, *how]).replace(" %", "%")
    return f"{text} ({', '.join(notes)})" if notes else text


def _since(group: Sequence[Fact]) -> str | None:
    date = _date(group)
    if date is None:
        return None
    since = any(re.match(r"(?:since|from)\b", fact.details.get("time", ""), re.I) for fact in group)
    return f"since {_day(date)}" if since else _day(date)


def _in_sentence(fact: Fact) -> str:
    """The record's words without the capital that only a line's beginning gave them."""
    words = _SEXES.get(fact.text.lower(), fact.text) if fact.label == "sex" else fact.text
    first = _ORDINARY.match(words)
    if fact.label == "medication" or first is None or first.group().lower() in rules("attributes")["names"]:
        return words
    return words[0].lower() + words[1:]


def _small(words: str) -> str:
    """ "Intramuscular" as "intramuscular", "U/L" and "IV" as they are."""
    return words[0].lower() + words[1:] if _ORDINARY.match(words) else words


def _deviation(fact: Fact) -> str | None:
    if fact.label != "test":
        return None
    flag = fact.details.get("flag", "").lower()
    if flag in _LOW or flag in _HIGH:
        return "low" if flag in _LOW else "high"
    return units.outside(fact.details.get("value", ""), fact.details.get("range", ""))


def _day(iso: str) -> str:
    match = _ISO.fullmatch(iso)
    year, month, day = match.groups() if match else (iso, None, None)
    return " ".join(
        part for part in (str(int(day)) if day else "", _MONTHS[int(month) - 1] if month else "", year) if part
    )


def _listed(items: Sequence[str]) -> str:
    if len(items) == 1:
        return items[0]
    if any(", " in item for item in items):
        return f"{'; '.join(items[:-1])}; and {items[-1]}"
    return f"{', '.join(items[:-1])} and {items[-1]}"
