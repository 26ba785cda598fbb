"""The three questions, answered on this machine: what was learnt, joined with terms and rules."""

import gc
from functools import cache

from pydantic import BaseModel

from services.ai.grounding import places
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

from . import linking, negation, tagger, terminology
from .assertion import assertion, clause, subject
from .attributes import attributes
from .detection import detect
from .linking import Linking, linked
from .narrative import narrative
from .negation import Negation
from .sections import at, layout
from .tagger import Tagger

ENGINE_VERSION = "7"
"""Raise it whenever a model, rules or terms change what is found: stored findings carry it."""

_OBJECTS_BETWEEN_COLLECTIONS = 20_000
"""A page makes thousands of objects and no cycles: at Python's own 700 a seventh of the time went into looking.

A service looks more seldom still (``shared.service``); this is for who reads without one.
"""


class Engine:
    """The trained parts; rules and terms are the same for all."""

    def __init__(self, tagger: Tagger, negation: Negation, linking: Linking) -> None:
        self.tagger, self.negation, self.linking = tagger, negation, linking
        terminology.load()
        gc.freeze()  # They live as long as the process; each full collection would walk all of them in vain.
        gc.set_threshold(max(_OBJECTS_BETWEEN_COLLECTIONS, gc.get_threshold()[0]))

    def answer(self, inputs: Inputs) -> BaseModel:
        """The answer to a question, in the schema that belongs to it."""
        if isinstance(inputs, DetectInputs):
            return _mentions(inputs.passage, self.tagger)
        if isinstance(inputs, EnrichInputs):
            return _understandings(inputs, self)
        assert isinstance(inputs, NarrateInputs)  # nobody probes what is of this process
        return Claims.model_construct(sentences=narrative(inputs.facts))


@cache
def load() -> Engine:
    """The engine with the models that ship."""
    return Engine(tagger.load(), negation.load(), linking.load())


def _mentions(passage: Passage, tagger: Tagger) -> Mentions:
    text = passage.text
    stands = places(text)
    # model_construct: the bound on the list protects against a model that repeats itself, not against a full page.
    return Mentions.model_construct(
        mentions=[
            Mention(
                quote=text[span.start : span.end],
                occurrence=stands.occurrence(span.start, span.end),
                kind=KIND_OF_LABEL[span.label],
                label=span.label,
            )
            for span in detect(text, tagger, passage.role)
        ]
    )


def _understandings(inputs: EnrichInputs, engine: Engine) -> Understandings:
    text = inputs.passage.text
    stands = places(text)
    page = layout(text, inputs.passage.role)
    edges = page.edges
    found = dict(attributes(text, inputs.targets, edges, page.parts))
    learnt = linked(text, inputs.targets, edges, engine.tagger.find(page.body), engine.linking)
    entities = []
    for target in inputs.targets:
        role = at(page.parts, target.start).role
        around = clause(text, target.start, target.end, edges)
        details = {
            name: Detail(name=name, quote=text[start:end], occurrence=stands.occurrence(start, end))
            # What the rules say stands: they know the forms of lists and tables.
            for name, start, end in reversed([*found.get(target.id, []), *learnt.get(target.id, [])])
        }
        entities.append(
            Understanding(
                id=target.id,
                assertion=assertion(
                    text,
                    target.start,
                    target.end,
                    kind=target.kind,
                    label=target.label,
                    role=role,
                    clause=around,
                    negation=engine.negation,
                ),
                subject=subject(around, label=target.label, role=role),
                details=list(details.values()),
            )
        )
    return Understandings.model_construct(entities=entities)
