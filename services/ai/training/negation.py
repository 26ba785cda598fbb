"""Trains the negation model on findings whose truth is known and that may be absent."""

from collections.abc import Iterator, Sequence

from services.ai.local import negation
from services.ai.local.assertion import clause, ruled_absent
from services.ai.local.sections import sentences

from . import logistic
from .corpus import Document

THRESHOLD = 0.35
"""Above this probability a finding is absent."""
_RIDGE = 1.0


def _examples(documents: Sequence[Document]) -> Iterator[tuple[list[str], bool]]:
    for document in documents:
        edges = sentences(document.text)
        for truth in document.truths:
            if truth.assertion is None or truth.kind == "context":
                continue
            stands = clause(document.text, truth.start, truth.end, edges)
            here = negation.around(
                document.text,
                truth.start,
                truth.end,
                label=truth.label,
                rule=ruled_absent(document.text[truth.start : truth.end], stands, label=truth.label),
                sentence=stands.sentence,
            )
            if here.doubted:
                yield ["\t".join(feature) for feature in negation.features(here)], truth.assertion == "negated"


def train(documents: Sequence[Document]) -> dict[str, float]:
    """The model's weights."""
    return logistic.fit(_examples(documents), ridge=_RIDGE)
