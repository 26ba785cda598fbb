"""The one form of a result: measure, value, unit, spread, target, met."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

OUT = Path(__file__).parent / "out"


@dataclass(frozen=True)
class Measurement:
    """``spread`` is the smallest and largest run; ``met`` is None where there is no target."""

    measure: str
    value: float
    unit: str
    spread: str
    target: str | None
    met: bool | None


def measured(
    measure: str, runs: list[float], unit: str, *, at_least: float | None = None, at_most: float | None = None
) -> Measurement:
    """The median of some runs against a target."""
    value = median(runs)
    target = f"≥ {at_least:g}" if at_least is not None else f"≤ {at_most:g}" if at_most is not None else None
    met = value >= at_least if at_least is not None else value <= at_most if at_most is not None else None
    return Measurement(
        measure, round(value, 3), unit, f"{min(runs):.4g} to {max(runs):.4g}, n={len(runs)}", target, met
    )


def ratio(
    measure: str,
    ours: list[float],
    theirs: list[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Measurement:
    """The median of the quotients, round by round: what slows a whole round down cancels out."""
    quotients = [our / their for our, their in zip(ours, theirs, strict=True)]
    return measured(measure, quotients, "x", at_least=at_least, at_most=at_most)


def publish(name: str, measurements: list[Measurement]) -> None:
    """Prints the table and writes ``bench/out/NAME.json``."""
    table = Table(title=name, box=None, pad_edge=False)
    for column in ("measure", "value", "unit", "spread", "target", "met"):
        table.add_column(column)
    for row in measurements:
        met = "" if row.met is None else "yes" if row.met else "NO"
        table.add_row(row.measure, f"{row.value:g}", row.unit, row.spread, row.target or "", met)
    Console(width=150).print(table)
    OUT.mkdir(exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps([asdict(row) for row in measurements], indent=1))
