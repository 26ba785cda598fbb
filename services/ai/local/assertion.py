"""Whether a finding holds, and for whom: cues in its sentence, its section's role, and the NegEx way of scopes."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from shared.contract.findings import Assertion, Subject

from .cues import Present, cue, present
from .negation import Negation, around, cue_near

_TESTS = frozenset({"test", "vital_sign", "imaging", "examination"})
# "a three day history of cough" tells how long it has lasted, not that it is over.
_PRESENT_HISTORY = re.compile(
    r"\b(?:\d{1,2}/(?:7|52|12|24)|hours?|days?|weeks?|months?|years?|long|short)\b[\s,-]*(?:history|hx) of", re.I
)
_STANDING = frozenset({"age", "sex", "occupation", "background"})
"""True of the patient on the day of writing, whatever the sentence goes on to say."""
_PASSING = frozenset({"event", "intervention"})
_DONE = re.compile(
    r"(?<!be )(?<!not )\b(?:taken|done|performed|given|sent|completed|carried out"
    r"|showed|revealed|demonstrated|confirmed)\b",
    re.I,
)
_LONGEST = 800
"""Characters of a sentence on either side; a page without stops would cost the square of its length."""
_VACCINE = re.compile(r"vaccin|immuni[sz]ation", re.I)
_BRACKETS = re.compile(r"\([^()]*\)")
"""What a bracket closes, it keeps."""
_NEAR = re.compile(r"[,;]")
_NEAR_ENOUGH = 60
"""Characters behind a finding."""
_NOT_ON_A_DAY = re.compile(
    r"\bnot\s+(?:on\s+)?(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day|the\s+(?:same\s+)?day)", re.I
)
"""Of a medicine that is taken on the others."""
_LIST_GOES_ON = re.compile(r"\s*(?:,|and\b|or\b)", re.I)
_PARTS_LIST = re.compile(r",|\b(?:and|or)\b", re.I)
_OF_ALL = re.compile(r"\b(?:were|are|have|had)\b", re.I)
_WORDS_OF_ITEM = 4
"""A longer one is more than an item of a list."""
_MEANS = re.compile(r"\b(?:by|on|via|using)\s+(?:an?\s+|the\s+|her\s+|his\s+)?$", re.I)
"""What was found, or not, was found by the test that follows: it was done."""
_SEEN = frozenset({"symptom", "disease"})
_POLITE = re.compile(
    r"\b(?:(?:should|would)\s+be\s+)?(?:(?:most|very)\s+)?(?:grateful|obliged|appreciate|appreciated|kind|helpful)(?:\s+it)?\s+if\s+you\b",
    re.I,
)
"""A letter's way to ask: it makes nothing conditional."""
_ASKED = re.compile(
    r"(?:^|[.;:,(]|\b(?:and|also|then|please|pls|to|will|would|we|i|have|has)\b)\W*"
    r"(?:(?:be\s+)?(?:suggest|recommend|advise|consider|arrange|request|offer|book|order|plan)(?:ed|s)?"
    r"|(?:have|undergo|need|require)(?=\s+an?\b)|repeat|re-?check|rpt|check|refer(?:red)?\s+for|trial(?:\s+of)?|please|needs?)\b[^.;]*$",
    re.I,
)
"""Somebody is to do what follows. "Repeat CXR showed" it done."""
_ONLY_TRIED = re.compile(r"\b(?:suggest|recommend|consider|trial)(?:ed|s)?(?:\s+of)?\b[^.;]*$", re.I)
_TO_COME = re.compile(
    r"(?:\s*(?:,|and\b|&|/|or\b)\s*[A-Za-z][A-Za-z&/ -]{0,30}?){0,4}"
    r"\s*(?:is|are|was|were|has\s+been|have\s+been|will\s+be)?\s*"
    r"(?:planned|advised|suggested|recommended|requested|awaited|pending|to\s+follow|due(?!\s+to)|booked"
    r"|(?:could|might|may|should)\s+(?:be\s+)?(?:added|considered|started|done|repeated|checked|obtained|needed|suit|help)|if\s+(?:no|not|worse|needed|symptoms)"
    r"|(?:at\s+(?:the\s+)?)?next\s+(?:wk|week|month|year|visit|appointment|clinic)|be\s+arranged|to\s+be\s+(?:done|repeated|arranged|considered|checked))\b",
    re.I,
)
"""What stands behind a list of what is still to be done."""
_ONLY_IF = re.compile(r"\s*(?:(?!and\b|or\b)[a-z]+\s+){0,2}if\b", re.I)
_RULES_OUT = re.compile(r"\s*(?:\([^()]{0,20}\)\s*)?(?:has\s+)?(?:rule[sd]\s+out|exclude[sd])\s+\w", re.I)
_DECLINABLE = frozenset({"medication", "procedure"})
_DECLINED = re.compile(r"\s*(?:was|were)?\s*(?:offered)?\s*(?:,|and|but)?\s*(?:declined|refused)\b", re.I)
_WHY_STOPPED = re.compile(
    r"\b(?:stopped|ceased|discontinued)\b[^.;,]{0,30}(?:\b(?:because\s+of|due\s+to|d/t|for)\s+|\()(?:an?\s+|the\s+)?$",
    re.I,
)
"""Why a medicine was stopped is over, as it is."""
_HELPED_BY = re.compile(r"\b(?:relieved|settle[sd]?|eased|improved|controlled)\s+(?:by|with)\s+$", re.I)
_TAKEN = re.compile(r"\b(?:takes|taking|currently|current|remains\s+on|maintained\s+on|still\s+on|continues)\b", re.I)
"""Said of a medicine: it is no past, whatever stands around it."""
_RESULT = re.compile(r"\W*(?:was|is|of|=)?\W*\d(?!\d*\s*(?:h|hours?|days?|wks?|weeks?|months?)\b)")
_NON = re.compile(r"(?<!\w)non[\s-]$", re.I)
"""Of "abdomen soft, non-tender"; where it belongs to a name, "non-Hodgkin lymphoma", the term holds it."""
_NOT_DONE = re.compile(r"\b(?:no|without|not)\s+(?:\w+\s+)?$", re.I)
_PATIENT_AGAIN = re.compile(r"\b(?:patient|he|she|who)\s+(?:has|had|is|was|presented)\b", re.I)
_FORM_SAYS_NO = re.compile(r"\s*[:=-]\s*(?:no|none|nil|negative|absent)\.?\s*", re.I)
_NO_ALLERGIES = re.compile(r"NKDA|no\s+(?:known\s+)?(?:drug\s+)?allergies", re.I)


