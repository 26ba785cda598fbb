"""What a model is told: a file a task, with a version, and with examples that have to be true of themselves.

``python -m services.ai.instructions`` checks them, as the image is built: a model copies what it is shown.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from shared.contract.findings import Assertion, Attribute, AttributeName, Entity, Kind, Source

from . import claims
from .grounding import Ground, spans
from .wire import KIND_OF_LABEL, Claims, Fact, Mentions, Target, Understandings

VERSIONS = {"detect": "detect.v2", "enrich": "enrich.v2", "narrate": "narrate.v2", "probe": "probe.v1"}
"""The file of each task. A new wording is a new file: stored findings name the one they came from."""

_BLOCK = re.compile(r"^```(\w+)\n(.*?)\n```$", re.M | re.S)
_EXAMPLES_OF_A_KIND = 2
_COPIED = 5
"""Words in a row that stand in the instructions, too. Four may be anybody's: "stand in the passage"."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Example:
    """The blocks of one example by their names: ``passage``, ``findings``, ``facts``, ``answer``."""

    blocks: Mapping[str, str]


@cache
def text(task: str) -> str:
    """The instructions of a task, as the model gets them."""
    return resources.files("services.ai").joinpath("prompts", f"{VERSIONS[task]}.md").read_text("utf-8")


def version(task: str) -> str:
    """The file and the first digits of its hash, so that a silent edit shows."""
    return f"{VERSIONS[task]}+{_digits(text(task))}"


@cache
def _digits(instructions: str) -> str:
    return sha256(instructions.encode()).hexdigest()[:8]


def examples(task: str) -> list[Example]:
    found: list[Example] = []
    blocks: dict[str, str] = {}
    for name, content in _BLOCK.findall(text(task)):
        blocks[name] = content
        if name == "answer":
            found.append(Example(blocks))
            blocks = {}
    return found


def repeats(said: str, *, or_examples: bool) -> bool:
    """Whether a text copies the instructions: it is about no document, whatever it is given out as.

    What is on a page, or borne by facts, may happen to be like an example.
    """
    words = _WORD.findall(said.casefold())
    copied = _runs(or_examples=or_examples)
    return any(tuple(words[first : first + _COPIED]) in copied for first in range(len(words) - _COPIED + 1))


@cache
def _runs(*, or_examples: bool) -> frozenset[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for task in VERSIONS:
        words = _WORD.findall((text(task) if or_examples else _BLOCK.sub("", text(task))).casefold())
        found.update(tuple(words[first : first + _COPIED]) for first in range(len(words) - _COPIED + 1))
    return frozenset(found)


def faults() -> list[str]:
    """What is wrong with the examples: words that do not stand in them, labels of another kind, too few of a kind."""
    found = []
    for task, check in (("detect", _mentions), ("enrich", _understandings), ("narrate", _sentences)):
        seen: list[str] = []
        for number, example in enumerate(examples(task), start=1):
            try:
                found += [f"{task}, example {number}: {fault}" for fault in check(example.blocks, seen)]
            except (KeyError, ValueError, ValidationError) as error:
                found.append(f"{task}, example {number}: {type(error).__name__}")
        found += [
            f"{task}: {seen.count(kind)} examples of {kind}"
            for kind in _WANTED[task]
            if seen.count(kind) < _EXAMPLES_OF_A_KIND - (task != "detect")
        ]
    return found


_WANTED: dict[str, tuple[str, ...]] = {
    "detect": get_args(Kind),
    "enrich": (*get_args(Assertion), *get_args(AttributeName), "treats", "shows", "patient", "family"),
    "narrate": ("affirmed", "negated", "possible", "historical", "family"),
}


def _mentions(blocks: Mapping[str, str], seen: list[str]) -> Iterator[str]:
    ground = Ground(blocks["passage"])
    for mention in Mentions.model_validate_json(blocks["answer"]).mentions:
        match = ground.find(mention.quote, occurrence=mention.occurrence)
        if match is None or match.alignment != "exact":
            yield f"{mention.quote!r} does not stand in its passage"
        elif len(spans(blocks["passage"], mention.quote)) < mention.occurrence:
            yield f"{mention.quote!r} does not stand there {mention.occurrence} times"
        if KIND_OF_LABEL.get(mention.label) != mention.kind:
            yield f"{mention.label} is no {mention.kind}"
        seen.append(mention.kind)


def _understandings(blocks: Mapping[str, str], seen: list[str]) -> Iterator[str]:
    passage = blocks["passage"]
    targets = {target.id: target for target in TypeAdapter(list[Target]).validate_json(blocks["findings"])}
    for target in targets.values():
        if passage[target.start : target.end] != target.quote:
            yield f"{target.id} stands elsewhere"
    answers = Understandings.model_validate_json(blocks["answer"]).entities
    if [answer.id for answer in answers] != list(targets):
        yield "not every finding is answered once"
    for answer in answers:
        for detail in answer.details:
            if not spans(passage, detail.quote):
                yield f"{detail.quote!r} does not stand in its passage"
            seen.append(detail.name)
        if any(link.to not in targets for link in answer.links):
            yield f"{answer.id} is linked to nothing"
        offered = {candidate.code for candidate in targets[answer.id].candidates}
        if not set(answer.codes or ()) <= offered or (answer.codes is None) != (not offered):
            yield f"{answer.id}: codes are not of its candidates"
        seen += [answer.assertion, answer.subject, *(link.relation for link in answer.links)]


def _sentences(blocks: Mapping[str, str], seen: list[str]) -> Iterator[str]:
    facts = {fact.id: fact for fact in TypeAdapter(list[Fact]).validate_json(blocks["facts"])}
    for sentence in Claims.model_validate_json(blocks["answer"]).sentences:
        cited = [_entity(facts[cited]) for cited in sentence.entity_ids]
        if not claims.holds(sentence.text, cited, None):
            yield f"{sentence.text!r} says more than it cites"
        seen += [kind for entity in cited for kind in (entity.assertion, entity.subject)]


def _entity(fact: Fact) -> Entity:
    def source(quote: str) -> Source:
        return Source(page=1, start=0, end=len(quote), quote=quote, boxes=())

    names: list[AttributeName] = [name for name in get_args(AttributeName) if name in fact.details]
    return Entity(
        **fact.model_dump(exclude={"details"}),
        source=source(fact.text),
        alignment="exact",
        attributes={name: Attribute(text=fact.details[name], source=source(fact.details[name])) for name in names},
    )


def main() -> int:
    found = faults()
    sys.stdout.write("\n".join(found or [json.dumps({task: version(task) for task in VERSIONS})]) + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
