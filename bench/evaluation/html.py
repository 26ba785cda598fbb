"""One HTML file that needs nothing else: the figures, a picture of them, and the words that were missed or made up."""

from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape

from bench.report import Measurement
from services.ai.providers import Provider

from .matching import pairs
from .measure import HEADS, Outcome

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#1d2733}
table{border-collapse:collapse;width:100%}td,th{padding:.25em .6em;text-align:left;border-bottom:1px solid #dfe5eb}
td.n{text-align:right;font-variant-numeric:tabular-nums}.no{color:#b3261e;font-weight:600}.yes{color:#1e7b34}
svg text{font:12px system-ui,sans-serif;fill:#1d2733}h2{margin-top:2em}
"""
_BAR, _LEFT, _WIDTH = 20, 190, 460
_MOST = 25


def page(provider: Provider, sections: Sequence[tuple[str, Sequence[Outcome], Sequence[Measurement]]]) -> str:
    """The report on all corpora."""
    parts = [part for name, outcomes, rows in sections for part in _section(name, outcomes, rows)]
    title = f"Evaluation of {escape(provider.name)} {escape(provider.model)}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1>{''.join(parts)}</html>\n"
    )


def _section(name: str, outcomes: Sequence[Outcome], rows: Sequence[Measurement]) -> Iterator[str]:
    yield f"<h2>{escape(name)}: {len(outcomes)} documents</h2>"
    yield _picture([row for row in rows if row.unit in ("F1", "of truth", "of claims")])
    yield "<table><tr><th>measure<th>value<th>unit<th>of which<th>target</tr>"
    for row in rows:
        state = "" if row.met is None else "yes" if row.met else "no"
        yield (
            f'<tr><td>{escape(row.measure)}<td class="n {state}">{row.value:g}<td>{escape(row.unit)}'
            f"<td>{escape(row.spread)}<td>{escape(row.target or '')}</tr>"
        )
    yield "</table>"
    missed, invented = _errors(outcomes)
    yield f"<h3>Missed most often</h3><p>{_words(missed)}</p>"
    yield f"<h3>Found though the truth has none</h3><p>{_words(invented)}</p>"


def _picture(rows: Sequence[Measurement]) -> str:
    """Bars from 0 to 1, with a mark at the target."""
    bars = []
    for number, row in enumerate(rows):
        top = number * _BAR
        colour = "#b3261e" if row.met is False else "#2f6fab"
        label = escape(row.measure.partition(": ")[2])
        bars.append(
            f'<text x="{_LEFT - 8}" y="{top + 14}" text-anchor="end">{label}</text>'
            f'<rect x="{_LEFT}" y="{top + 4}" width="{row.value * _WIDTH:.1f}" height="{_BAR - 7}" fill="{colour}"/>'
            f'<text x="{_LEFT + _WIDTH + 8}" y="{top + 14}">{row.value:.3f}</text>'
        )
        if row.target:
            at = _LEFT + float(row.target.removeprefix("≥ ")) * _WIDTH
            bars.append(f'<path d="M{at:.1f} {top + 2}v{_BAR - 3}" stroke="#1d2733" stroke-width="2"/>')
    height = len(rows) * _BAR + 4
    return f'<svg viewBox="0 0 {_LEFT + _WIDTH + 60} {height}" role="img" aria-label="Scores">{"".join(bars)}</svg>'


def _errors(outcomes: Sequence[Outcome]) -> tuple[Counter[str], Counter[str]]:
    missed: Counter[str] = Counter()
    invented: Counter[str] = Counter()
    for outcome in outcomes:
        text = outcome.document.text
        found = [(e.source.start, e.source.end, e.kind) for e in outcome.found.entities if e.kind in HEADS]
        true = [(t.start, t.end, t.kind) for t in outcome.document.truths if t.kind in HEADS]
        matched = pairs(found, true)
        mine, theirs = {pair[0] for pair in matched}, {pair[1] for pair in matched}
        missed.update(_name(text, span) for place, span in enumerate(true) if place not in theirs)
        invented.update(_name(text, span) for place, span in enumerate(found) if place not in mine)
    return missed, invented


def _name(text: str, span: tuple[int, int, str]) -> str:
    return f"{' '.join(text[span[0] : span[1]].split())} ({span[2]})"


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{escape(words)} × {count}" for words, count in counts.most_common(_MOST)) or "nothing"
