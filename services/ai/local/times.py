"""When: which of the times in its sentence is a finding's own. A wrong one is worse than none."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from services.ai import dates
from services.ai.wire import Target

Stretch = tuple[int, int]
MEASURED = frozenset({"test", "vital_sign", "examination", "imaging"})
_LABELLED = re.compile(r"[ \t]*:[ \t]*")
_SPACE = re.compile(r"[ \t]+")
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
_PRESENTED = re.compile(r"\b(?:present(?:s|ed|ing)|admitted|discharged|seen|attended|came\s+in)\s+(?:on\s+)?$", re.I)
_GIVEN_LABELS = frozenset({"medication", "procedure"})
_GIVEN = re.compile(
    r"\b(?:given|used|taken|started|commenced|received|dispensed|stopped|ceased)(?:\s+on)?\s+$|\bx\s*$", re.I
)
_IN_COLUMNS = re.compile(r"[^\n]*?(?:\S {3,}\S[^\n]*? {3,}|\S / \S[^\n]* / |\S ?\| ?\S[^\n]*\|)")
_FOR = re.compile(r"\b(?:for|x)\s*$", re.I)
_FAR = 400
"""Characters between a finding and its date; a longer sentence is a page without stops."""
BESIDE = 40
"""Findings on either side that may stand between a finding and its date."""
_BESIDE_TEST = 4
"""Characters between a test and its date: "US on 3/5/2025"."""


def around(text: str, target: Target) -> list[Stretch]:
    """The times that may be a finding's, near enough to it."""
    times = dates.told(text)
    return times[bisect_left(times, (target.start - _FAR, 0)) : bisect_right(times, (target.end + _FAR, len(text)))]


def nearest(
    text: str, times: Sequence[Stretch], target: Target, others: Sequence[Target], *, clause: Stretch
) -> Stretch | None:
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
        if _is_of_another(text, target, start, others):
            continue
        if belongs(text, target, (start, end), others, low=low, lasting=lasting):
            came = target.label != "clinical_event" and _is_of_care(text, low, start)
            near.append(
                (2 if came else int(lasting), min(abs(start - target.end), abs(target.start - end)), (start, end))
            )
    return min(near, default=(0, 0, None))[2]


def _is_of_another(text: str, target: Target, start: int, others: Sequence[Target]) -> bool:
    """Whether a time is of the medicine that its line is about, not of why it is taken.

    "aspirin 75 mg / daily / angina / started 2019", "denosumab for osteoporosis, last given 18 March".
    """
    if target.label in _GIVEN_LABELS:
        return False
    line = text.rfind("\n", 0, start) + 1
    given = any(line <= other.start and other.end <= start and other.label in _GIVEN_LABELS for other in others)
    return given and (_GIVEN.search(text, line, start) is not None or _IN_COLUMNS.match(text, line, start) is not None)


def _belongs_before(
    text: str, target: Target, time: Stretch, others: Sequence[Target], *, low: int, lasting: bool
) -> bool:
    """Whether a time is of a finding that stands before it."""
    start = time[0]
    if _COMPARED.search(text, target.end, start) or _opens(text, low, start, lasting=lasting):
        return False
    if target.label != "clinical_event" and (
        _points_onward(text, low, time, lasting=lasting) or _is_of_care(text, low, start)
    ):
        return False
    given = target.label in _GIVEN_LABELS and (
        _GIVEN.search(text, target.end, start) or _IN_COLUMNS.match(text, text.rfind("\n", 0, start) + 1, start)
    )
    if _free([other for other in others if other.label in _GIVEN_LABELS] if given else others, target.end, start):
        return not _is_reason(text, target, others)
    return _shared(text, target, others, start) or _is_explained(text, target, others, start)


def _belongs_behind(
    text: str, target: Target, time: Stretch, others: Sequence[Target], *, low: int, lasting: bool
) -> bool:
    """Whether a time is of a finding that stands behind it."""
    start, end = time
    if _points_onward(text, low, time, lasting=lasting) or _HISTORY_OF.match(text, end):
        return True
    if _heads(text, time, target, others, lasting=lasting):
        return True
    opens = _opens(text, low, start, lasting=lasting)
    if _free(others, end, target.start):
        if lasting and _FOR.search(text, low, start) and _inside(others, low, start):
            return False  # "ceftriaxone for four days along with clarithromycin"
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


def _points_onward(text: str, low: int, time: Stretch, *, lasting: bool) -> bool:
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


def _heads(text: str, time: Stretch, target: Target, others: Sequence[Target], *, lasting: bool) -> bool:
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
