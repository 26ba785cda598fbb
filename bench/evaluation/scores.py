"""The table: each figure beside its target, where the project has set one."""

from collections.abc import Sequence
from statistics import median

from bench.report import Measurement
from services.ai.usage import Price
from shared.contract.findings import AttributeName

from . import measure
from .measure import HEADS, Count, Outcome

_LINKED: tuple[AttributeName, ...] = ("dose", "route", "frequency", "value", "severity", "site", "time")
_PARTS = 5
_TARGETS = {
    "maccrobat: heads, overlap": 0.76,
    "maccrobat: heads, exact": 0.63,
    "maccrobat: negated": 0.82,
    "maccrobat: dose linked": 0.85,
    "maccrobat: route linked": 0.85,
    "maccrobat: frequency linked": 0.85,
    "maccrobat: all three passes": 40,
    "notes: heads, overlap": 0.80,
    "notes: dates": 0.90,
    "notes: units": 0.90,
}


def measurements(corpus: str, outcomes: Sequence[Outcome], price: Price | None) -> list[Measurement]:
    """All figures of one corpus."""
    overlap, exact = measure.detection(outcomes)
    rows = [_f1(corpus, "heads, overlap", overlap), _f1(corpus, "heads, exact", exact)]
    for kind in (*HEADS, "context"):
        by_overlap, by_exact = measure.detection(outcomes, (kind,))
        if by_overlap.true:
            rows += [_f1(corpus, f"{kind}, overlap", by_overlap), _f1(corpus, f"{kind}, exact", by_exact)]
    for value in ("negated", "possible", "historical", "hypothetical"):
        if (count := measure.assertion(outcomes, value)).true:
            rows.append(_f1(corpus, value, count))
    for name in _LINKED:
        if (count := measure.linking(outcomes, name)).true:
            rows.append(_row(f"{corpus}: {name} linked", count.recall, "of truth", f"n={count.true}"))
        if (count := measure.attribute(outcomes, name)).true:
            rows.append(_f1(corpus, f"{name} found and linked", count))
    if any(
        stretch.normalised is not None
        for one in outcomes
        for truth in one.document.truths
        for stretch in truth.attributes.values()
    ):
        rows.append(_f1(corpus, "dates", measure.attribute(outcomes, "time", normalised=True)))
        rows.append(_f1(corpus, "units", measure.attribute(outcomes, "unit", normalised=True)))
        for name in ("range", "flag"):
            rows.append(_f1(corpus, name, measure.attribute(outcomes, name)))
    good, claimed = measure.grounded(outcomes)
    rows.append(_row(f"{corpus}: grounded", good / claimed if claimed else 1.0, "of claims", f"n={claimed}"))
    wall = sum(outcome.wall_s for outcome in outcomes)
    speeds = _speeds(outcomes)
    spread = f"{min(speeds):.1f} to {max(speeds):.1f}, {len(speeds)} parts, n={len(outcomes)}"
    rows.append(_row(f"{corpus}: all three passes", median(speeds), "documents a CPU second", spread))
    rows.append(_row(f"{corpus}: latency", wall / len(outcomes), "s a document", f"n={len(outcomes)}"))
    tokens = {
        way: sum(outcome.usage.get(f"{way}_tokens", 0) for outcome in outcomes) / len(outcomes)
        for way in ("input", "output")
    }
    if any(tokens.values()):
        rows += [_row(f"{corpus}: {way} tokens", count, "a document", "") for way, count in tokens.items()]
    if price is not None:
        cost = (tokens["input"] * price.input + tokens["output"] * price.output) / 1000
        rows.append(_row(f"{corpus}: cost", cost, "a thousand documents", ""))
    return rows


def _speeds(outcomes: Sequence[Outcome]) -> list[float]:
    """Documents a CPU second in each fifth of a corpus, as it was read: a shared machine is slow at times."""
    size = -(-len(outcomes) // _PARTS)
    parts = [outcomes[first : first + size] for first in range(0, len(outcomes), size)]
    return [len(part) / sum(outcome.cpu_s for outcome in part) for part in parts]


def _f1(corpus: str, name: str, count: Count) -> Measurement:
    spread = f"P {count.precision:.3f} R {count.recall:.3f}, n={count.true}"
    return _row(f"{corpus}: {name}", count.f1, "F1", spread)


def _row(name: str, value: float, unit: str, spread: str) -> Measurement:
    target = _TARGETS.get(name)
    met = None if target is None else value >= target
    return Measurement(name, round(value, 4), unit, spread, None if target is None else f"≥ {target:g}", met)
