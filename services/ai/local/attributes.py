"""What is said about a finding: numbers and words next to it, before the next finding of its kind begins."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from services.ai import dates
from services.ai.wire import Target
from shared.contract.findings import AttributeName

from . import rows, times
from .assertion import sentence
from .cues import words_for
from .sections import Section, at, columns, one_of, rules
from .times import MEASURED

Found = tuple[AttributeName, int, int]

_TIMED = frozenset({"event", "observation", "intervention"})
_GROWS = re.compile(r"\b(?:culture|gram stain|microscopy)s?\b", re.I)
_ORGANISM = re.compile(r"(?-i:[A-Z])[a-z]+(?: [a-z]+){1,3}(?=[ \t]{2}|[ \t]*(?:\n|$|[,;.(]))")
"""What a culture grew, as it is printed: "Klebsiella pneumoniae", "Gram positive cocci"."""
_SUSCEPTIBLE = re.compile(r"[SRI](?=[ \t]*(?:\n|$|[,;(]))")
_DEGREES = re.compile(r"\s?([CF])\b")
_GAP = re.compile(
    r"(?:[\s:=,(\[|]|\.{3,})*(?:(?:(?:improved|fell|rose|increased|decreased|dropped|reduced|up|down)\s+to|(?:raised|elevated|low|high)\s+at|was|is|were|are|of|at|level|levels|count|value|result|results|measured|showed|grew|grows|remained|to|a|an|the"
    r"|on|that|which|slightly|mildly|markedly|significantly|today|still|now|also|found|be|came|back|as)\b[\s:=(]*)*"
)
_TO_SITE = re.compile(r"\s+(?:of|in|on|at|to|over|around|involving)\s+(?:the\s+|his\s+|her\s+|a\s+)?", re.I)
_SHORT_GAP = re.compile(r"\s+(?:(?:serum|plasma|blood|urine|total|the|her|his|level of|levels of)\s+)*$")
_DOSE = re.compile(
    r"(?<![\w./])(?:\d+(?:[.,]\d+)?(?:(?:\s?[-–]\s?|/)\d+(?:[.,]\d+)?)?"
    r"\s?(?:mg|mcg|[µμ]g|ug|micrograms?|grams?|g|ml|mL|units?|iu|mmol|mEq|Gy|%)"
    r"(?:\s?/\s?(?:kg|day|d|h|hr|hour|min|ml|m2|m²|\d+\s?(?:ml|h)))*"
    r"|(?:\d+(?:\s?[-–]\s?\d+)?|one|two|three|half an?)"
    r"\s?(?:puffs?|tab(?:let)?s?|cap(?:sule)?s?|drops?|sprays?|sachets?|patch(?:es)?))(?![\w])",
    re.I,
)
_EVERY = re.compile(
    r"\bevery\s+(?:\d+(?:\s?(?:-|to)\s?\d+)?|two|three|four|six|eight|twelve|other|second|third)"
    r"\s+(?:hours?|days?|weeks?|months?)\b|\bq\d+h\b|\b\d+[- ]?(?:hourly|hrly|weekly|monthly)\b"
    r"|\bevery\s+(?:mon|tues|wednes|thurs|fri|satur|sun)day\b|\b\d\s?x\s?(?:/|per\s|a\s)\s?(?:day|d)\b",
    re.I,
)
_AS_NEEDED = re.compile(
    r",?\s+(?:as\s+needed|as\s+required|when\s+required|if\s+needed|if\s+required|p\.?r\.?n\b\.?)", re.I
)
_AT_ADMISSION = re.compile(r"\b(?:on|at)\s+(?:admission|arrival|presentation)\b", re.I)
_ADMITTED = re.compile(r"\b(?:admitted|admission|date\s+of\s+admission|admission\s+date)(?:\s+on)?\s*:?\s*$", re.I)
_STATED_FOR = re.compile(r"\b(negative|positive)\s+for\b", re.I)
_DOSE_BEFORE = re.compile(r"(?:\s+of)?\s*$")
_CELL_BEFORE = re.compile(r"[ \t|]*(\S+(?: \S+)*)(?:[ \t]{3,}|[ \t]*\|[ \t]*)$")
_DIRECTIONS = re.compile(
    r"[^\n]{0,80}\n[ \t]*(?:shake well\.?[ \t]*)?"
    r"(?P<directions>(?:take|instil|apply|use|inhale|inject|insert|give|put|place|swallow|spray|chew|dissolve)\b[^\n]*)",
    re.I,
)
"""What a pharmacy's label says below a medicine's name."""
_LABEL_REACH = 240
_REACH = 90
"""Characters after a medicine in which its dose, route and frequency stand; a longer line belongs to something else."""


@cache
def _measure() -> re.Pattern[str]:
    flags = one_of(rules("attributes")["flags"])
    return re.compile(
        rf"(?P<value>[1-4]\+(?!\w)|\d{{1,3}}\s?/\s?\d{{1,3}}(?!\d|/)|1\s?:\s?\d{{1,4}}(?!\d)|{rows.NUMBER}(?:\s?[-–]\s?\d+(?:\.\d+)?)?)"
        rf"(?:\s?(?P<unit>(?i:{rows.unit_pattern()})))?"
        r"(?:\s*[(\[]\s*(?i:(?:ref(?:erence)?|normal)[ .:]*(?:range|value)?[ :]*)?"
        rf"(?P<range>{rows.RANGE})(?!\d|[-/]\d)[^)\]\n]{{0,15}}[)\]])?"
        rf"(?:[ \t]+\(?(?P<flag>{flags})\)?(?=[ \t]*(?:\n|$|[;,])))?"
    )


def attributes(
    text: str, targets: Sequence[Target], edges: Sequence[tuple[int, int]], parts: Sequence[Section] = ()
) -> Iterator[tuple[str, list[Found]]]:
    """(id, attributes) of each target; each attribute once, as offsets in ``text``."""
    table = {row.name[0]: row for row in rows.rows(text)}
    ordered = sorted(targets, key=lambda target: target.start)
    starts = [target.start for target in ordered]
    for index, target in enumerate(ordered):
        low, high = sentence(edges, target.start)
        after = bisect_left(starts, target.end, index + 1)
        following = starts[after] if after < len(starts) else high
        previous = max(
            (other.end for other in ordered[max(0, index - 3) : index] if other.end <= target.start), default=low
        )
        found: list[Found] = []
        row = _row_at(table, target.start) if table else None
        if row is not None and row.name[0] <= target.start and target.end <= max(row.name[1], row.value[0]):
            cells: list[tuple[AttributeName, rows.Stretch | None]] = [
                ("value", row.value), ("unit", row.unit), ("range", row.range), ("flag", row.flag)
            ]  # fmt: skip
            found += [(name, *cell) for name, cell in cells if cell]
            if when := _column_date(text, target.end, row):
                found.append(("time", *when))
        elif target.label in MEASURED:
            # What a culture grew is a finding of its own, too.
            end = high if _GROWS.search(target.quote) else min(following, high)
            found += _measured(text, target, low=low, previous=max(previous, low), end=end)
        elif target.label in ("medication", "procedure"):
            others = [other.start for other in ordered[after : after + times.BESIDE] if other.label == target.label]
            line_end = text.find("\n", target.end)
            label = _DIRECTIONS.match(text, target.end, next((o for o in others if o > line_end >= 0), len(text)))
            next_start = next((o for o in others if label is None or o > label.start("directions")), len(text))
            end = min(next_start, label.end() if label else high, target.end + (_LABEL_REACH if label else _REACH))
            directed = label.start("directions") if label else target.end
            found += _prescribed(text, target, max(previous, low), end, directed=directed)
        if target.kind in ("event", "observation"):
            found += _described(text, target, max(previous, low), min(following, high))
        near = times.around(text, target)
        # "3 times a day" is no time of day.
        often = [detail for detail in found if detail[0] == "frequency"]
        near = [time for time in near if all(time[1] <= start or end <= time[0] for _, start, end in often)]
        beside = ordered[max(0, index - times.BESIDE) : index + times.BESIDE] if near else []
        if target.kind not in _TIMED or any(name == "time" for name, _, _ in found):
            pass
        elif near and (time := times.nearest(text, near, target, beside, clause=(low, high))):
            found.append(("time", *time))
        elif target.label in ("test", "vital_sign") and parts and any(name == "value" for name, _, _ in found):
            # "Results of 4 February 2025" dates what is listed below.
            heading = at(parts, target.start).heading
            inside = [span for span in dates.told(text) if heading[0] <= span[0] and span[1] <= heading[1]]
            if not inside and _AT_ADMISSION.search(text[slice(*heading)]):
                inside = [span for span in dates.told(text) if _ADMITTED.search(text, 0, span[0])]
            found += [("time", *span) for span in inside[:1]]
        yield target.id, found


def _row_at(table: Mapping[int, rows.Row], position: int) -> rows.Row | None:
    """The row whose name begins at a position, or nearest before it."""
    return next((table[name] for name in range(position, max(position - 46, -1), -1) if name in table), None)


def _column_date(text: str, name_end: int, row: rows.Row) -> tuple[int, int] | None:
    """The date above a row's last value: "Test  2 Sep  8 Sep  Unit" over "Haemoglobin  118  121  g/L"."""
    if row.day:
        return row.day
    header = columns(text, row.name[0])
    if header is None:
        return None
    days = [(start, end) for start, end in dates.find(text[header[0] : header[1]])]
    column = len(re.findall(r"\d+(?:[.,]\d+)?", text[name_end : row.value[0]]))
    # One value below two dates may stand under either.
    return (header[0] + days[column][0], header[0] + days[column][1]) if column == len(days) - 1 else None