class Clause(NamedTuple):
    """What stands before and behind a finding in its clause, and in its sentence."""

    before: str
    after: str
    present_before: Present
    present_after: Present
    """Cues that may stand in both (in more than both, at times)."""
    sentence: tuple[int, int]
    sentence_before: str

    @property
    def after_near(self) -> str:
        """What is said close behind; of one in a list ("fever, cough and rash were denied") what is said of all."""
        after = self.after
        if _LIST_GOES_ON.match(after) and (said := _OF_ALL.search(after)):
            items = _PARTS_LIST.split(after[: said.start()])
            if all(len(item.split()) <= _WORDS_OF_ITEM for item in items):
                after = after[said.start() :]
        return _NEAR.split(after, maxsplit=1)[0][:_NEAR_ENOUGH]

    def opens_with(self, kind: str, side: str = "before") -> bool:
        """Whether a cue of this kind stands before the finding."""
        return cue(kind, side).stands(self.before, self.present_before)

    def goes_on_with(self, kind: str, side: str = "after") -> bool:
        """Whether a cue of this kind stands close behind the finding."""
        ends = cue(kind, side)
        return ends.may_stand(self.present_after) and ends.pattern.search(self.after_near) is not None


def sentence(edges: Sequence[tuple[int, int]], position: int) -> tuple[int, int]:
    """The sentence that holds a position, as far as a cue in it may reach."""
    start, end = edges[max(bisect_left(edges, (position + 1, 0)) - 1, 0)]
    return max(start, position - _LONGEST), min(end, position + _LONGEST)


