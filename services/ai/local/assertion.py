"""Whether a finding holds, and for whom: cues in its sentence, its section's role, and the NegEx way of scopes."""

import re
from collections.abc import Sequence
from functools import cache

from shared.contract.findings import Assertion, Subject

from .negation import Negation, features
from .sections import one_of, rules

_TESTS = frozenset({"test", "vital_sign", "imaging", "examination"})
# "a three day history of cough" tells how long it has lasted, not that it is over.
_PRESENT_HISTORY = re.compile(r"\b(?:hours?|days?|weeks?|months?|years?|long|short)\b[\s,-]*history of", re.I)
_STANDING = frozenset({"age", "sex", "occupation", "background"})
"""True of the patient on the day of writing, whatever the sentence goes on to say."""
_PASSING = frozenset({"event", "intervention"})
_DONE = re.compile(r"(?<!be )(?<!not )\b(?:taken|done|performed|given|sent|completed|carried out|showed)\b", re.I)
_LONGEST = 800
"""Characters of a sentence on either side; a page without stops would cost the square of its length."""
_VACCINE = re.compile(r"vaccin|immuni[sz]ation", re.I)
_NO_ALLERGIES = re.compile(r"NKDA|no\s+(?:known\s+)?(?:drug\s+)?allergies", re.I)


@cache
def _compiled(kind: str, side: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{one_of(rules('assertion')[kind][side])})(?!\w)", re.I)


def sentence(edges: Sequence[tuple[int, int]], position: int) -> tuple[int, int]:
    """The sentence that holds a position, as far as a cue in it may reach."""
    low, high = 0, len(edges) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if edges[middle][0] <= position:
            low = middle
        else:
            high = middle - 1
    start, end = edges[low]
    return max(start, position - _LONGEST), min(end, position + _LONGEST)


def _before(text: str) -> str:
    """What stands before a finding in its clause: after the last terminator. What a bracket closes, it keeps."""
    text = re.sub(r"\([^()]*\)", lambda match: "~" * len(match.group()), text)
    ends = [match.end() for match in _compiled("terminators", "words").finditer(text)]
    return text[ends[-1] :] if ends else text


def _after(text: str) -> str:
    """What stands after a finding in its clause: before the first terminator."""
    first = _compiled("terminators", "words").search(text)
    return text[: first.start()] if first else text


def assertion(
    text: str,
    start: int,
    end: int,
    *,
    kind: str,
    label: str,
    role: str,
    edges: Sequence[tuple[int, int]],
    negation: Negation,
) -> Assertion:
    """What the page states about [start, end)."""
    if label in _STANDING:
        return "affirmed"
    low, high = sentence(edges, start)
    before, after = _before(text[low:start]), _after(text[end:high])
    after_near = re.split(r"[,;]", after)[0][:60]
    absent = ruled_absent(text, start, end, label=label, edges=edges)
    if kind != "context":
        found = features(text, start, end, label=label, rule=absent, sentence=(low, high))
        absent = negation.absent(found)
    if absent and label == "medication" and _stopped(before, after_near):
        return "historical"
    if absent:
        return "negated"
    return _doubt(before, after_near, label=label) or _past_or_planned(
        text[start:end], before, after_near, kind=kind, label=label, role=role
    )


def _stopped(before: str, after: str) -> bool:
    """Whether a medicine was given and is no more; reports annotate that as its absence, a record as its past."""
    return (
        _compiled("historical", "before").search(before) is not None
        or _compiled("historical", "after").search(after) is not None
    )


def ruled_absent(text: str, start: int, end: int, *, label: str, edges: Sequence[tuple[int, int]]) -> bool:
    """Whether a cue in its clause makes [start, end) absent."""
    low, high = sentence(edges, start)
    before, after = _before(text[low:start]), _after(text[end:high])
    unmasked = _compiled("negated", "pseudo").sub(lambda match: "~" * len(match.group()), before)
    after_near = re.split(r"[,;]", after)[0][:60]
    if label == "allergy" and _NO_ALLERGIES.search(text[start:end]):
        return True
    if label in _TESTS:
        return bool(
            _compiled("results", "not_done").search(after_near)
            or re.search(r"\b(?:no|without|not)\s+(?:\w+\s+)?$", unmasked, re.I)
        )
    return bool(_compiled("negated", "before").search(unmasked)) or _negated_after(after_near, after)


def _past_or_planned(words: str, before: str, after: str, *, kind: str, label: str, role: str) -> Assertion:
    past = _PRESENT_HISTORY.sub("", before)
    if label not in _TESTS and (
        _compiled("historical", "before").search(past) or _compiled("historical", "after").search(after)
    ):
        return "historical"
    if role == "allergies" and label in ("symptom", "disease"):
        return "historical"  # what the substance once did
    if role == "plan" and label == "medication" and _VACCINE.search(words):
        return "hypothetical"
    if role == "history" and kind in _PASSING and label != "clinical_event":
        return "historical"
    if role == "plan" and label in (*_TESTS, "procedure", "clinical_event") and not _DONE.search(after):
        return "hypothetical"
    return "affirmed"


def _negated_after(near: str, clause: str) -> bool:
    # "cannot be excluded" is doubt, "was considered and excluded" is none.
    if _compiled("negated", "after").search(_compiled("possible", "after").sub("~", near)):
        return True
    if _compiled("possible", "after").search(near):
        return False
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
