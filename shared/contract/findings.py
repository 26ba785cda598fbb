"""Findings as ``services/ai`` writes them to ``ai_pass_results`` and ``services/persister`` reads them."""

from typing import Any, Literal
from uuid import UUID, uuid5

from pydantic import Field

from .base import Row
from .pages import Box

Kind = Literal["event", "observation", "intervention", "context"]
Assertion = Literal["affirmed", "negated", "possible", "historical", "hypothetical"]
Subject = Literal["patient", "family", "other"]
Alignment = Literal["exact", "normalised", "fuzzy"]
AttributeName = Literal[
    "value", "unit", "range", "flag", "dose", "route", "frequency", "time", "severity", "site"
]  # fmt: skip
Relation = Literal["treats", "shows", "causes", "same_as"]
"""What one entity is to another: metformin treats diabetes, an X-ray shows pneumonia, a drug causes a rash."""


class _Folds(dict[int, str]):
    """Character → what it is folded to, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        lower = " " if character.isspace() else character.lower()
        self[code] = lower if len(lower) == 1 else character
        return self[code]


_FOLDS = _Folds()


def folded(text: str) -> str:
    """Without letter case and kinds of white space, each character in its place."""
    return text.translate(_FOLDS)


class Source(Row):
    """Where a finding stands: ``pages[page].text[start:end] == quote``; ``boxes`` cover those words, one box a line."""

    page: int = Field(ge=1)
    start: int = Field(ge=0)
    end: int = Field(gt=0)
    quote: str = Field(min_length=1)
    boxes: tuple[Box, ...]


class Attribute(Row):
    """What is said about a finding: the words, a normalised form where one is known, and where the words stand."""

    text: str
    normalised: str | float | None = None
    source: Source
    uncertain: bool = False
    """OCR was not sure of these words."""


class Code(Row):
    system: str
    code: str
    display: str


class Engine(Row):
    """Who found it: kept with every row, so that a model swap can be compared and undone."""

    provider: str
    model: str
    prompt_version: str
    schema_version: str
    terminology: str | None = None
    """What names and codes were looked up in, with versions."""


class Finding(Row):
    """Pass 1: something on the page, of a kind, with its words. ``id`` is unique within the run (``e1``, ``e2`` …)."""

    id: str
    kind: Kind
    label: str
    text: str
    source: Source
    alignment: Alignment
    occurrence: int = Field(default=1, ge=1)
    """Which of the places of its words on the page it is: with page, words and kind it names the finding in any run."""
    codes: tuple[Code, ...] = ()
    uncertain: bool = False
    """OCR was not sure of these words."""


def finding_key(shell_file_id: UUID, finding: Finding) -> str:
    """The finding's name in every run over the document, whichever model finds it."""
    words = folded(finding.source.quote)
    return str(uuid5(shell_file_id, f"{finding.source.page}/{finding.kind}/{finding.occurrence}/{words}"))


class RejectedFinding(Row):
    """What a provider claimed and the page does not bear out. It is kept for review and never becomes a fact.

    ``prompt_text``: it repeats its own instructions. That, and only that, it was, is kept; ``quote`` is empty.
    """

    kind: str
    label: str
    quote: str
    page: int | None
    finding_id: str | None = None
    """Of an attribute: the finding that it was claimed of."""
    reason: Literal["quote_not_found", "kind_unknown", "attribute_not_found", "prompt_text"]


class Link(Row):
    """What the entity that holds it is to another one of the document."""

    relation: Relation
    to: str


class Entity(Finding):
    """Pass 2: the finding, understood."""

    assertion: Assertion = "affirmed"
    subject: Subject = "patient"
    attributes: dict[AttributeName, Attribute] = Field(default_factory=dict)
    links: tuple[Link, ...] = ()


class Sentence(Row):
    text: str
    entity_ids: tuple[str, ...]


class TimelineEntry(Row):
    """``date`` is ISO 8601 to the precision that is known (``2024``, ``2024-03``, ``2024-03-09``), or null."""

    date: str | None
    title: str
    entity_ids: tuple[str, ...]
    fact_key: str | None = None
    """Equal for what is the same fact in another document; None where it stands for itself."""


class Detection(Row):
    """The result of pass 1. ``missed``: what ``checked_by`` finds on the pages and the model does not."""

    engine: Engine
    findings: tuple[Finding, ...]
    rejected: tuple[RejectedFinding, ...] = ()
    missed: tuple[Finding, ...] = ()
    checked_by: Engine | None = None
    usage: dict[str, Any] = Field(default_factory=dict)


class Enrichment(Row):
    """The result of pass 2. ``document_date`` is the document's own date, against which others were resolved."""

    engine: Engine
    document_date: str | None
    entities: tuple[Entity, ...]
    rejected: tuple[RejectedFinding, ...] = ()
    usage: dict[str, Any] = Field(default_factory=dict)


class Narration(Row):
    """The result of pass 3: what a patient reads, each sentence citing entities; how many were not borne out."""

    engine: Engine
    sentences: tuple[Sentence, ...]
    dropped: int = 0
    timeline: tuple[TimelineEntry, ...]
    usage: dict[str, Any] = Field(default_factory=dict)
