"""Annotated documents: brat folders (``.txt`` beside ``.ann``) in MACCROBAT's labels, and JSONL in our own."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.ai.wire import KIND_OF_LABEL
from shared.contract.findings import Assertion, AttributeName, Kind, Subject

LABELS = {
    "Disease_disorder": "disease",
    "Clinical_event": "clinical_event",
    "Other_event": "clinical_event",
    "Outcome": "outcome",
    "Sign_symptom": "symptom",
    "Diagnostic_procedure": "test",
    "Medication": "medication",
    "Therapeutic_procedure": "procedure",
    "Age": "age",
    "Sex": "sex",
    "History": "history",
    "Family_history": "family_history",
    "Personal_background": "background",
    "Occupation": "occupation",
    "Activity": "lifestyle",
}
"""MACCROBAT's labels of findings → ours."""
ATTRIBUTES: dict[str, AttributeName] = {
    "Lab_value": "value",
    "Dosage": "dose",
    "Administration": "route",
    "Frequency": "frequency",
    "Date": "time",
    "Time": "time",
    "Duration": "time",
    "Severity": "severity",
    "Biological_structure": "site",
}
"""MACCROBAT's labels of what is said about findings → ours."""
_ASSERTIONS: dict[str, Assertion] = {
    "NEG": "negated",
    "MAYBE_NEG": "negated",
    "UNCERTAIN": "possible",
    "MAYBE_POS": "possible",
}
_ENTITY = re.compile(r"(?P<label>\S+) (?P<fragments>\d+ \d+(?:;\d+ \d+)*)")


@dataclass(frozen=True, slots=True)
class Stretch:
    """Words that say something about a finding; ``normalised`` where the truth states it."""

    start: int
    end: int
    normalised: str | float | None = None


@dataclass(frozen=True, slots=True)
class Truth:
    """A finding that stands in a document. ``assertion`` is None where the corpus does not tell it."""

    start: int
    end: int
    kind: Kind
    label: str
    assertion: Assertion | None
    subject: Subject | None
    attributes: dict[AttributeName, Stretch] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Document:
    """``said`` are all words of an attribute's kind, linked or not; ``other`` are spans of labels without use here."""

    id: str
    text: str
    truths: tuple[Truth, ...]
    said: tuple[tuple[str, int, int], ...] = ()
    other: tuple[tuple[str, int, int], ...] = ()


def read(folder: Path) -> list[Document]:
    """The documents of a folder, or of one JSONL file, in the order of their names."""
    files = [folder] if folder.is_file() else sorted(folder.iterdir())
    found = [document for path in files if path.suffix == ".jsonl" for document in _jsonl(path)]
    found += [_brat(path) for path in files if path.suffix == ".ann"]
    if not found:
        raise FileNotFoundError(f"{folder} holds neither brat files (.txt, .ann) nor .jsonl")
    return found


def _jsonl(path: Path) -> Iterator[Document]:
    for line in path.read_text("utf-8").splitlines():
        content = json.loads(line)
        truths = tuple(_truth(entity, content) for entity in content["entities"])
        said = tuple(
            (name, stretch.start, stretch.end) for truth in truths for name, stretch in truth.attributes.items()
        )
        yield Document(content["id"], content["text"], truths, said)


def _truth(entity: dict[str, Any], content: dict[str, Any]) -> Truth:
    for part in (entity, *entity["attributes"].values()):
        if content["text"][part["start"] : part["end"]] != part["quote"]:
            raise ValueError(f"{content['id']}: the quote at {part['start']} is not what stands there")
    return Truth(
        start=entity["start"],
        end=entity["end"],
        kind=KIND_OF_LABEL[entity["label"]],
        label=entity["label"],
        assertion=entity["assertion"],
        subject=entity["subject"],
        attributes={
            name: Stretch(said["start"], said["end"], said.get("normalised"))
            for name, said in entity["attributes"].items()
        },
    )


def _brat(path: Path) -> Document:
    text = path.with_suffix(".txt").read_text("utf-8")
    spans: dict[str, tuple[str, int, int]] = {}
    events: dict[str, str] = {}
    stated: dict[str, Assertion] = {}
    modifies: list[tuple[str, str]] = []
    for line in path.read_text("utf-8").splitlines():
        name, _, rest = line.partition("\t")
        if name.startswith("T") and (match := _ENTITY.match(rest)):
            # A discontinuous span counts from its first word to its last: 38 of 17,724 are.
            edges = [int(edge) for edge in re.findall(r"\d+", match["fragments"])]
            spans[name] = (match["label"], edges[0], edges[-1])
        elif name.startswith("E"):
            events[name] = rest.split()[0].partition(":")[2]
        elif name.startswith("A") and rest.startswith("POLARITY"):
            _, target, value = rest.split()
            if value in _ASSERTIONS:
                stated[target] = _ASSERTIONS[value]
        elif name.startswith("R") and rest.startswith("MODIFY"):
            first, second = (part.partition(":")[2] for part in rest.split()[1:3])
            modifies.append((first, second))
    stated |= {events[name]: value for name, value in list(stated.items()) if name in events}
    attributes: dict[str, dict[AttributeName, Stretch]] = {}
    for first, second in modifies:
        label, start, end = spans.get(events.get(first, first), ("", 0, 0))
        if label in ATTRIBUTES:
            attributes.setdefault(events.get(second, second), {}).setdefault(ATTRIBUTES[label], Stretch(start, end))
    truths = tuple(
        Truth(
            start=start,
            end=end,
            kind=KIND_OF_LABEL[LABELS[label]],
            label=LABELS[label],
            assertion=stated.get(name, "affirmed"),
            subject=None,
            attributes=attributes.get(name, {}),
        )
        for name, (label, start, end) in spans.items()
        if label in LABELS
    )
    said = tuple((ATTRIBUTES[label], start, end) for label, start, end in spans.values() if label in ATTRIBUTES)
    other = tuple(span for span in spans.values() if span[0] not in LABELS and span[0] not in ATTRIBUTES)
    return Document(path.stem, text, truths, said, other)
