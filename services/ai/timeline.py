"""Dated entities in the order of their days."""

import re
from collections.abc import Iterable

from shared.contract.findings import AttributeName, Entity, TimelineEntry

from .local import terminology
from .local.sections import rules
from .merging import merged

_DATE = re.compile(r"\d{4}(?:-\d\d){0,2}")
_DATED_BY_DOCUMENT = frozenset({"test", "vital_sign"})
"""What a document reports as of its own date. A disease in a letter of March need not have begun in March."""
_PREFIX = {"possible": "Possible ", "historical": "Past: ", "hypothetical": "Planned or conditional: "}


def when(entity: Entity, document_date: str | None) -> str | None:
    """The ISO date, month or year of an entity, or None."""
    time = entity.attributes.get("time")
    if time is not None and isinstance(time.normalised, str) and _DATE.fullmatch(time.normalised):
        return time.normalised
    if time is None and entity.label in _DATED_BY_DOCUMENT and "value" in entity.attributes:
        return document_date
    return None


def title(entity: Entity) -> str:
    """An entity in a line: its words with value, unit and dose."""
    names: list[AttributeName] = ["value", "unit", "dose"]
    if entity.text.lower() in rules("attributes")["adjectives"]:
        names.insert(0, "site")  # "dilated left atrium"
    details = [entity.attributes[name].text for name in names if name in entity.attributes]
    words = " ".join([" ".join(entity.text.split()), *details])
    return f"{_PREFIX.get(entity.assertion, '')}{words}"


def entries(entities: Iterable[Entity], document_date: str | None) -> tuple[TimelineEntry, ...]:
    """The patient's own findings that hold, by date; mentions of the same are one entry, unless on different days."""
    told = [entity for entity in entities if _told(entity, document_date)]
    groups = merged(
        told,
        lambda entity: (entity.assertion, terminology.name(entity.text)),
        lambda entity: _details(entity, document_date),
        lends_date=lambda entity: entity.label == "medication",
    )
    dated = [(next((day for entity in group if (day := when(entity, document_date))), None), group) for group in groups]
    dated.sort(key=lambda entry: (entry[0] is None, entry[0] or ""))
    return tuple(
        TimelineEntry(
            date=date,
            title=title(group[0]),
            entity_ids=tuple(entity.id for entity in group),
            fact_key=_fact_key(group[0], date),
        )
        for date, group in dated
    )


def _fact_key(entity: Entity, date: str | None) -> str | None:
    """What another document of the patient would have to say to say the same: the thing, the day, the figures.

    A medicine is the same with or without a date. Anything else without a date stands for itself.
    """
    if date is None and entity.label != "medication":
        return None
    details = _details(entity, None)
    figures = [details.get(name, "") for name in ("value", "unit", "dose")]
    return "/".join((entity.label, entity.assertion, terminology.name(entity.text), *figures)).casefold()


def _told(entity: Entity, document_date: str | None) -> bool:
    if entity.subject != "patient" or entity.assertion == "negated" or entity.kind == "context":
        return False
    if entity.assertion == "hypothetical" and entity.label in ("disease", "symptom"):
        return False  # a warning, not a plan
    if entity.text.lower() in rules("attributes")["adjectives"] and "site" not in entity.attributes:
        return False
    return entity.label != "clinical_event" or when(entity, document_date) is not None


def _details(entity: Entity, document_date: str | None) -> dict[str, str]:
    shown = ("value", "unit", "dose") if entity.kind != "intervention" else ("dose",)
    details: dict[str, str] = {
        name: str(a.normalised or a.text) for name, a in entity.attributes.items() if name in shown
    }
    return {**details, "date": when(entity, document_date) or ""}
