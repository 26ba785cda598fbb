"""What is said about a finding: numbers and words next to it, before the next finding of its kind begins."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from services.ai import dates
from services.ai.wire import Target
from shared.contract.findings import AttributeName

from . import rows
from .assertion import sentence
from .cues import words_for
from .sections import Section, at, columns, one_of, rules

Found = tuple[AttributeName, int, int]

MEASURED = frozenset({"test", "vital_sign", "examination", "imaging"})
_TIMED = frozenset({"event", "observation", "intervention"})
_GROWS = re.compile(r"\b(?:culture|gram stain|microscopy)s?\b", re.I)
_ORGANISM = re.compile(r"(?-i:[A-Z])[a-z]+(?: [a-z]+){1,3}(?=[ \t]{2}|[ \t]*(?:\n|$|[,;.(]))")
"""What a culture grew, as it is printed: "Klebsiella pneumoniae", "Gram positive cocci"."""
_SUSCEPTIBLE = re.compile(r"[SRI](?=[ \t]*(?:\n|$|[,;(]))")
_DEGREES = re.compile(r"\s?([CF])\b")
_GAP = re.compile(
    r"(?:[\s:=,(\[|]|\.{3,})*(?:(?:(?:improved|fell|rose|increased|decreased|dropped|reduced|up|down)\s+to|(?:raised|elevated|low|high)\s+at|was|is|were|are|of|at|level|levels|count|value|result|results|measured|showed|remained|to|a|an|the"
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
_LABELLED = re.compile(r"[ \t]*:[ \t]*")
_SPACE = re.compile(r"[ \t]+")
_AT_ADMISSION = re.compile(r"\b(?:on|at)\s+(?:admission|arrival|presentation)\b", re.I)
_ADMITTED = re.compile(r"\b(?:admitted|admission|date\s+of\s+admission|admission\s+date)(?:\s+on)?\s*:?\s*$", re.I)
_NOT_WHEN = re.compile(
    r"\b(?:until|till|up\s+to|stop\s+on|ends?|ending|rv|r/v|review|rpt|repeat|f/u|follow[- ]?up|recheck|return)\s*$",
    re.I,
)
_COMPARED = re.compile(
    r"\b(?:compared\s+(?:with|to)|prev(?:ious(?:ly)?)?|formerly|(?:up|down|increased|decreased)\s+from)\b", re.I
)
_OPENS = re.compile(
    r"[\s•*–|-]*(?:\d{1,2}[.)]\s+)?(?:(?:on|in|at|since|around|about|by|approximately|for|over|during|within)\s+)?(?:the\s+)?"
    r"(?:(?:past|last|previous)\s+)?",
    re.I,
)
_AND = re.compile(r"\band\b", re.I)
_JOINS = re.compile(r"\s*(?:,?\s*(?:and|with|&|\+|/)|,)\s*", re.I)
"""What stands between the items of a list."""
_LAST_JOINS = re.compile(r"\s*,?\s*(?:and|with|&|\+)\s*", re.I)
_DONE_FOR = re.compile(r"\s+(?:for|due to|d/t|because of)\s+(?:an?\s+|the\s+)?", re.I)
_HEADS = re.compile(r"\s?\)?\s?:")
_APART = re.compile(r"[,.;:(\n]|\s[-–]\s|\s{3}")
_BARE_YEAR = re.compile(r"(?:19|20)\d\d\b(?![-/])")
_ON_WEEKDAY = re.compile(r"on\s+(?:mon|tues|wednes|thurs|fri|satur|sun)day", re.I)
_ON_A_DAY = frozenset({"symptom", "disease"})
_OVER_THE_PAST = re.compile(r"\b(?:over|for|in|during|within)\s+the\s+(?:past|last)\s+$", re.I)
_SHOWED = re.compile(
    r"\)?(?:\s+[-–]\s|\s+(?:show(?:s|ed|ing)|demonstrat\w+|confirm\w+|reveal\w+|rule[sd]\s+out|noted|identified)\b)",
    re.I,
)
_HISTORY_OF = re.compile(r"[\s-]*(?:(?:history|hx|course|episode|duration)\s+)?of\b|[\s-]*(?:h/o|hx|history)\b", re.I)
_PRESENTS_WITH = re.compile(r"\s*(?:with|complaining of|c/o|for|due to|because of)\b", re.I)
_STATED_FOR = re.compile(r"\b(negative|positive)\s+for\b", re.I)
_PRESENTED = re.compile(r"\b(?:present(?:s|ed|ing)|admitted|seen|attended|came\s+in)\s+(?:on\s+)?$", re.I)
_DOSE_BEFORE = re.compile(r"(?:\s+of)?\s*$")
_FAR = 400
"""Characters between a finding and its date; a longer sentence is a page without stops."""
_BESIDE = 40
"""Findings on either side that may stand between a finding and its date."""
_BESIDE_TEST = 4
"""Characters between a test and its date: "US on 3/5/2025"."""
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
        rf"(?P<value>\d{{1,3}}\s?/\s?\d{{1,3}}(?!\d|/)|1\s?:\s?\d{{1,4}}(?!\d)|{rows.NUMBER}(?:\s?[-–]\s?\d+(?:\.\d+)?)?)"
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
    times = dates.told(text)
    for index, target in enumerate(ordered):
        low, high = sentence(edges, target.start)
        after = bisect_left(starts, target.end, index + 1)
        following = starts[after] if after < len(starts) else high
        previous = max(
            (other.end for other in ordered[max(0, index - 3) : index] if other.end <= target.start), default=low
        )
        found: list[Found] = []
        row = _row_at(table, target.start) if table else None
        if row is not None and row.name[0] <= target.start and target.end <= row.value[0]:
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
            others = [other.start for other in ordered[after:] if other.label == target.label]
            line_end = text.find("\n", target.end)
            label = _DIRECTIONS.match(text, target.end, next((o for o in others if o > line_end >= 0), len(text)))
            next_start = next((o for o in others if label is None or o > label.start("directions")), len(text))
            end = min(next_start, label.end() if label else high, target.end + (_LABEL_REACH if label else _REACH))
            directed = label.start("directions") if label else target.end
            found += _prescribed(text, target, max(previous, low), end, directed=directed)
        if target.kind in ("event", "observation"):
            found += _described(text, target, max(previous, low), min(following, high))
        near = times[bisect_left(times, (target.start - _FAR, 0)) : bisect_right(times, (target.end + _FAR, len(text)))]
        # "3 times a day" is no time of day.
        often = [detail for detail in found if detail[0] == "frequency"]
        near = [time for time in near if all(time[1] <= start or end <= time[0] for _, start, end in often)]
        beside = ordered[max(0, index - _BESIDE) : index + _BESIDE] if near else []
        if target.kind not in _TIMED or any(name == "time" for name, _, _ in found):
            pass
        elif near and (time := _nearest(text, near, target, beside, clause=(low, high))):
            found.append(("time", *time))
        elif target.label in ("test", "vital_sign") and parts and any(name == "value" for name, _, _ in found):
            # "Results of 4 February 2025" dates what is listed below.
            heading = at(parts, target.start).heading
            inside = [span for span in times if heading[0] <= span[0] and span[1] <= heading[1]]
            if not inside and _AT_ADMISSION.search(text[slice(*heading)]):
                inside = [span for span in times if _ADMITTED.search(text, 0, span[0])]
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


def _nearest(
    text: str, times: Sequence[tuple[int, int]], target: Target, others: Sequence[Target], *, clause: tuple[int, int]
) -> tuple[int, int] | None:
    """The time that belongs to a finding: "in 2015" to what it follows, "12 Jan 2018  Asthma" to what follows it.

    No other finding may stand between: of "CABG in 2015, asthma" the second has no date, and a wrong one is worse.
    """
    low, high = clause
    # On a form: "Admitted 3 Mar 2024 Discharged 8 Mar 2024".
    label = _LABELLED.match(text, target.end)
    if label is None and target.label == "clinical_event":
        label = _SPACE.match(text, target.end)
    stated = next((span for span in times if label and span[0] == label.end()), None)
    if stated:
        return stated
    near = []
    # A day before a duration: "X-ray at six weeks, on 21 October 2025"; the day on which somebody came behind both.
    for start, end in times:
        if start < low or end > high or (start < target.end and target.start < end):
            continue
        lasting = dates.lasts(text[start:end])
        if lasting and target.label in MEASURED:
            continue  # "3-hour glucose tolerance test", "BP check within 48 hours"
        if target.label not in _ON_A_DAY and _ON_WEEKDAY.match(text, start):
            continue  # to come, where somebody is to be seen
        if _NOT_WHEN.search(text, max(low, start - 20), start) or (lasting and target.label == "clinical_event"):
            continue
        belongs = _belongs_before if target.end <= start else _belongs_behind
        if belongs(text, target, (start, end), others, low=low, lasting=lasting):
            came = target.label != "clinical_event" and _is_of_care(text, low, start)
            near.append(
                (2 if came else int(lasting), min(abs(start - target.end), abs(target.start - end)), (start, end))
            )
    return min(near, default=(0, 0, None))[2]


def _belongs_before(
    text: str, target: Target, time: tuple[int, int], others: Sequence[Target], *, low: int, lasting: bool
) -> bool:
    """Whether a time is of a finding that stands before it."""
    start = time[0]
    if _COMPARED.search(text, target.end, start) or _opens(text, low, start, lasting=lasting):
        return False
    if target.label != "clinical_event" and (
        _points_onward(text, low, time, lasting=lasting) or _is_of_care(text, low, start)
    ):
        return False
    if _free(others, target.end, start):
        return not _is_reason(text, target, others)
    return _shared(text, target, others, start) or _is_explained(text, target, others, start)


def _belongs_behind(
    text: str, target: Target, time: tuple[int, int], others: Sequence[Target], *, low: int, lasting: bool
) -> bool:
    """Whether a time is of a finding that stands behind it."""
    start, end = time
    if _points_onward(text, low, time, lasting=lasting) or _HISTORY_OF.match(text, end):
        return True
    if _heads(text, time, target, others, lasting=lasting):
        return True
    opens = _opens(text, low, start, lasting=lasting)
    if _free(others, end, target.start):
        if lasting or opens:
            return opens or _close(text, end, target)
        # "a stent in 2018 and asthma", "hemithyroidectomy 2011 for goitre"
        apart = _DONE_FOR.fullmatch(text, end, target.start) or _AND.search(text, end, target.start)
        return apart is None and _close(text, end, target)
    return lasting and opens and _listed(text, others, end, target.start)


def _opens(text: str, low: int, start: int, *, lasting: bool) -> bool:
    """Whether a time is what its clause begins with; a duration may also stand behind a colon."""
    colon = text.rfind(":", low, start) + 1 if lasting else 0
    return _OPENS.fullmatch(text, max(low, colon), start) is not None


def _points_onward(text: str, low: int, time: tuple[int, int], *, lasting: bool) -> bool:
    """Whether a time is of what follows, wherever in its sentence it stands.

    "asthma, presenting with a 2 day history of wheeze"; "obesity, who presented on 13 April with chest pain"; "well
    until, over the past six weeks, swelling".
    """
    start, end = time
    if lasting and (
        _HISTORY_OF.match(text, end) or (text[end : end + 1] == "," and _OVER_THE_PAST.search(text, low, start))
    ):
        return True
    return _is_of_care(text, low, start) and _PRESENTS_WITH.match(text, end) is not None


def _is_of_care(text: str, low: int, start: int) -> bool:
    """Whether a day is that on which somebody came."""
    return _PRESENTED.search(text, low, start) is not None


def _free(others: Sequence[Target], start: int, end: int) -> bool:
    """Whether nothing but an event of care ("diagnosed", "admitted") stands between."""
    return not any(start <= other.start and other.end <= end and other.label != "clinical_event" for other in others)


def _inside(others: Sequence[Target], start: int, end: int) -> list[Target]:
    return [other for other in others if start <= other.start and other.end <= end]


def _listed(text: str, others: Sequence[Target], start: int, end: int) -> bool:
    """Whether nothing but the items of a list stands between: "2/52 otalgia + reduced hearing"."""
    inside = _inside(others, start, end)
    if not inside or text[start : inside[0].start].strip():
        return False
    following = [*(other.start for other in inside[1:]), end]
    return all(_JOINS.fullmatch(text, other.end, after) for other, after in zip(inside, following, strict=True))


def _shared(text: str, target: Target, others: Sequence[Target], start: int) -> bool:
    """Whether a date behind a list is of all its items: "FBC and U&Es on 30 June", of like items with a last "and"."""
    inside = _inside(others, target.end, start)
    if not inside or any(other.label != target.label for other in inside) or _BARE_YEAR.match(text, start):
        return False
    ends = [target.end, *(other.end for other in inside)]
    joins = list(zip(ends, (other.start for other in inside), strict=False))
    return all(_JOINS.fullmatch(text, *join) for join in joins) and _LAST_JOINS.fullmatch(text, *joins[-1]) is not None


def _is_reason(text: str, target: Target, others: Sequence[Target]) -> bool:
    """Whether a finding is why something was done, and what follows the day of that: "ablation for SVT in 2018"."""
    return any(
        other.label == "procedure" and _DONE_FOR.fullmatch(text, other.end, target.start) is not None
        for other in others
    )


def _is_explained(text: str, target: Target, others: Sequence[Target], start: int) -> bool:
    """Whether nothing but its reason stands between what was done and the day of it."""
    inside = _inside(others, target.end, start)
    explains = len(inside) == 1 and target.label == "procedure"
    return explains and _DONE_FOR.fullmatch(text, target.end, inside[0].start) is not None


def _heads(text: str, time: tuple[int, int], target: Target, others: Sequence[Target], *, lasting: bool) -> bool:
    """Whether a time is of all that follows in its sentence: "ECG on 3 May 2025: sinus rhythm, …".

    With a dash or "showed" it is where a test is what it stands behind: "US 3/5/2025 - gallstones, …". A duration
    behind a finding is that finding's alone: "LUTS 6/12: nocturia".
    """
    start, end = time
    beside = next((other for other in others if 0 <= start - other.end <= _BESIDE_TEST), None)
    if _HEADS.match(text, end):
        return not (lasting and beside)
    return beside is not None and beside.label in MEASURED and _SHOWED.match(text, end) is not None


def _close(text: str, end: int, target: Target) -> bool:
    """Whether a duration qualifies the finding: "a two-week cough", "5 days of severe pain"."""
    between = text[end : target.start]
    return len(between.split()) <= 2 and not _APART.search(between)
