"""Logistic models: a CRF over sequences of one item is one."""

import tempfile
from collections.abc import Iterable, Sequence

import pycrfsuite


def fit(examples: Iterable[tuple[Sequence[str], bool]], *, ridge: float, least: float = 0.01) -> dict[str, float]:
    """The weight of each feature, for true against false; those below ``least`` are left out."""
    trainer = pycrfsuite.Trainer(algorithm="lbfgs", verbose=False)
    trainer.set_params({"c1": 0.0, "c2": ridge, "max_iterations": 200})
    for features, answer in examples:
        trainer.append([list(features)], [str(answer)])
    with tempfile.NamedTemporaryFile(suffix=".crfsuite") as file:
        trainer.train(file.name)
        tagger = pycrfsuite.Tagger()
        tagger.open(file.name)
        state = tagger.info().state_features
        tagger.close()
    weights: dict[str, float] = {}
    for (feature, answer), weight in state.items():
        weights[feature] = weights.get(feature, 0.0) + (weight if answer == "True" else -weight)
    return {feature: round(weight, 3) for feature, weight in sorted(weights.items()) if abs(weight) >= least}
