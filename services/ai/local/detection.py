"""Pass 1: what the tagger, terms and patterns see outside headings, each labelled by what the section makes of it."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

from services.ai import dates
from services.ai.wire import KIND_OF_LABEL

from . import rows, terminology
from .assertion import relative_speaks
from .sections import WHITE_SPACE, Layout, Section, at, layout, one_of, rules
from .tagger import Tagger
from .tokens import tokens
from .words import phrase

_YIELDS = re.compile(
    r"[ \t]*(?:[ \t]|:|\.{3,})[ \t]*(?:(?-i:[SRI])|susceptible|sensitive|resistant|intermediate)"
    r"(?=[ \t]*(?:\n|$|[,;]))",
    re.I,
)
"""Behind a medicine that bacteria yield to, or don't: it is tested, not taken."""
_YIELDS_TO = re.compile(r"\b(?:sensitive|resistant|susceptible)\s+to\s+(?:[a-z-]+(?:,\s+|\s+and\s+|\s+or\s+))*$", re.I)
_DOSE_FOLLOWS = re.compile(
    r"[\s:,(]{0,3}\d+(?:[.,]\d+)?\s?(?:mg|mcg|micrograms?|g|ml|units?|iu|puffs?|tablets?)\b(?!\s?/)", re.I
)
_LISTED_MEDICINE = re.compile(
    r"^[ \t•*–-]*(?:\d{1,2}[.)][ \t]*)?(?P<name>[A-Z][A-Za-z-]{3,30}(?: [A-Za-z-]{3,20})?)[ \t]+"
    r"\d+(?:[.,]\d+)?\s?(?:mg|mcg|micrograms?|g|ml|units?|iu|puffs?|%)",
    re.M,
)
_VACCINE_FOLLOWS = re.compile(r"\s+(?:(?:and|or)\s+\w+\s+)?(?:vaccin|immuni[sz]ation|booster|(?:shot|jab)\b)", re.I)
_ALLERGY_BEFORE = re.compile(r"\b(?:allerg(?:y|ic|ies)(?:\s+to)?|intoleran(?:t|ce)\s+(?:to|of))\b[^.;\n]{0,40}$", re.I)
_ALLERGY_FOLLOWS = re.compile(r"[ \t]+(?:allerg|intoleran|hypersensitiv|anaphyla)", re.I)
_NAMES_ALLERGY = re.compile(r"allerg|hypersensitiv|anaphyla|intoleran", re.I)
_OF_CARE = re.compile(
    r"['’]?s?\s+(?:clinics?|services?|teams?|departments?|nurses?|wards?|specialists?|consultants?|registrars?|society"
    r"|association|foundation|leaflets?|helpline|advice line|support group|screening programme)\b",
    re.I,
)
"""What follows the name of a disease that belongs to somebody's work or address: "Atrial fibrillation clinic"."""
_OF_PAPER = re.compile(
    r"\s+(?:summary|letter|referral|medicines?|medications?|meds|diagnos[ei]s|dx|prescriptions?|card|report|plan"
    r"|instructions?|notes?|advice)\b",
    re.I,
)
"""What follows an event of care that belongs to a paper's name: "Discharge summary"."""
_OF_SAMPLE = re.compile(r"\s+(?:blood|plasma|tube|bottle|sample|whole blood)\b", re.I)
_IS_SAMPLE = re.compile(r"\b(?:blood|plasma|tube|bottle|sample)\Z", re.I)
_TIME_OF_CARE = re.compile(
    r"\b(?:during|throughout|since|before|prior to)\s+(?:(?:this|the|that|her|his|their)\s+)?$", re.I
)
_NAME_FOLLOWS = re.compile(r"\.?[ \t]+[A-Z][A-Za-z'’-]+")
_PLACE = re.compile(r"(?:[A-Z][a-z]+ Surgery|\b(?:in|at)\s+(?:your|our)\s+surgery)\Z")
_STAFF_BEFORE = re.compile(
    r"\b(?:specialist|practice|district|staff|research|community|ward|clinic|triage|charge|our|your|the)[ \t]+$", re.I
)
_OCCUPATION_BEFORE = re.compile(
    r"(?:\b(?:works?|worked|working|employed|job|retired|former|occupation|profession|unemployed|trained|career)\b"
    r"|\bjob\b|\b\d{1,3}[\s-]*(?:years?[\s-]*old\b|yo\b|y/o\b|y\.o\.)|\b\d{2}[MF]\b|\bM(?:rs?|s|iss)\.?\s+\w+,\s+an?\s+$|\b(?:he|she|patient|man|woman|gentleman|lady)\s+(?:is|was)\s+an?\b)[^.;\n]*$",
    re.I,
)
_OF_AN_OFFICE = re.compile(
    r"(?:\b[Dd]epartments?|\b(?:Division|Directorate|Faculty|School|College|Institute|Professor|Society|Academy))"
    r"\s+of\s+(?:(?:[A-Z][A-Za-z-]+|and|&)\s+)*$"
)
_POSTCODE = re.compile(r"\b[A-Z]{1,2}\d[A-Z\d]?[ \t]?\d(?!MG|ML|NG|UG|IU|MM|CM|ST|ND|RD|TH)[A-Z]{2}\b")
_STREET = re.compile(
    r"(?<!\w)\d{1,4}[A-Za-z]?,?[ \t]+(?:[A-Z][a-z'’]+[ \t]+){1,3}"
    r"(?:Street|Road|Avenue|Lane|Drive|Close|Way|Crescent|Terrace|Place|Court|Gardens|Square|Boulevard)\b"
)
_FIGURE_AT_END = re.compile(r"\s+\d+(?:[.,]\d+)?(?:\s?°?[CF]|\s?%)?$")
_DEGREE_BEFORE = re.compile(r"\b(?:trivial|trace|mild|moderate|severe)(?:\s+to\s+(?:moderate|severe))?\s+$", re.I)
_ITEM_FOLLOWS = re.compile(r"[.)]\s[A-Z]")
_CHEST_BEFORE = re.compile(r"\b(?:lungs?|chest|resp|pulm)\b[\s:-]*(?:are\s+|is\s+)?$", re.I)
_FIELD_WORDS = 3
"""Words of a line that is a field of a form: "Status: Discharged"."""
_PROSE_FROM = 60
"""Characters of a line that is prose; items of lists are shorter."""
_PAGES_KEPT = 16
_WORDS_KEPT = 8192
_PAPER = 120
"""Characters that a printed line has at most."""
_WHOLE = frozenset({"disease", "symptom", "imaging"})
_FAMILY = frozenset({"disease", "symptom"})
_TAKEN_FOR = frozenset({"test", "symptom"})
"""What the tagger, taught on prose, takes the names of people and places for in letterheads and forms."""
_NAME_OF_TWO = re.compile(r"[A-Z][\w'’-]+(?: [A-Z][\w'’-]+)+")
_ALSO_IN_HEADINGS = frozenset({"age", "sex"})
_NUMBER = "0"
"""Stands for any number among the words that a pattern begins with."""


