"""The three questions, answered by rules."""

from pydantic import BaseModel

from services.ai.grounding import Places
from services.ai.wire import (
    KIND_OF_LABEL,
    Claims,
    Detail,
    DetectInputs,
    EnrichInputs,
    Inputs,
    Mention,
    Mentions,
    NarrateInputs,
    Passage,
    Understanding,
    Understandings,
)

from .assertion import assertion, subject
from .attributes import attributes
from .detection import detect
from .narrative import narrative
from .sections import at, sections, sentences

RULES_VERSION = "2"
"""Raise it whenever rules or terms change what is found: stored findings carry it."""


def answer(inputs: Inputs) -> BaseModel:
    """The answer to a question, in the schema that belongs to it."""
    if isinstance(inputs, DetectInputs):
        return _mentions(inputs.passage)
    if isinstance(inputs, EnrichInputs):
        return _understandings(inputs)
    assert isinstance(inputs, NarrateInputs)  # nobody probes what is of this process
    return Claims.model_construct(sentences=narrative(inputs.facts))


def _mentions(passage: Passage) -> Mentions:
    text = passage.text
    places = Places(text)
    # model_construct: the bound on the list protects against a model that repeats itself, not against a full page.
    return Mentions.model_construct(
        mentions=[
            Mention(
                quote=text[span.start : span.end],
                occurrence=places.occurrence(span.start, span.end),
                kind=KIND_OF_LABEL[span.label],
                label=span.label,
            )
            for span in detect(text, passage.role)
        ]
    )


def _understandings(inputs: EnrichInputs) -> Understandings:
    text = inputs.passage.text
    places = Places(text)
    parts, edges = sections(text, inputs.passage.role), sentences(text)
    found = dict(attributes(text, inputs.targets, edges, parts))
    entities = []
    for target in inputs.targets:
        role = at(parts, target.start).role
        details = {
            name: Detail(name=name, quote=text[start:end], occurrence=places.occurrence(start, end))
            for name, start, end in reversed(found.get(target.id, []))
        }
        entities.append(
            Understanding(
                id=target.id,
                assertion=assertion(
                    text, target.start, target.end, kind=target.kind, label=target.label, role=role, edges=edges
                ),
                subject=subject(text, target.start, target.end, label=target.label, role=role, edges=edges),
                details=list(details.values()),
            )
        )
    return Understandings.model_construct(entities=entities)
