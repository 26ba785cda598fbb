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
    "words_differ": "On the page it is spelt a little differently.",
    "attribute_not_found": "Something was claimed of it that is not on the page.",
    "quote_not_found": "The words that were claimed are not on the page.",
    "kind_unknown": "It was claimed to be of a kind that does not exist.",
    "number_uncertain": "The page is hard to read here: compare what was read with what it shows.",
    "prompt_text": "The model repeated its own instructions instead of the page.",
    "other_person": "This document may be somebody else's. Nothing of it counts until you decide.",
    "missed": "It is on the page, and the model passed over it.",
    "reader": "You looked at it.",
}
DECISIONS = {"accepted": "Accepted", "corrected": "Corrected", "dismissed": "Dismissed"}
IDENTITY_FIELDS = {"name": "Name on it", "birth_date": "Date of birth on it"}
"""What of a document may contradict the record that it is in."""
READ_FROM = {"text_layer": "The file's own text", "ocr": "Recognised in the picture", "blank": "A blank page"}
CORRECTIONS = {
    "shading": "shadows evened out",
    "noise": "specks removed",
    "skew": "straightened",
    "rotation": "turned upright",
    "text_layer_rejected": "its own text was not what it shows",
}
FILE_DECISIONS = {
    "allow": ("Let in", "good"),
    "flag": ("Let in, and noted", "warn"),
    "quarantine": ("Quarantined", "bad"),
    "refuse": ("Not read", "bad"),
}
FILE_FINDINGS = {
    "javascript": "a script",
    "launch": "a command that starts a program",
    "open_action": "something that happens as soon as it is opened",
    "embedded_file": "another file inside it",
    "rich_media": "sound, film or 3D content",
    "submit_form": "a form that sends what is filled in",
    "import_data": "a form that fetches data",
    "remote_go_to": "a link that opens another file",
    "xfa": "a form of an abandoned kind (XFA)",
    "polyglot": "a second kind of file in the same bytes",
    "type_mismatch": "another kind of file than its name says",
}
ANTIVIRUS = {
    "clean": "No virus found.",
    "infected": "A virus was found.",
    "not_scanned": "No virus scanner is set up.",
    "unavailable": "The virus scanner gave no answer.",
}
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
SAID_IN_ORDER = ("value", "unit", "range", "flag", "dose", "route", "frequency", "severity", "site")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def told(details: dict[str, Any]) -> str:
    """What a worker says of itself: its model or engines, and of its guards those that are up."""
    guards = [name for value in details.values() if isinstance(value, dict) for name, is_up in value.items() if is_up]
    return ", ".join([*(str(value) for value in details.values() if not isinstance(value, dict)), *guards])


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
    return " ".join(text for text, _ in parts(fact))


def parts(fact: dict[str, Any]) -> list[tuple[str, bool]]:
    """The same piece by piece, each with whether its reading is not certain."""
    said = [(name, fact["attributes"][name]) for name in SAID_IN_ORDER if fact["attributes"].get(name)]
    return [
        (_in_place(name, " ".join(attribute["text"].split())), bool(attribute.get("uncertain")))
        for name, attribute in said
        if attribute["text"]
    ]


def _in_place(name: str, text: str) -> str:
    return f"({text})" if name == "range" else text


def when(fact: dict[str, Any]) -> str:
    time = fact["attributes"].get("time")
    return partial_date(str(time.get("normalised") or time["text"])) if time else ""