@dataclass(frozen=True, slots=True)
class Span:
    """A finding in a text."""

    start: int
    end: int
    label: str


class _Pattern(NamedTuple):
    """A rule of ``patterns.toml``."""

    label: str
    expression: re.Pattern[str]
    exceptions: frozenset[str]


class TermDetector:
    """Finds what the terminology knows."""

    def find(self, page: Layout) -> list[Span]:
        """Terms outside headings."""
        return [Span(start, end, concept.label) for start, end, concept in terminology.found(page.body)]


class TaggedDetector:
    """Finds what the trained tagger sees."""

    def __init__(self, tagger: Tagger) -> None:
        self._tagger = tagger

    def find(self, page: Layout) -> list[Span]:
        """Findings, each labelled by the terminology where that knows the very words."""
        found, text = [], page.text
        for tagged in self._tagger.find(page.body):
            if tagged.label not in KIND_OF_LABEL:
                continue
            leads = _LEADS.match(text, tagged.start, tagged.end)
            start = leads.end() if leads else tagged.start
            words = _TRAILS.sub("", text[start : tagged.end])
            end = start + len(words)
            if words and not _furniture(text, start, end):
                words = _without_figure(words, text[end : end + 3])
                end, concept = start + len(words), terminology.concept(words)
                known = concept is not None and concept.label in KIND_OF_LABEL
                found.append(Span(start, end, concept.label if concept and known else tagged.label))
        return found


