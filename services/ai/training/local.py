"""The whole recipe: a tagger, a negation model and a linking model from one set of documents, and the folds."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.ai.local.engine import Engine
from services.ai.local.linking import Linking
from services.ai.local.negation import Negation

from . import linking, negation, tagger
from .corpus import Document

FOLDS = 5
_SEED = 7


@dataclass(frozen=True, slots=True)
class Trained:
    """What documents teach; it may go from one process to another, which an engine can't."""

    tagger: tagger.Weights
    negation: dict[str, float]
    linking: dict[str, float]

    def engine(self) -> Engine:
        """Ready for use."""
        return Engine(self.tagger.tagger(), Negation(self.negation, negation.THRESHOLD), Linking(self.linking))


def train(documents: Sequence[Document]) -> Trained:
    """The models that have seen these documents and no others."""
    return Trained(tagger.train(documents), negation.train(documents), linking.train(documents))


def folds(documents: Sequence[Document]) -> Iterator[tuple[list[Document], list[Document]]]:
    """(training, unseen) five times; each document is unseen once. The same on every run."""
    shuffled = sorted(documents, key=lambda document: document.id)
    random.Random(_SEED).shuffle(shuffled)  # noqa: S311
    for number in range(FOLDS):
        unseen = shuffled[number::FOLDS]
        yield [document for place, document in enumerate(shuffled) if place % FOLDS != number], unseen