def _measured(text: str, target: Target, *, low: int, previous: int, end: int) -> list[Found]:
    gap = _GAP.match(text, target.end, end)
    start = gap.end() if gap else target.end
    match = _measure().match(text, start, min(end + 40, len(text)))
    if match and (day := dates.within(text, *match.span("value"))):
        # "X-ray on 4 February 2025 is normal": what it shows stands behind its date.
        gap = _GAP.match(text, day[1], end)
        start = gap.end() if gap else day[1]
        match = _measure().match(text, start, min(end + 40, len(text)))
        if match and dates.within(text, *match.span("value")):
            return []
    if match is None or match.start("value") >= end:
        return _stated(text, target, low=low, previous=previous, start=start, end=end)
    if match["unit"] is None and (degrees := _degrees(text, target, match.end("value"))):
        return [("value", *match.span("value")), ("unit", *degrees)]
    names: tuple[AttributeName, ...] = ("value", "unit", "range", "flag")
    return [(name, *match.span(name)) for name in names if match[name]]


def _stated(text: str, target: Target, *, low: int, previous: int, start: int, end: int) -> list[Found]:
    """A result in words: behind the finding, right before it, or "negative for" it."""
    words = words_for("value_words")
    grown = _ORGANISM.match(text, start, end) if _GROWS.search(target.quote) else None
    if said := grown or _SUSCEPTIBLE.match(text, start, end) or words.pattern.match(text, start, end):
        return [("value", *said.span())]
    before = list(words.within(text, previous, target.start))
    if before and _SHORT_GAP.fullmatch(text, before[-1].end(), target.start):
        return [("value", *before[-1].span())]
    stated = list(_STATED_FOR.finditer(text, low, target.start))
    return [("value", *stated[-1].span(1))] if stated else []


