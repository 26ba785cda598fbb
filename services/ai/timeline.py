"""Dated entities in the order of their days."""

import re
from collections.abc import Iterable

from shared.contract.findings import Entity, TimelineEntry

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
    details = [entity.attributes[name].text for name in ("value", "unit", "dose") if name in entity.attributes]
    words = " ".join([" ".join(entity.text.split()), *details])
    return f"{_PREFIX.get(entity.assertion, '')}{words}"


def entries(entities: Iterable[Entity], document_date: str | None) -> tuple[TimelineEntry, ...]:
    """The patient's own findings that hold, by date; mentions of the same on the same day are one entry."""
    grouped: dict[tuple[str | None, str, str], list[Entity]] = {}
    for entity in entities:
        if entity.subject != "patient" or entity.assertion == "negated" or entity.kind == "context":
            continue
        key = (when(entity, document_date), entity.assertion, title(entity).casefold())
        grouped.setdefault(key, []).append(entity)
    ordered = sorted(grouped.items(), key=lambda group: (group[0][0] is None, group[0][0] or ""))
    return tuple(
        TimelineEntry(date=date, title=title(same[0]), entity_ids=tuple(entity.id for entity in same))
        for (date, _, _), same in ordered
    )
