"""How many jobs wait at each step over time, as an SVG."""

import math
from collections.abc import Sequence
from html import escape

from .times import STEPS

WIDTH, HEIGHT = 900, 380
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 52, 50
POINTS = 450
"""Columns: in each the most that waited in its time."""
COLOURS = dict(zip(STEPS, ("#1b6ca8", "#d1495b", "#edae49", "#66a182", "#6c5b7b"), strict=True))


def queue_depths(depths: Sequence[tuple[float, str, int]], makespan_s: float, title: str) -> str:
    """``depths`` are (second, step, jobs that wait), in the order of time."""
    lines = {step: _columns([(at, depth) for at, name, depth in depths if name == step], makespan_s) for step in STEPS}
    highest = max(max(line) for line in lines.values()) or 1
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
        *_grid(makespan_s, highest),
    ]
    for place, (step, line) in enumerate(lines.items()):
        points = " ".join(
            f"{_across((column + 0.5) / POINTS):.1f},{_up(depth / highest):.1f}" for column, depth in enumerate(line)
        )
        colour = COLOURS[step]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        across = WIDTH - RIGHT - 110 * (len(STEPS) - place)
        parts.append(f'<rect x="{across}" y="{HEIGHT - 16}" width="12" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{across + 18}" y="{HEIGHT - 10}">{step}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _columns(changes: Sequence[tuple[float, int]], makespan_s: float) -> list[int]:
    columns: list[int] = []
    depth = place = 0
    for column in range(POINTS):
        most = depth
        while place < len(changes) and changes[place][0] <= makespan_s * (column + 1) / POINTS:
            depth = changes[place][1]
            most = max(most, depth)
            place += 1
        columns.append(most)
    return columns


def _grid(makespan_s: float, highest: int) -> list[str]:
    parts = []
    for value in _ticks(highest):
        y = _up(value / highest)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in _ticks(makespan_s):
        x = _across(value / makespan_s)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" stroke="#eee"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g} s</text>')
    parts.append(f'<text x="{LEFT - 55}" y="{TOP - 8}">jobs that wait</text>')
    return parts


def _ticks(most: float) -> list[float]:
    """Round values from 0 up, five or so."""
    raw = most / 5
    magnitude = 10 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw)
    return [step * number for number in range(math.floor(most / step + 1e-9) + 1)]


def _across(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _up(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