def _degrees(text: str, target: Target, position: int) -> tuple[int, int] | None:
    """The C or F behind a temperature; behind anything else it is no unit."""
    unit = _DEGREES.match(text, position) if target.quote.lower().startswith("t") else None
    return unit.span(1) if unit else None


def said_of_a_result(text: str, start: int, end: int) -> list[Found]:
    """Words that were taken for a result, parted into its value and its unit: ">340 U/mL"."""
    match = _measure().fullmatch(text, start, end)
    if match is None or match["unit"] is None:
        return [("value", start, end)]
    return [("value", *match.span("value")), ("unit", *match.span("unit"))]


def _prescribed(text: str, target: Target, previous: int, end: int, *, directed: int) -> list[Found]:
    """Dose, route and frequency of a medicine; ``directed`` is where a label's directions begin, below its name."""
    found: list[Found] = []
    doses = list(_DOSE.finditer(text, directed, end)) or list(_DOSE.finditer(text, target.end, end))
    # "Carmellose 0.5%  1 drop": the strength is how much only where nothing else is.
    dose = next((one for one in doses if not one.group().endswith("%")), doses[0] if doses else None)
    if dose is None:
        before = list(_DOSE.finditer(text, previous, target.start))
        if before and _DOSE_BEFORE.fullmatch(text, before[-1].end(), target.start):
            dose = before[-1]
    if dose:
        found.append(("dose", *dose.span()))
    routes = list(words_for("routes").within(text, previous, target.start))
    if routes and not text[routes[-1].end() : target.start].strip() and _meant(routes[-1].group(), dosed=False):
        found.append(("route", *routes[-1].span()))
    for name, rule in (("route", "routes"), ("frequency", "frequencies")):
        if any(known == name for known, _, _ in found):
            continue
        hit = next(
            (
                word
                for word in words_for(rule).within(text, target.end, end)
                if _meant(word.group(), dosed=dose is not None)
                and not (dose and dose.start() <= word.start() < dose.end())
            ),
            None,
        )
        if name == "frequency":
            every = _EVERY.search(text, target.end, end)
            hit = every if every and (hit is None or every.start() <= hit.start()) else hit
            hit = hit or _column_before(text, target.start)
            if hit:
                needed = _AS_NEEDED.match(text, hit.end(), end)
                found.append(("frequency", hit.start(), needed.end() if needed else hit.end()))
        elif hit:
            found.append(("route", *hit.span()))
    return found


