"""Whether a finding holds, and for whom: cues in its sentence, its section's role, and the NegEx way of scopes."""

import re
from collections.abc import Sequence
from functools import cache

from shared.contract.findings import Assertion, Subject

from .sections import one_of, rules

_TESTS = frozenset({"test", "vital_sign", "imaging", "examination"})
# "a three day history of cough" tells how long it has lasted, not that it is over.
_PRESENT_HISTORY = re.compile(r"\b(?:hours?|days?|weeks?|months?|years?|long|short)\b[\s,-]*history of", re.I)
_STANDING = frozenset({"age", "sex", "occupation", "background"})
"""True of the patient on the day of writing, whatever the sentence goes on to say."""
_PASSING = frozenset({"event", "intervention"})
_NO_ALLERGIES = re.compile(r"NKDA|no\s+(?:known\s+)?(?:drug\s+)?allergies", re.I)


@cache
def _compiled(kind: str, side: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{one_of(rules('assertion')[kind][side])})(?!\w)", re.I)


def sentence(edges: Sequence[tuple[int, int]], position: int) -> tuple[int, int]:
    """The sentence that holds a position."""
    low, high = 0, len(edges) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if edges[middle][0] <= position:
            low = middle
        else:
            high = middle - 1
    return edges[low]


def _before(text: str) -> str:
    """What stands before a finding in its clause: after the last terminator."""
    ends = [match.end() for match in _compiled("terminators", "words").finditer(text)]
    return text[ends[-1] :] if ends else text


def _after(text: str) -> str:
    """What stands after a finding in its clause: before the first terminator."""
    first = _compiled("terminators", "words").search(text)
    return text[: first.start()] if first else text


def assertion(
    text: str, start: int, end: int, *, kind: str, label: str, role: str, edges: Sequence[tuple[int, int]]
) -> Assertion:
    """What the page states about [start, end)."""
    if label in _STANDING:
        return "affirmed"
    low, high = sentence(edges, start)
    before, after = _before(text[low:start]), _after(text[end:high])
    unmasked = _compiled("negated", "pseudo").sub(lambda match: "~" * len(match.group()), before)
    after_near = re.split(r"[,;]", after)[0][:60]
    if label == "allergy" and _NO_ALLERGIES.search(text[start:end]):
        return "negated"
    if label in _TESTS:
        if _compiled("results", "not_done").search(after_near) or re.search(
            r"\b(?:no|without|not)\s+(?:\w+\s+)?$", unmasked, re.I
        ):
            return "negated"
    elif _compiled("negated", "before").search(unmasked) or _negated_after(after_near, after):
        return "negated"
    return _doubt(before, after_near, label=label) or _past_or_planned(
        before, after_near, kind=kind, label=label, role=role
    )


def _past_or_planned(before: str, after: str, *, kind: str, label: str, role: str) -> Assertion:
    past = _PRESENT_HISTORY.sub("", before)
    if label not in _TESTS and (
        _compiled("historical", "before").search(past) or _compiled("historical", "after").search(after)
    ):
        return "historical"
    if role == "history" and kind in _PASSING and label != "clinical_event":
        return "historical"
    if role == "plan" and label in (*_TESTS, "procedure", "clinical_event"):
        return "hypothetical"
    return "affirmed"


def _negated_after(near: str, clause: str) -> bool:
    if _compiled("possible", "after").search(near):
        return False
    match = _compiled("negated", "after").search(near)
    if match is not None:
        return True
    # "fever: none", "chest pain - nil": a form's way, where the cue is all that follows.
    return re.fullmatch(r"\s*[:=-]\s*(?:no|none|nil|negative|absent)\.?\s*", clause, re.I) is not None


def _doubt(before: str, after: str, *, label: str) -> Assertion | None:
    if _compiled("hypothetical", "before").search(before) or _compiled("hypothetical", "after").search(after):
        return "hypothetical"
    if label in _TESTS:
        return None  # what is suspected is what the test looks for
    possible = re.search(r"\?\s*$", before) or _compiled("possible", "before").search(before)
    if possible or _compiled("possible", "after").search(after):
        return "possible"
    return None


def relative_speaks(text: str, start: int, end: int, edges: Sequence[tuple[int, int]]) -> bool:
    """Whether a relative stands before the finding in its sentence, and no patient in between."""
    low, _ = sentence(edges, start)
    before = text[low:start]
    ends = [match.end() for match in _compiled("family", "relatives").finditer(before)]
    if not ends:
        return False
    return re.search(r"\b(?:patient|he|she|who)\s+(?:has|had|is|was|presented)\b", before[ends[-1] :], re.I) is None


def subject(text: str, start: int, end: int, *, label: str, role: str, edges: Sequence[tuple[int, int]]) -> Subject:
    """Whom the finding is about."""
    if role == "family" or label == "family_history" or relative_speaks(text, start, end, edges):
        return "family" if label not in ("age", "sex") or role == "family" else "patient"
    low, _ = sentence(edges, start)
    if _compiled("family", "other").search(text[low:start]):
        return "other"
    return "patient"
