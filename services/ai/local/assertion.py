"""Whether a finding holds, and for whom: cues in its sentence, its section's role, and the NegEx way of scopes."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from shared.contract.findings import Assertion, Subject

from .cues import cue, present
from .negation import Negation, features

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
_BRACKETS = re.compile(r"\([^()]*\)")
"""What a bracket closes, it keeps."""
_NEAR = re.compile(r"[,;]")
_NOT = frozenset({"no", "without", "not"})
_NOT_DONE = re.compile(r"\b(?:no|without|not)\s+(?:\w+\s+)?$", re.I)
_FORM_SAYS_NO = re.compile(r"\s*[:=-]\s*(?:no|none|nil|negative|absent)\.?\s*", re.I)
_NO_ALLERGIES = re.compile(r"NKDA|no\s+(?:known\s+)?(?:drug\s+)?allergies", re.I)


class _Clause(NamedTuple):
    """What stands before and behind a finding in its clause, and the tokens of both (of more than both, at times)."""

    before: str
    after: str
    words_before: frozenset[str]
    words_after: frozenset[str]

    @property
    def after_near(self) -> str:
        return _NEAR.split(self.after, maxsplit=1)[0][:60]

    def opens_with(self, kind: str) -> bool:
        """Whether a cue of this kind stands before the finding."""
        return cue(kind, "before").stands(self.before, self.words_before)

    def goes_on_with(self, kind: str, side: str = "after") -> bool:
        """Whether a cue of this kind stands close behind the finding."""
        ends = cue(kind, side)
        return ends.may_stand(self.words_after) and ends.pattern.search(self.after_near) is not None


def sentence(edges: Sequence[tuple[int, int]], position: int) -> tuple[int, int]:
    """The sentence that holds a position, as far as a cue in it may reach."""
    start, end = edges[max(bisect_left(edges, (position + 1, 0)) - 1, 0)]
    return max(start, position - _LONGEST), min(end, position + _LONGEST)


def _clause(text: str, start: int, end: int, edges: Sequence[tuple[int, int]]) -> _Clause:
    low, high = sentence(edges, start)
    before, after = text[low:start], text[end:high]
    if "(" in before:
        before = _BRACKETS.sub(_blanked, before)
    words_before, words_after = present(text, low, start), present(text, end, high)
    ends = cue("terminators", "words")
    if ends.may_stand(words_before):
        before = before[max((match.end() for match in ends.pattern.finditer(before)), default=0) :]
    if ends.may_stand(words_after) and (first := ends.pattern.search(after)):
        after = after[: first.start()]
    return _Clause(before, after, words_before, words_after)


def _blanked(match: re.Match[str]) -> str:
    return "~" * len(match.group())


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
    clause = _clause(text, start, end, edges)
    absent = _ruled_absent(text[start:end], clause, label=label)
    if kind != "context":
        found = features(text, start, end, label=label, rule=absent, sentence=sentence(edges, start))
        absent = negation.absent(found)
    # A medicine that was given and is no more: reports annotate that as its absence, a record as its past.
    if absent and label == "medication" and (clause.opens_with("historical") or clause.goes_on_with("historical")):
        return "historical"
    if absent:
        return "negated"
    return _doubt(clause, label=label) or _past_or_planned(text[start:end], clause, kind=kind, label=label, role=role)


def ruled_absent(text: str, start: int, end: int, *, label: str, edges: Sequence[tuple[int, int]]) -> bool:
    """Whether a cue in its clause makes [start, end) absent."""
    return _ruled_absent(text[start:end], _clause(text, start, end, edges), label=label)


def _ruled_absent(words: str, clause: _Clause, *, label: str) -> bool:
    if label == "allergy" and _NO_ALLERGIES.search(words):
        return True
    before, pseudo = clause.before, cue("negated", "pseudo")
    if pseudo.may_stand(clause.words_before):
        before = pseudo.pattern.sub(_blanked, before)
    if label in _TESTS:
        return clause.goes_on_with("results", "not_done") or (
            not _NOT.isdisjoint(clause.words_before) and _NOT_DONE.search(before) is not None
        )
    return cue("negated", "before").stands(before, clause.words_before) or _negated_after(clause)


def _past_or_planned(words: str, clause: _Clause, *, kind: str, label: str, role: str) -> Assertion:
    if label not in _TESTS:
        past = _PRESENT_HISTORY.sub("", clause.before) if "history" in clause.words_before else clause.before
        if cue("historical", "before").stands(past, clause.words_before) or clause.goes_on_with("historical"):
            return "historical"
    if role == "allergies" and label in ("symptom", "disease"):
        return "historical"  # what the substance once did
    if role == "plan" and label == "medication" and _VACCINE.search(words):
        return "hypothetical"
    if role == "history" and kind in _PASSING and label != "clinical_event":
        return "historical"
    if role == "plan" and label in (*_TESTS, "procedure", "clinical_event") and not _DONE.search(clause.after_near):
        return "hypothetical"
    return "affirmed"


def _negated_after(clause: _Clause) -> bool:
    doubted = clause.goes_on_with("possible")
    # "cannot be excluded" is doubt, "was considered and excluded" is none.
    if cue("negated", "after").may_stand(clause.words_after):
        near = clause.after_near
        near = cue("possible", "after").pattern.sub("~", near) if doubted else near
        if cue("negated", "after").pattern.search(near):
            return True
    # "fever: none", "chest pain - nil": a form's way, where the cue is all that follows.
    return not doubted and _FORM_SAYS_NO.fullmatch(clause.after) is not None


def _doubt(clause: _Clause, *, label: str) -> Assertion | None:
    if clause.opens_with("hypothetical") or clause.goes_on_with("hypothetical"):
        return "hypothetical"
    if label in _TESTS:
        return None  # what is suspected is what the test looks for
    if clause.before.rstrip().endswith("?") or clause.opens_with("possible") or clause.goes_on_with("possible"):
        return "possible"
    return None


def relative_speaks(text: str, start: int, end: int, edges: Sequence[tuple[int, int]]) -> bool:
    """Whether a relative stands before the finding in its sentence, and no patient in between."""
    low, _ = sentence(edges, start)
    relatives = cue("family", "relatives")
    if not relatives.may_stand(present(text, low, start)):
        return False
    before = text[low:start]
    ends = [match.end() for match in relatives.pattern.finditer(before)]
    if not ends:
        return False
    return re.search(r"\b(?:patient|he|she|who)\s+(?:has|had|is|was|presented)\b", before[ends[-1] :], re.I) is None


def subject(text: str, start: int, end: int, *, label: str, role: str, edges: Sequence[tuple[int, int]]) -> Subject:
    """Whom the finding is about."""
    if role == "family" or label == "family_history" or relative_speaks(text, start, end, edges):
        return "family" if label not in ("age", "sex") or role == "family" else "patient"
    low, _ = sentence(edges, start)
    if cue("family", "other").stands(text[low:start], present(text, low, start)):
        return "other"
    return "patient"