def _without_figure(words: str, following: str) -> str:
    """A name without the result behind it, "PHQ-9 14", or the next item's number; of "CA 125" the figure is its own."""
    figure = _FIGURE_AT_END.search(words)
    if figure is None or terminology.concept(words):
        return words
    bare = words[: figure.start()]
    return bare if _ITEM_FOLLOWS.match(following) or terminology.concept(bare) else words


class RowDetector:
    """Finds rows of lab tables and items of medication lists."""

    def find(self, page: Layout) -> list[Span]:
        """What stands in the first column."""
        # The names of columns tell what stands below them; as headings they are blanked, and no findings.
        found = [Span(*row.name, "test") for row in rows.rows(page.text) if page.body[row.name[0]] != "\x00"]
        for part in page.parts:
            if part.role == "medications":
                matches = _LISTED_MEDICINE.finditer(page.body, part.start, part.end)
                found += [Span(*match.span("name"), "medication") for match in matches]
        return found


class PatternDetector:
    """Finds what its form gives away: ages, endings."""

    def __init__(self, *, before_terms: bool = False) -> None:
        self._before_terms = before_terms

    def find(self, page: Layout) -> list[Span]:
        """Matches outside headings; ages and sexes also in a form's header."""
        found: list[Span] = []
        for in_headings in (True, False):
            if begun := _patterns(before_terms=self._before_terms, in_headings=in_headings):
                found += _matches(page.text if in_headings else page.body, begun)
        if not self._before_terms:
            words = tokens(page.body)
            found += [
                Span(words.starts[place], words.ends[place], ending)
                for place, ending in enumerate(map(_label_by_ending, words.lower))
                if ending
            ]
        return found


def _matches(text: str, begun: Mapping[str, Sequence[_Pattern]]) -> Iterator[Span]:
    """Where patterns match. Each is tried at the words that it begins with: most words begin none."""
    words = tokens(text)
    ends: dict[_Pattern, int] = {}
    for start, word in zip(words.starts, words.lower, strict=True):
        for pattern in begun.get(_NUMBER if word[0].isdigit() else word, ()):
            match = pattern.expression.match(text, start) if start >= ends.get(pattern, 0) else None
            if match is None:
                continue
            ends[pattern] = match.end()
            name = next((head for head in pattern.expression.groupindex if match[head]), 0)
            if match.group(name).lower() not in pattern.exceptions:
                yield Span(*match.span(name), pattern.label)


def detect(text: str, tagger: Tagger, role: str = "other") -> list[Span]:
    """The findings of a page's text, from top to bottom, without overlaps; ``role`` is its first lines'."""
    page = layout(text, role)
    terms = TermDetector().find(page)
    tagged = TaggedDetector(tagger).find(page)
    if not _is_article(page):
        tagged = [_longer(span, terms) for span in tagged]
    in_prose: list[Span] = []
    in_lists: list[Span] = []
    for span in tagged:
        if (
            span.label in _TAKEN_FOR
            and _NAME_OF_TWO.fullmatch(text, span.start, span.end)
            and not _has_known_word(text[span.start : span.end])
        ):
            continue
        if _is_prose(_line(text, span.start)):
            in_prose.append(span)
        elif span.label not in _TAKEN_FOR or _has_known_word(text[span.start : span.end]):
            in_lists.append(span)
    # In order of trust: where spans overlap, the earlier stays. The tagger learnt prose; in lists terms know better.
    spans = union(
        [
            PatternDetector(before_terms=True).find(page),
            in_prose,
            terms,
            RowDetector().find(page),
            PatternDetector().find(page),
            in_lists,
        ]
    )
    spans = [span for span in spans if not _names_a_place(span, text)]
    found = [_in_context(span, page) for span in spans if _about_a_patient(span, text, page.parts)]
    return [span for span in found if span.label != "allergen"]