def clause(text: str, start: int, end: int, edges: Sequence[tuple[int, int]]) -> Clause:
    """The clause of [start, end): its sentence up to what ends the reach of a cue."""
    low, high = sentence(edges, start)
    sentence_before, after = text[low:start], text[end:high]
    before = _BRACKETS.sub(_blanked, sentence_before) if "(" in sentence_before else sentence_before
    present_before, present_after = present(text, low, start), present(text, end, high)
    if "if you" in before:
        before = _POLITE.sub(_blanked, before)
    ends = cue("terminators", "words")
    for place in reversed(ends.places(text, low, start)):
        if last := ends.pattern.match(before, place - low):
            before = before[last.end() :]
            break
    if first := next(ends.within(text, end, high), None):
        # "showed" ends what is said, and says that it was done.
        after = after[: (first.end() if _DONE.fullmatch(first.group()) else first.start()) - end]
    return Clause(before, after, present_before, present_after, (low, high), sentence_before)


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
    clause: Clause,
    negation: Negation,
) -> Assertion:
    """What the page states about [start, end), which stands in this clause."""
    if form := _by_form(text, start, clause, label=label):
        return form
    absent = ruled_absent(text[start:end], clause, label=label)
    if kind != "context" and (absent or (cue_near(text, start, end) and not _ruled_present(clause, label=label))):
        absent = negation.absent(around(text, start, end, label=label, rule=absent, sentence=clause.sentence))
    # A medicine that was given and is no more: reports annotate that as its absence, a record as its past.
    if absent and label == "medication" and _was_given(clause):
        return "historical"
    if absent:
        return "negated"
    # "I would suggest a biopsy" doubts nothing.
    doubt = (
        None if label in _DECLINABLE and _is_to_come(clause, label) else _doubt(text[start:end], clause, label=label)
    )
    return doubt or _past_or_planned(text[start:end], clause, kind=kind, label=label, role=role)


def _by_form(text: str, start: int, clause: Clause, *, label: str) -> Assertion | None:
    """What is certain by what stands right beside a finding, whatever the rest of its sentence says."""
    if label in _STANDING:
        return "affirmed"
    if label in (*_TESTS, *_DECLINABLE) and _ONLY_IF.match(clause.after):
        return "hypothetical"
    if label in _SEEN and _WHY_STOPPED.search(clause.sentence_before):
        return "historical"
    absent = label in _SEEN and _NON.search(text, max(0, start - 5), start)
    declined = label in _DECLINABLE and _DECLINED.match(clause.after)
    return "negated" if absent or declined else None


def ruled_absent(words: str, clause: Clause, *, label: str) -> bool:
    """Whether a cue in their clause makes a finding's words absent."""
    if label == "allergy" and _NO_ALLERGIES.search(words):
        return True
    before, pseudo, negated = clause.before, cue("negated", "pseudo"), cue("negated", "before")
    if pseudo.may_stand(clause.present_before):
        before = pseudo.pattern.sub(_blanked, before)
    if label in _TESTS:
        # "No", "not" and "without" are cues, too.
        return clause.goes_on_with("results", "not_done") or (
            negated.may_stand(clause.present_before) and _NOT_DONE.search(before) is not None
        )
    return negated.stands(before, clause.present_before) or _negated_after(clause)


def _ruled_present(clause: Clause, *, label: str) -> bool:
    """Whether words beside it say that a finding may be there, whatever is absent elsewhere in its sentence."""
    if clause.opens_with("hypothetical"):
        return True
    if label in _TESTS:
        return _MEANS.search(clause.before) is not None or _RULES_OUT.match(clause.after) is not None
    if label == "medication" and (
        _NOT_ON_A_DAY.search(clause.after[:_NEAR_ENOUGH]) or _HELPED_BY.search(clause.before)
    ):
        return True
    return clause.goes_on_with("possible") or clause.opens_with("possible", "not_excluded")


