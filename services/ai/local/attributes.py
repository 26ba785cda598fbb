"""What is said about a finding: numbers and words next to it, before the next finding of its kind begins."""

import re
from collections.abc import Iterator, Sequence
from functools import cache

from services.ai import dates
from services.ai.wire import Target
from shared.contract.findings import AttributeName

from . import rows
from .assertion import sentence
from .sections import one_of, rules

Found = tuple[AttributeName, int, int]

_MEASURED = frozenset({"test", "vital_sign", "examination", "imaging"})
_TIMED = frozenset({"event", "observation", "intervention"})
_GAP = re.compile(
    r"[\s:=,(\[|]*(?:(?:was|is|were|are|of|at|level|levels|count|value|result|results|measured|showed|remained|to|a|an|the"
    r"|on|that|which|slightly|mildly|markedly|significantly|today|still|now|also|found|be|came|back|as)\b[\s:=(]*)*"
)
_SHORT_GAP = re.compile(r"\s+(?:(?:serum|plasma|blood|urine|total|the|her|his|level of|levels of)\s+)*$")
_DOSE = re.compile(
    r"(?<![\w.])\d+(?:[.,]\d+)?(?:\s?[-–]\s?\d+(?:[.,]\d+)?)?\s?(?:mg|mcg|[µμ]g|ug|micrograms?|grams?|g|ml|mL|units?|iu|mmol|mEq|Gy|puffs?|tablets?|%)"
    r"(?:\s?/\s?(?:kg|day|d|h|hr|hour|min|ml|m2|m²|\d+\s?ml))*(?![\w])",
    re.I,
)
_EVERY = re.compile(
    r"\bevery\s+\d+(?:\s?(?:-|to)\s?\d+)?\s+(?:hours?|days?|weeks?|months?)\b|\bq\d+h\b|\b\d+-hourly\b", re.I
)
_OPENS = re.compile(
    r"[\s•*–|-]*(?:\d{1,2}[.)]\s+)?(?:(?:on|in|at|since|around|about|by|approximately)\s+)?(?:the\s+)?", re.I
)
_HISTORY_OF = re.compile(r"[\s-]*(?:history|course|episode|duration)\s+of\b", re.I)
_STATED_FOR = re.compile(r"\b(negative|positive)\s+for\b", re.I)
_DOSE_BEFORE = re.compile(r"(?:\s+of)?\s*$")
_REACH = 90
"""Characters after a medicine in which its dose, route and frequency stand; a longer line belongs to something else."""


@cache
def _whole(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{one_of(rules('attributes')[name])})(?![\w-])", re.I)


@cache
def _measure() -> re.Pattern[str]:
    flags = one_of(rules("attributes")["flags"])
    return re.compile(
        rf"(?P<value>\d{{2,3}}\s?/\s?\d{{2,3}}(?!\d|/)|{rows.NUMBER}(?:\s?[-–]\s?\d+(?:\.\d+)?)?)"
        rf"(?:\s?(?P<unit>(?i:{rows.unit_pattern()})))?"
        r"(?:\s*[(\[]\s*(?i:(?:ref(?:erence)?|normal)[ .:]*(?:range|value)?[ :]*)?"
        rf"(?P<range>{rows.RANGE})[^)\]\n]{{0,15}}[)\]])?"
        rf"(?:[ \t]+\(?(?P<flag>{flags})\)?(?=[ \t]*(?:\n|$|[;,])))?"
    )


def attributes(
    text: str, targets: Sequence[Target], edges: Sequence[tuple[int, int]]
) -> Iterator[tuple[str, list[Found]]]:
    """(id, attributes) of each target; each attribute once, as offsets in ``text``."""
    table = {row.name[0]: row for row in rows.rows(text)}
    ordered = sorted(targets, key=lambda target: target.start)
    times = dates.find(text)
    for index, target in enumerate(ordered):
        low, high = sentence(edges, target.start)
        following = next((other.start for other in ordered[index + 1 :] if other.start >= target.end), high)
        previous = max(
            (other.end for other in ordered[max(0, index - 3) : index] if other.end <= target.start), default=low
        )
        found: list[Found] = []
        row = next((table[name] for name in range(target.start, max(target.start - 46, -1), -1) if name in table), None)
        if row is not None and row.name[0] <= target.start and target.end <= row.name[1]:
            cells: list[tuple[AttributeName, rows.Stretch | None]] = [
                ("value", row.value), ("unit", row.unit), ("range", row.range), ("flag", row.flag)
            ]  # fmt: skip
            found += [(name, *cell) for name, cell in cells if cell]
        elif target.label in _MEASURED:
            found += _measured(text, target, low=low, previous=max(previous, low), end=min(following, high))
        elif target.label in ("medication", "procedure"):
            medicine_end = next(
                (
                    other.start
                    for other in ordered[index + 1 :]
                    if other.label == target.label and other.start >= target.end
                ),
                high,
            )
            found += _prescribed(text, target, max(previous, low), min(medicine_end, high, target.end + _REACH))
        if target.kind in ("event", "observation"):
            found += _described(text, target, max(previous, low), min(following, high))
        often = next((detail for detail in found if detail[0] == "frequency"), None)
        free = [time for time in times if often is None or time[1] <= often[1] or often[2] <= time[0]]
        if target.kind in _TIMED and (time := _nearest(text, free, target, ordered, clause=(low, high))):
            found.append(("time", *time))
        yield target.id, found


