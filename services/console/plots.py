"""Results over time as small drawings: points, the line between them, and the band in which they were expected."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

WIDTH, HEIGHT, MARGIN = 320, 96, 10

_BETWEEN = re.compile(r"(-?\d+(?:\.\d+)?)\s*(?:-|–|—|to)\s*(-?\d+(?:\.\d+)?)")
_BOUND = re.compile(r"(<|≤|>|≥|up to|less than|more than|over|under)\s*=?\s*(-?\d+(?:\.\d+)?)", re.IGNORECASE)


@dataclass(frozen=True)
class Point:
    value: float
    day: date | None
    fact: dict[str, Any]
    is_outside: bool
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Plot:
    """One test in one unit, in a box of WIDTH by HEIGHT. ``band``: the top and the bottom of what is expected."""

    name: str
    unit: str
    points: list[Point]
    band: tuple[float, float] | None
    line: str
    range_text: str
    width: int = field(default=WIDTH)
    height: int = field(default=HEIGHT)

    @property
    def latest(self) -> Point:
        return self.points[-1]


def expected(text: str | None) -> tuple[float | None, float | None]:
    """The lower and the upper bound that a reference range names; None where it names none."""
    if not text:
        return None, None
    if found := _BETWEEN.search(text):
        low, high = sorted((float(found[1]), float(found[2])))
        return low, high
    if found := _BOUND.search(text):
        is_upper = found[1].lower() in ("<", "≤", "up to", "less than", "under")
        return (None, float(found[2])) if is_upper else (float(found[2]), None)
    return None, None


def day_of(text: str | None) -> date | None:
    """The first day that a partial date may mean."""
    parts = (text or "").split("-")
    if not all(part.isdecimal() for part in parts):
        return None
    try:
        return date(*(int(part) for part in [*parts, "1", "1"][:3]))
    except ValueError:
        return None


def draw(name: str, unit: str, results: Iterable[dict[str, Any]]) -> Plot:
    """``results`` have value, day and fact; there is at least one."""
    ordered = sorted(results, key=lambda result: (result["day"] or date.min, result["value"]))
    range_text = next((result["range"] for result in reversed(ordered) if result["range"]), "")
    low, high = expected(range_text)
    values: list[float] = [result["value"] for result in ordered]
    bottom = min([*values, *(bound for bound in (low, high) if bound is not None)])
    top = max([*values, *(bound for bound in (low, high) if bound is not None)])
    if top == bottom:
        top, bottom = top + 1, bottom - 1
    pad = (top - bottom) * 0.15
    top, bottom = top + pad, bottom - pad

    def y(value: float) -> float:
        return round(MARGIN + (top - value) / (top - bottom) * (HEIGHT - 2 * MARGIN), 1)

    places = _places(ordered)
    points = [
        Point(
            result["value"],
            result["day"],
            result["fact"],
            _is_outside(result["value"], low, high),
            x,
            y(result["value"]),
        )
        for result, x in zip(ordered, places, strict=True)
    ]
    band = None
    if low is not None or high is not None:
        band = (y(high) if high is not None else 0.0, y(low) if low is not None else float(HEIGHT))
    line = " ".join(f"{point.x},{point.y}" for point in points) if len(points) > 1 else ""
    return Plot(name, unit, points, band, line, range_text)


def _places(ordered: Sequence[dict[str, Any]]) -> list[float]:
    """By the day where all have one and they differ, else side by side."""
    inner = WIDTH - 2 * MARGIN - 8
    days = [result["day"] for result in ordered]
    if len(ordered) == 1:
        return [WIDTH / 2]
    if all(days) and days[-1] != days[0]:
        whole = (days[-1] - days[0]).days
        return [round(MARGIN + 4 + (day - days[0]).days / whole * inner, 1) for day in days]
    return [round(MARGIN + 4 + place / (len(ordered) - 1) * inner, 1) for place in range(len(ordered))]


def _is_outside(value: float, low: float | None, high: float | None) -> bool:
    return (low is not None and value < low) or (high is not None and value > high)


def plots_of(facts: Iterable[dict[str, Any]]) -> list[Plot]:
    """One for each test and unit. First what is outside its range, then what was measured most often."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for fact in facts:
        name = " ".join(fact["text"].split())
        groups.setdefault((name.lower(), fact["unit"] or ""), []).append(
            {
                "value": fact["value_number"],
                "day": day_of(fact["observed_on"]),
                "range": fact["reference_range"],
                "fact": fact,
            }
        )
    drawn = [draw(_display_name(results), unit, _once_a_day(results)) for (_, unit), results in groups.items()]
    return sorted(
        drawn,
        # Those without a drawing last: cards of one height side by side.
        key=lambda plot: (
            not plot.latest.is_outside, -len(plot.points), not (plot.band or plot.line), plot.name.lower(),
        ),
    )  # fmt: skip


def _display_name(results: Sequence[dict[str, Any]]) -> str:
    name = " ".join(results[0]["fact"]["text"].split())
    # Not eGFR: whoever wrote a capital in it meant it so.
    return name[:1].upper() + name[1:] if name.islower() else name


def _once_a_day(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same value of the same day in two documents is one point."""
    return list({(result["day"], result["value"]): result for result in results}.values())
