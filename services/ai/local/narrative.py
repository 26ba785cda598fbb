"""Pass 3 by rules: one sentence for each kind of thing that the record states, in the record's own words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.ai.wire import Claim, Fact

_LONGEST = 12
"""Items of one sentence. More are told in further sentences: a citation of forty entities helps nobody."""


@dataclass(frozen=True, slots=True)
class _Part:
    opening: str
    chosen: Callable[[Fact], bool]


def _holds(fact: Fact) -> bool:
    return fact.subject == "patient" and fact.assertion == "affirmed"


def _is(*labels: str, assertion: str = "affirmed") -> Callable[[Fact], bool]:
    return lambda fact: fact.subject == "patient" and fact.assertion == assertion and fact.label in labels


_PARTS = (
    _Part("The record describes", _is("age", "sex", "occupation", "background")),
    _Part("It names these diagnoses and conditions:", _is("disease")),
    _Part("It reports:", _is("symptom")),
    _Part("Results:", lambda fact: _holds(fact) and fact.label in ("test", "vital_sign") and "value" in fact.details),
    _Part("Examinations:", lambda fact: _holds(fact) and fact.label in ("imaging", "examination")),
    _Part("Medicines:", _is("medication")),
    _Part("Procedures and treatments:", _is("procedure")),
    _Part(
        "Looked for and not found, or denied:", lambda fact: fact.assertion == "negated" and fact.subject == "patient"
    ),
    _Part("Suspected, not confirmed:", lambda fact: fact.assertion == "possible" and fact.subject == "patient"),
    _Part("In the past:", lambda fact: fact.assertion == "historical" and fact.subject == "patient"),
    _Part("Planned or conditional:", lambda fact: fact.assertion == "hypothetical" and fact.subject == "patient"),
    _Part("Allergies:", _is("allergy")),
    _Part("Way of life:", _is("lifestyle", "history")),
    _Part("In the family:", lambda fact: fact.subject == "family" and fact.assertion != "negated"),
)


def narrative(facts: Sequence[Fact]) -> list[Claim]:
    """Sentences that cite the facts they are made of."""
    return [claim for part in _PARTS for claim in _told(part, [fact for fact in facts if part.chosen(fact)])]


def _told(part: _Part, facts: Sequence[Fact]) -> list[Claim]:
    items: dict[str, list[str]] = {}
    for fact in facts:
        items.setdefault(_item(fact), []).append(fact.id)
    listed = list(items.items())
    return [
        Claim(
            text=f"{part.opening} {', '.join(item for item, _ in some)}.",
            entity_ids=[entity for _, ids in some for entity in ids],
        )
        for first in range(0, len(listed), _LONGEST)
        for some in [listed[first : first + _LONGEST]]
    ]


def _item(fact: Fact) -> str:
    details = [fact.details[name] for name in ("value", "unit", "dose", "route", "frequency") if name in fact.details]
    date = fact.details.get("date", "")
    when = f" ({date})" if date[:4].isdigit() else ""
    return f"{' '.join([fact.text, *details])}{when}"
