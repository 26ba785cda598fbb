"""What passes and providers say to each other: the same shapes for the rules on this machine and for a model far away.

Lists and strings are bounded: a small model that starts to repeat itself otherwise runs on to its token limit.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from shared.contract.findings import Assertion, AttributeName, Kind, Relation, Subject

SCHEMA_VERSION = "findings.v2"

Label = Literal[
    "disease", "clinical_event", "outcome",
    "symptom", "test", "vital_sign", "imaging", "examination",
    "medication", "procedure",
    "age", "sex", "occupation", "lifestyle", "background", "history", "family_history", "allergy",
    "other",
]  # fmt: skip

KIND_OF_LABEL: dict[str, Kind] = {
    "disease": "event", "clinical_event": "event", "outcome": "event",
    "symptom": "observation", "test": "observation", "vital_sign": "observation", "imaging": "observation",
    "examination": "observation",
    "medication": "intervention", "procedure": "intervention",
    "age": "context", "sex": "context", "occupation": "context", "lifestyle": "context", "background": "context",
    "history": "context", "family_history": "context", "allergy": "context",
}  # fmt: skip

QUOTE_LIMIT = 300
"""Characters. The longest head in MACCROBAT has 271; whoever quotes more is copying the page."""


def _all_required(schema: dict[str, Any]) -> None:
    """A strict JSON schema has no optional fields. The type may have defaults all the same, for the rules here."""
    schema["required"] = list(schema.get("properties", {}))


class Wire(BaseModel):
    """Every field is required and unknown ones are refused, as a strict JSON schema wants it."""

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_extra=_all_required)


class Passage(Wire):
    """A piece of one page: ``page.text[start:start + len(text)] == text``.

    ``role`` is what the page before left open: a list of medicines that runs on. Only the local rules read it.
    """

    page: int
    start: int
    text: str
    role: str = "other"

    @property
    def place(self) -> tuple[int, int]:
        """What tells it from the other passages of a document."""
        return self.page, self.start


class Mention(Wire):
    """Something that a provider saw. ``occurrence`` counts from 1 where the same words stand in the passage more often.

    ``kind`` and ``label`` are closed in the schema and open in the type: an unknown one costs one finding, not a reply.
    """

    quote: Annotated[str, Field(max_length=QUOTE_LIMIT)]
    occurrence: int
    kind: Annotated[str, Field(json_schema_extra={"enum": list(get_args(Kind))})]
    label: Annotated[str, Field(json_schema_extra={"enum": list(get_args(Label))})]


class Mentions(Wire):
    """The answer to ``detect``."""

    mentions: Annotated[list[Mention], Field(max_length=400)]


class DetectInputs(Wire):
    """The question of pass 1."""

    passage: Passage


class Candidate(Wire):
    """A code that the terminology offers for a finding."""

    code: str
    display: str


class Target(Wire):
    """A grounded finding, as pass 2 asks about it. ``start`` and ``end`` are offsets in the passage's own text."""

    id: str
    quote: str
    kind: Kind
    label: str
    start: int
    end: int
    candidates: list[Candidate] = Field(default_factory=list)


class EnrichInputs(Wire):
    """The question of pass 2: what does the passage say about these?"""

    passage: Passage
    targets: list[Target]


class Detail(Wire):
    """What is said about a finding, in the page's words. ``occurrence`` null: the one nearest to the finding."""

    name: AttributeName
    quote: Annotated[str, Field(max_length=QUOTE_LIMIT)]
    occurrence: int | None


class Connection(Wire):
    """What the finding is to another one that was asked about."""

    relation: Relation
    to: Annotated[str, Field(max_length=20)]


class Understanding(Wire):
    """One finding, understood. ``codes``: which of the candidates fit; null: all of them."""

    id: str
    assertion: Assertion
    subject: Subject
    details: Annotated[list[Detail], Field(max_length=10)]
    links: Annotated[list[Connection], Field(max_length=10)] = Field(default_factory=list)
    codes: Annotated[list[Annotated[str, Field(max_length=40)]], Field(max_length=10)] | None = None


class Understandings(Wire):
    """The answer to ``enrich``."""

    entities: Annotated[list[Understanding], Field(max_length=400)]


class Fact(Wire):
    """An entity as pass 3 may tell it: words of the page and normalised forms, nothing else."""

    id: str
    kind: Kind
    label: str
    text: str
    assertion: Assertion
    subject: Subject
    details: dict[str, str]


class NarrateInputs(Wire):
    """The question of pass 3."""

    document_date: str | None
    facts: list[Fact]


class Claim(Wire):
    """One sentence and the facts that bear it."""

    text: Annotated[str, Field(max_length=600)]
    entity_ids: Annotated[list[str], Field(max_length=60)]


class Claims(Wire):
    """The answer to ``narrate``."""

    sentences: Annotated[list[Claim], Field(max_length=80)]


Inputs = DetectInputs | EnrichInputs | NarrateInputs


class ProbeInputs(Wire):
    """The question at the start, which no patient is part of."""

    greeting: str


WireInputs = Inputs | ProbeInputs
"""What may go over a wire to somebody else."""