def _past_or_planned(words: str, clause: Clause, *, kind: str, label: str, role: str) -> Assertion:
    if _is_past(clause, label=label, role=role):
        return "historical"
    if _is_planned(words, clause, label=label, role=role):
        return "hypothetical"
    taken = label == "medication" and _TAKEN.search(clause.sentence_before) is not None
    passed = role == "history" and (kind in _PASSING or label == "symptom") and label != "clinical_event" and not taken
    return "historical" if passed else "affirmed"


def _is_past(clause: Clause, *, label: str, role: str) -> bool:
    if role == "allergies" and label in ("symptom", "disease"):
        return True  # what the substance once did
    if label in _TESTS or label == "allergy":
        return False
    past = cue("historical", "before")
    opens = past.may_stand(clause.present_before) and past.pattern.search(_PRESENT_HISTORY.sub("", clause.before))
    ended = label == "medication" and clause.goes_on_with("historical", "ended")
    return bool(opens) or ended or clause.goes_on_with("historical")


def _is_planned(words: str, clause: Clause, *, label: str, role: str) -> bool:
    done = _DONE.search(clause.after_near) is not None
    if role == "warning" and label in _SEEN:
        return True
    if role == "plan" and not done:
        planned = label in (*_TESTS, "procedure", "clinical_event")
        if planned or (label == "medication" and _VACCINE.search(words)):
            return True
    return label in (*_TESTS, "procedure", "medication") and not done and _is_to_come(clause, label)


def _is_to_come(clause: Clause, label: str) -> bool:
    """Whether something is asked for, planned or awaited, and not done yet."""
    if _RESULT.match(clause.after):
        return False
    asked = _ONLY_TRIED if label == "medication" else _ASKED
    if cue("planned", "before").may_stand(clause.present_before) and asked.search(clause.before):
        return True
    return cue("planned", "after").may_stand(clause.present_after) and _TO_COME.match(clause.after) is not None


def _was_given(clause: Clause) -> bool:
    return (
        clause.opens_with("historical")
        or clause.goes_on_with("historical")
        or clause.goes_on_with("historical", "ended")
    )


def _negated_after(clause: Clause) -> bool:
    doubted = clause.goes_on_with("possible")
    # "cannot be excluded" is doubt, "was considered and excluded" is none.
    if cue("negated", "after").may_stand(clause.present_after):
        near = clause.after_near
        near = cue("possible", "after").pattern.sub("~", near) if doubted else near
        if cue("negated", "after").pattern.search(near):
            return True
    # "fever: none", "chest pain - nil": a form's way, where the cue is all that follows.
    return not doubted and _FORM_SAYS_NO.fullmatch(clause.after) is not None


def _doubt(words: str, clause: Clause, *, label: str) -> Assertion | None:
    if clause.opens_with("hypothetical") or clause.goes_on_with("hypothetical"):
        return "hypothetical"
    if label in _TESTS:
        return None  # what is suspected is what the test looks for
    if words.startswith("?") or clause.before.rstrip().endswith("?") or clause.opens_with("possible"):
        return "possible"
    if clause.opens_with("possible", "not_excluded") or clause.goes_on_with("possible"):
        return "possible"
    return None


def relative_speaks(text: str, start: int, edges: Sequence[tuple[int, int]]) -> bool:
    """Whether a relative stands before the finding in its sentence, and no patient in between."""
    low, _ = sentence(edges, start)
    return _relative_before(text[low:start], present(text, low, start))


def _relative_before(before: str, present_before: Present) -> bool:
    relatives = cue("family", "relatives")
    if not relatives.may_stand(present_before):
        return False
    ends = [match.end() for match in relatives.pattern.finditer(before)]
    return bool(ends) and _PATIENT_AGAIN.search(before, ends[-1]) is None


def subject(clause: Clause, *, label: str, role: str) -> Subject:
    """Whom a finding of this clause is about."""
    before, present_before = clause.sentence_before, clause.present_before
    if role == "family" or label == "family_history" or _relative_before(before, present_before):
        return "family" if label not in ("age", "sex") or role == "family" else "patient"
    if cue("family", "other").stands(before, present_before):
        return "other"
    return "patient"