@lru_cache(maxsize=_WORDS_KEPT)
def _has_known_word(printed: str) -> bool:
    """Whether a term holds one of the words."""
    known = terminology.load()
    return any(known.parts(word) for word in phrase(printed).split())


def _longer(span: Span, terms: Sequence[Span]) -> Span:
    """The known name that holds a tagged one: "Pulmonary embolism" of "embolism", "chest X-ray" of "X-ray".

    The reports' annotators part organ and manner off; in articles like theirs the tagger's own edges stand.
    """
    place = bisect_right(terms, span.start, key=lambda term: term.start) - 1
    known = terms[place] if place >= 0 else span
    if known.end < span.end or span.label not in _WHOLE:
        return span
    goes_on = known.end - known.start > span.end - span.start
    return known if goes_on or known.label == span.label else span


def _is_article(page: Layout) -> bool:
    """Whether a text is prose without a heading that never was laid out on paper, like the reports."""
    return len(page.parts) == 1 and max(map(len, page.text.split("\n"))) > _PAPER


def _line(text: str, position: int) -> str:
    end = text.find("\n", position)
    return text[text.rfind("\n", 0, position) + 1 : end if end >= 0 else len(text)]


@lru_cache(maxsize=1024)
def _is_prose(line: str) -> bool:
    """Whether a line is of sentences: long or ending in a stop, and not in columns."""
    line = line.strip()
    if _COLUMNS_APART.search(line):
        return False
    return len(line) >= _PROSE_FROM or (line.endswith(".") and line.count(" ") >= 3)


def union(found: Sequence[Sequence[Span]]) -> list[Span]:
    """All spans without overlaps: known terms before mere forms, longer before shorter inside each."""
    taken: list[Span] = []
    covered = bytearray(max((span.end for spans in found for span in spans), default=0))
    for spans in found:
        for span in sorted(spans, key=lambda span: (span.start - span.end, span.start)):
            if not any(covered[span.start : span.end]):
                covered[span.start : span.end] = b"\1" * (span.end - span.start)
                taken.append(span)
    return sorted(taken, key=lambda span: span.start)


_LEADS = re.compile(
    r"(?:(?:no|not|without|takes|taking|uses|using|started|commenced|any|the|an?|his|her|your|their|our|oral|intravenous|subcutaneous|intramuscular|topical|iv|po)\s+)*",
    re.I,
)
_TRAILS = re.compile(
    r"\s+(?:recur(?:s|red)?|improv(?:es|ed)|worsen(?:s|ed)|resolv(?:es|ed)|persist(?:s|ed)|subsid(?:es|ed)|disappear(?:s|ed)|resistant|sensitive|susceptible)$",
    re.I,
)
"""What the reports' annotators at times took for a part of the finding."""
_NO_FINDING = frozenset(
    {
        "clear",
        "ctab",
        "nad",
        "snt",
        "soft",
        "normal",
        "unremarkable",
        "fasting",
        "random",
        "serum",
        "plasma",
        "gp",
        "denied",
        "denies",
        "avoided",
        "considered",
        "excluded",
        "diagnosed",
        "born",
        "stopped",
        "started",
    }
)
_COLUMNS_APART = re.compile(r"[ \t]{3,}|\n[ \t]*\n|\|")
_LETTER = re.compile(r"[^\W\d_]")
_FIELD = re.compile(
    r"\b(?:d\.?o\.?[bad]|date|time|mrn|nhs|hospital (?:no|number)"
    r"|(?:patient|pt|lab|ref|case|accession|sample)\.? ?(?:id|no|name|number|ref)"
    r"|name|surname|forename|address|tel|phone|fax|consultant|referrer|ward|page|mr|mrs|ms|miss|dr|prof)\b",
    re.I,
)
_NAMED = re.compile(
    r"(?:\b(?:Mrs?|Ms|Miss|Dr|Prof|Master)\.?[ \t]+"
    r"|\b(?i:patient|pt|name|surname|forename|referrer|ordering|consultant|re)[ \t]*:[ \t]*)"
    r"(?:[A-Z][\w'’-]*\.?,?[ \t]*){0,3}$"
)