def _column_before(text: str, start: int) -> re.Match[str] | None:
    """How often a medicine is taken, where a table has that in the column before it."""
    line = text.rfind("\n", 0, start) + 1
    cell = _CELL_BEFORE.match(text, line, start)
    if cell is None:
        return None
    often = next(iter(words_for("frequencies").within(text, *cell.span(1))), None) or _EVERY.match(text, *cell.span(1))
    return often if often and often.span() == cell.span(1) else None


def _meant(word: str, *, dosed: bool) -> bool:
    """Whether a two-letter word is the abbreviation: capitals, or small after a dose; "on" only in capitals."""
    return len(word) > 2 or word.isupper() or (dosed and word.lower() not in ("on", "om", "im"))


def _described(text: str, target: Target, previous: int, end: int) -> list[Found]:
    found: list[Found] = []
    before = list(words_for("severities").within(text, previous, target.start))
    if (
        before
        and len(text[before[-1].end() : target.start].split()) <= 2
        and "," not in text[before[-1].end() : target.start]
    ):
        found.append(("severity", *before[-1].span()))
    site = _TO_SITE.match(text, target.end, end)
    named = words_for("sites").pattern.match(text, site.end(), end) if site else None
    if named is None and _adjective(target.quote):
        space = re.compile(r"\s+").match(text, target.end, end)
        named = words_for("sites").pattern.match(text, space.end(), end) if space else None
    if named is None:
        candidates = list(words_for("sites").within(text, previous, target.start))
        if candidates and not text[candidates[-1].end() : target.start].strip(" \t"):
            named = candidates[-1]
    if named:
        found.append(("site", *named.span()))
    return found


def _adjective(words: str) -> bool:
    return words.lower() in rules("attributes")["adjectives"]