def _measured(text: str, target: Target, *, low: int, previous: int, end: int) -> list[Found]:
    gap = _GAP.match(text, target.end, end)
    at = gap.end() if gap else target.end
    match = _measure().match(text, at, min(end + 40, len(text)))
    if match and match.start("value") < end:
        names: tuple[AttributeName, ...] = ("value", "unit", "range", "flag")
        return [(name, *match.span(name)) for name in names if match[name]]
    words = _whole("value_words")
    if word := words.match(text, at, end):
        return [("value", *word.span())]
    before = list(words.finditer(text, previous, target.start))
    if before and _SHORT_GAP.fullmatch(text, before[-1].end(), target.start):
        return [("value", *before[-1].span())]
    stated = list(_STATED_FOR.finditer(text, low, target.start))
    if stated:
        return [("value", *stated[-1].span(1))]
    return []


def _prescribed(text: str, target: Target, previous: int, end: int) -> list[Found]:
    found: list[Found] = []
    dose = _DOSE.search(text, target.end, end)
    if dose is None:
        before = list(_DOSE.finditer(text, previous, target.start))
        if before and _DOSE_BEFORE.fullmatch(text, before[-1].end(), target.start):
            dose = before[-1]
    if dose:
        found.append(("dose", *dose.span()))
    for name, rule in (("route", "routes"), ("frequency", "frequencies")):
        hit = next(
            (
                word
                for word in _whole(rule).finditer(text, target.end, end)
                if _meant(word.group(), dosed=dose is not None)
                and not (dose and dose.start() <= word.start() < dose.end())
            ),
            None,
        )
        if name == "frequency":
            every = _EVERY.search(text, target.end, end)
            hit = every if every and (hit is None or every.start() <= hit.start()) else hit
            if hit:
                found.append(("frequency", *hit.span()))
        elif hit:
            found.append(("route", *hit.span()))
    if not any(name == "route" for name, _, _ in found):
        before = list(_whole("routes").finditer(text, previous, target.start))
        if before and not text[before[-1].end() : target.start].strip() and _meant(before[-1].group(), dosed=False):
            found.append(("route", *before[-1].span()))
    return found


def _meant(word: str, *, dosed: bool) -> bool:
    """Whether a two-letter word is the abbreviation: capitals, or small after a dose; "on" only in capitals."""
    return len(word) > 2 or word.isupper() or (dosed and word.lower() not in ("on", "om", "im"))


def _described(text: str, target: Target, previous: int, end: int) -> list[Found]:
    found: list[Found] = []
    before = list(_whole("severities").finditer(text, previous, target.start))
    if (
        before
        and len(text[before[-1].end() : target.start].split()) <= 2
        and "," not in text[before[-1].end() : target.start]
    ):
        found.append(("severity", *before[-1].span()))
    site = re.compile(r"\s+(?:of|in|on|at|to|over|around|involving)\s+(?:the\s+|his\s+|her\s+|a\s+)?", re.I).match(
        text, target.end, end
    )
    named = _whole("sites").match(text, site.end(), end) if site else None
    if named is None:
        candidates = list(_whole("sites").finditer(text, previous, target.start))
        if candidates and not text[candidates[-1].end() : target.start].strip(" \t"):
            named = candidates[-1]
    if named:
        found.append(("site", *named.span()))
    return found


def _nearest(
    text: str, times: Sequence[tuple[int, int]], target: Target, others: Sequence[Target], *, clause: tuple[int, int]
) -> tuple[int, int] | None:
    """The time that belongs to a finding: "in 2015" to what it follows, "12 Jan 2018  Asthma" to what follows it.

    No other finding may stand between: of "CABG in 2015, asthma" the second has no date, and a wrong one is worse.
    """
    low, high = clause
    inside = []
    for start, end in times:
        if start < low or end > high or (start < target.end and target.start < end):
            continue
        leads = _OPENS.fullmatch(text, low, start) is not None
        if target.start >= end:
            if not (
                _HISTORY_OF.match(text, end)
                or (_free(others, end, target.start) and (leads or _close(text, end, target)))
            ):
                continue
        elif leads or not _free(others, target.end, start):
            continue
        inside.append((start, end))
    return min(inside, key=lambda span: min(abs(span[0] - target.end), abs(target.start - span[1])), default=None)


def _free(others: Sequence[Target], start: int, end: int) -> bool:
    """Whether nothing but an event of care ("diagnosed", "admitted") stands between."""
    return not any(start <= other.start and other.end <= end and other.label != "clinical_event" for other in others)


def _close(text: str, end: int, target: Target) -> bool:
    """Whether a duration qualifies the finding: "a two-week cough", "5 days of severe pain"."""
    between = text[end : target.start]
    return len(between.split()) <= 2 and not re.search(r"[,.;:\n]", between)