def _furniture(text: str, start: int, end: int) -> bool:
    """Whether tagged words are part of a form and no finding: its fields, names, dates, codes of doses, a heading.

    The tagger was taught on prose, where none of these stand.
    """
    words = text[start:end]
    if _of_a_form(words):
        return True
    if words[0].isupper() and _NAMED.search(text[text.rfind("\n", 0, start) + 1 : start]):
        return True
    line = text[text.rfind("\n", 0, start) + 1 : start]
    return (
        words.isupper() and " " in words and not line.strip() and re.match(r"[ \t]*(?::|\n|$)", text[end:]) is not None
    )


@lru_cache(maxsize=_WORDS_KEPT)
def _of_a_form(words: str) -> bool:
    # A letter by itself heads a part of a note: "S: … O: … A/P: …". Of an allergy terms name the substance.
    if len(words) == 1 or words.lower() in _NO_FINDING or _NAMES_ALLERGY.search(words):
        return True
    if _COLUMNS_APART.search(words) or not _LETTER.search(words) or dates.find(words):
        return True
    return _FIELD.search(words) is not None or rows.is_dosing(words)


def _about_a_patient(span: Span, text: str, parts: Sequence[Section]) -> bool:
    """Whether the words mean what they mean elsewhere: not a person's title or work, an address, a specimen's tube."""
    printed, before = text[span.start : span.end], text[max(0, span.start - 80) : span.start]
    if printed in ("MR", "CTA"):
        return _is_imaging(printed, text, span)
    if printed.lower().endswith("surgery"):
        return _PLACE.search(before + printed) is None
    if span.label == "medication" and _IS_SAMPLE.search(printed):
        return False
    if span.label == "occupation":
        stated = at(parts, span.start).role == "social" or _OCCUPATION_BEFORE.search(before) is not None
        return stated and _STAFF_BEFORE.search(before) is None
    if span.label == "clinical_event":
        of_paper = _OF_PAPER.match(text, span.end) or _TIME_OF_CARE.search(before)
        return of_paper is None and not _is_status(_line(text, span.start))
    follows = {"disease": _OF_CARE, "symptom": _OF_CARE, "medication": _OF_SAMPLE}.get(span.label)
    return follows is None or follows.match(text, span.end) is None


def _is_imaging(printed: str, text: str, span: Span) -> bool:
    """Whether "MR" is no man and no tablet that works slowly, and "CTA" no chest that is clear to auscultation."""
    if printed == "CTA":
        return _CHEST_BEFORE.search(text, max(0, span.start - 20), span.start) is None
    return _NAME_FOLLOWS.match(text, span.end) is None and _DOSE_FOLLOWS.match(text, span.end) is None


def _names_a_place(span: Span, text: str) -> bool:
    """Whether the words are part of an address or the name of an office: "Vale HV1 3" of 3AB, "Medicine"."""
    if any(start < span.end and span.start < end for start, end in _addresses(text)):
        return True
    return text[span.start].isupper() and _OF_AN_OFFICE.search(text, max(0, span.start - 80), span.start) is not None


