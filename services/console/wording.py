"""What things are called on the pages: one place, so that they are called the same on all of them."""

from datetime import UTC, date, datetime
from typing import Any

STAGES = {
    "ocr": "Read",
    "ocr_pages": "Read pages",
    "ai_detect": "Find",
    "ai_enrich": "Understand",
    "ai_narrate": "Tell",
    "persist": "Keep",
}
"""The pipeline's steps in their order. A step that is not named here is shown by its own name, after them."""
FIRST_STAGES = tuple(stage for stage in STAGES if stage != "ocr_pages")
"""Those that every document has."""

DOCUMENT_STATUS = {
    "uploading": ("Uploading", "info"),
    "queued": ("Waiting", "info"),
    "processing": ("Working", "info"),
    "completed": ("Done", "good"),
    "failed": ("Failed", "bad"),
    "quarantined": ("Quarantined", "bad"),
    "cancelled": ("Cancelled", "warn"),
}
STAGE_STATUS = {
    "waiting": ("not yet", "none"),
    "pending": ("waiting", "info"),
    "processing": ("working", "info"),
    "failed": ("will try again", "warn"),
    "completed": ("done", "good"),
    "dead_letter": ("failed", "bad"),
    "cancelled": ("cancelled", "warn"),
}
KINDS = {"event": "Event", "observation": "Result", "intervention": "Treatment", "context": "Context"}
ASSERTIONS = {
    "affirmed": "",
    "negated": "Ruled out",
    "possible": "Possible",
    "historical": "In the past",
    "hypothetical": "Planned or conditional",
}
SUBJECTS = {"patient": "", "family": "Of the family", "other": "Of somebody else"}
REASONS = {
    "words_differ": "Its words are on the page only with a difference.",
    "attribute_not_found": "Something was claimed of it that is not on the page.",
    "quote_not_found": "The words that were claimed are not on the page.",
    "kind_unknown": "It was claimed to be of a kind that does not exist.",
    "number_uncertain": "The page could not be read with certainty here.",
    "prompt_text": "Its words are those of an instruction, not of a record.",
    "other_person": "The document names somebody else. Nothing of it counts until you decide.",
    "missed": "A reader found it.",
    "reader": "You looked at it.",
}
DECISIONS = {"accepted": "Accepted", "corrected": "Corrected", "dismissed": "Dismissed"}
ATTRIBUTES = {
    "value": "Value",
    "unit": "Unit",
    "range": "Reference range",
    "flag": "Flag",
    "dose": "Dose",
    "route": "Route",
    "frequency": "Frequency",
    "time": "When",
    "severity": "Severity",
    "site": "Site",
}
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def partial_date(value: str | None) -> str:
    """``9 Mar 2024``, ``Mar 2024``, ``2024``: to the precision that is known."""
    parts = (value or "").split("-")
    if not all(part.isdecimal() for part in parts):
        return value or ""
    if len(parts) >= 2:
        parts[1] = MONTHS[int(parts[1]) - 1] if 1 <= int(parts[1]) <= 12 else parts[1]
    if len(parts) == 3:
        parts[2] = str(int(parts[2]))
    return " ".join(reversed(parts))


def moment(value: datetime | date | None) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        value = value.astimezone(UTC)
        return f"{value.day} {MONTHS[value.month - 1]} {value.year}, {value:%H:%M} UTC"
    return f"{value.day} {MONTHS[value.month - 1]} {value.year}"


def seconds(value: float | None) -> str:
    """``0.4 s``, ``12 s``, ``3 min``, ``2.1 h``."""
    if value is None:
        return ""
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h"


def size(count: int) -> str:
    if count < 1000:
        return f"{count} bytes"
    return f"{count / 1000:.0f} kB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def details(fact: dict[str, Any]) -> str:
    """What is said of a fact, in a line: ``104 g/L (115 - 165) Low``, ``5 mg oral twice daily``."""
    attributes = fact["attributes"]

    def said(name: str) -> str:
        return attributes[name]["text"] if attributes.get(name) else ""

    parts = [
        said("value"), said("unit"), f"({said('range')})" if said("range") else "", said("flag"),
        said("dose"), said("route"), said("frequency"), said("severity"), said("site"),
    ]  # fmt: skip
    return " ".join(" ".join(part.split()) for part in parts if part)


def when(fact: dict[str, Any]) -> str:
    time = fact["attributes"].get("time")
    return partial_date(str(time.get("normalised") or time["text"])) if time else ""
