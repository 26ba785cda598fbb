"""Trains the linking model on attributes whose finding is known."""

from collections.abc import Iterator, Sequence

from services.ai.local.linking import Head, candidates, features
from services.ai.local.sections import sentences

from . import logistic
from .corpus import Document

_RIDGE = 1.0


def heads(document: Document) -> list[Head]:
    """The truth's findings in the order of their places."""
    return sorted(
        (
            Head(str(number), truth.start, truth.end, truth.kind, truth.label)
            for number, truth in enumerate(document.truths)
        ),
        key=lambda head: head.start,
    )


def links(document: Document) -> dict[tuple[str, int, int], set[str]]:
    """The attributes of a document → the findings that they are said about."""
    found: dict[tuple[str, int, int], set[str]] = {}
    for number, truth in enumerate(document.truths):
        for name, stretch in truth.attributes.items():
            found.setdefault((name, stretch.start, stretch.end), set()).add(str(number))
    return found


def _examples(documents: Sequence[Document]) -> Iterator[tuple[list[str], bool]]:
    for document in documents:
        edges, known = sentences(document.text), heads(document)
        for said, owners in links(document).items():
            near = candidates(said, known, edges)
            for head in near:
                yield features(document.text, said, head, near), head.id in owners


def train(documents: Sequence[Document]) -> dict[str, float]:
    """The model's weights."""
    return logistic.fit(_examples(documents), ridge=_RIDGE)