@lru_cache(maxsize=_PAGES_KEPT)
def _addresses(text: str) -> list[tuple[int, int]]:
    """Postcodes, and streets with their number."""
    return [match.span() for pattern in (_POSTCODE, _STREET) for match in pattern.finditer(text)]


def _is_status(line: str) -> bool:
    """Whether a line only states where a form stands: an event that nobody could put on a day."""
    return len(line.split()) <= _FIELD_WORDS and not line.rstrip().endswith(".") and not dates.find(line)


def _in_context(span: Span, page: Layout) -> Span:
    text, role = page.text, at(page.parts, span.start).role
    label = span.label
    if (
        label == "test"
        and _DOSE_FOLLOWS.match(text, span.end)
        and (role == "medications" or not rows.is_row(text, span.end))
    ):
        label = "medication"
    if text[span.start : span.end] == "MR" and _DEGREE_BEFORE.search(text, max(0, span.start - 30), span.start):
        label = "symptom"  # mitral regurgitation: no imaging is mild
    if label == "medication" and (
        role == "sensitivities"
        or _YIELDS.match(text, span.end)
        or _YIELDS_TO.search(text, max(0, span.start - 60), span.start)
    ):
        label = "test"
    if label == "disease" and _VACCINE_FOLLOWS.match(text, span.end):
        label = "procedure"
    # In a section of allergies the substance is the allergy; "rash" and "nausea" are what it once did.
    substance = label in ("medication", "allergen")
    if role == "allergies" and (
        substance or (label == "disease" and _NAMES_ALLERGY.search(text, span.start, span.end))
    ):
        label = "allergy"
    if substance and (
        _ALLERGY_BEFORE.search(text, max(0, span.start - 60), span.start) or _ALLERGY_FOLLOWS.match(text, span.end)
    ):
        label = "allergy"
    if label in _FAMILY and (role == "family" or relative_speaks(text, span.start, page.edges)):
        label = "family_history"
    return span if label == span.label else Span(span.start, span.end, label)


@cache
def _patterns(*, before_terms: bool, in_headings: bool) -> dict[str, list[_Pattern]]:
    """First word in lower case, or "0" of any number → the patterns that may begin there."""
    begun: dict[str, list[_Pattern]] = {}
    for rule in rules("patterns")["pattern"]:
        if "ending" in rule or rule.get("before_terms", False) != before_terms:
            continue
        if (rule["label"] in _ALSO_IN_HEADINGS) != in_headings:
            continue
        expression = rule.get("match") or rf"\b(?:{one_of(rule['terms']).replace(WHITE_SPACE, ' ')})\b"
        pattern = _Pattern(rule["label"], re.compile(expression, re.I), frozenset(rule.get("except", ())))
        for word in rule.get("begins") or dict.fromkeys(tokens(term).lower[0] for term in rule["terms"]):
            begun.setdefault(word, []).append(pattern)
    return begun


@lru_cache(maxsize=65536)
def _label_by_ending(word: str) -> str | None:
    """What a word is that no list holds: "-ectomy" is a procedure."""
    any_ending, endings = _endings()
    if any_ending.fullmatch(word) is None:
        return None
    return next(
        (label for label, ending, exceptions in endings if ending.fullmatch(word) and word not in exceptions), None
    )


@cache
def _endings() -> tuple[re.Pattern[str], list[tuple[str, re.Pattern[str], frozenset[str]]]]:
    """A pattern for all of them at once, since most words have none, and each with its label and exceptions."""
    told = [rule for rule in rules("patterns")["pattern"] if "ending" in rule]
    return re.compile(rf"\w{{3,}}(?:{'|'.join(rule['ending'] for rule in told)})", re.I), [
        (rule["label"], re.compile(rf"\w{{3,}}{rule['ending']}", re.I), frozenset(rule.get("except", ())))
        for rule in told
    ]
