"""Whether a document may be somebody else's: the patient whom it names, beside the profile that it was uploaded to.

Only what clearly contradicts counts. OCR noise, the order of names, initials, second names and titles do not; what
can't be read says nothing. The profile's words stay here: the review's row gets the page's own stretch.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal

from shared.contract.base import Row

_OF_PATIENT = frozenset(
    {"patient", "patients", "patient name", "patients name", "name of patient", "pt", "pt name", "patient full name"}
)
_ANYBODYS = frozenset({"name", "full name", "re", "regarding"})
"""Labels that stand beside other people's names, too: asked only where no label names the patient."""
_LAST = frozenset({"surname", "last name", "family name"})
_FIRST = frozenset({"forename", "forenames", "first name", "given name", "given names"})
_OF_BIRTH = frozenset({"dob", "d o b", "date of birth", "birth date", "birthdate", "born", "patient dob"})
# The value is looked ahead at: "Patient: Ann Lee  DOB: 3 May 1950" has a label in it.
_LABELLED = re.compile(r"(?P<label>[^\n:;]{1,60})[:;](?=[ \t]*(?P<value>[^\n]{2,100}))")
_GAP = re.compile(r"\s{2,}|\t|[,(|]")
_LABEL_WORDS = 4
_UNLABELLED_BIRTH = re.compile(
    r"\b(?:d\.?[ ]?o\.?[ ]?b\.?|date of birth|birth ?date)[ \t]+(?P<value>[0-9OolISB][^\n]{3,40})", re.I
)
# A name ends where the form goes on: a wide gap, a bracket, a digit, or the next label.
_NAME_END = re.compile(
    r"\s{2,}|\t|[(|\[]|(?<!\w)\d|\b(?:d\.?o\.?b|date|born|birth|sex|gender|age|aged|mrn|nhs|id|no|hospital|address|tel|phone|ward)\b",
    re.I,
)
_TITLES = frozenset({"mr", "mrs", "ms", "miss", "mx", "dr", "prof", "master", "sir", "dame", "jr", "sr", "ii", "iii"})
_PROFESSIONAL = re.compile(r"\s*(?:dr|prof|professor|nurse|consultant)\b", re.I)
# What stands behind "Patient:" and is no name.
_NO_NAMES = frozenset(
    {
        "male", "female", "unknown", "adult", "child", "copy", "self", "information", "details", "history", "inpatient",
        "outpatient", "new", "and", "the", "with", "was", "is", "has", "had", "not", "no", "denies", "reports",
        "states", "presents", "presented", "complains", "seen", "man", "woman", "boy", "girl", "year", "old",
    }
)  # fmt: skip
_CONFUSED = str.maketrans({"0": "o", "1": "l", "|": "l", "!": "l", "5": "s", "8": "b", "i": "l"})
_DIGITS = str.maketrans({"O": "0", "o": "0", "l": "1", "I": "1", "|": "1", "S": "5", "B": "8"})
_DIGIT = r"[0-9OolI|SB]"
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_NUMERIC = re.compile(
    rf"(?<!\w)({_DIGIT}{{1,4}})\s?[-/.,\s]\s?({_DIGIT}{{1,2}})\s?[-/.,\s]\s?({_DIGIT}{{4}}|{_DIGIT}{{1,2}})(?!\w)"
)
_DAY_MONTH = re.compile(
    rf"(?<!\w)({_DIGIT}{{1,2}})(?:st|nd|rd|th)?[\s\-./]*([A-Za-z]{{3,9}})[\s\-.,/]*({_DIGIT}{{4}}|{_DIGIT}{{2}})(?!\w)"
)
_MONTH_DAY = re.compile(rf"\b([A-Za-z]{{3,9}})[\s.]*({_DIGIT}{{1,2}})(?:st|nd|rd|th)?[\s,]+({_DIGIT}{{4}})(?!\w)")
_IN_FULL = 2
"""Letters of a name that is more than an initial; and names of somebody who is named in full."""
_ONE_EDIT_FROM, _TWO_EDITS_FROM = 4, 8
"""Letters of a name in which so many may be misread."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What the profile says, where it says it."""

    display_name: str | None
    birth_date: date | None


class Contradiction(Row):
    """What the document says otherwise: ``pages[page].text[start:end] == quote``."""

    field: Literal["name", "birth_date"]
    page: int
    start: int
    end: int
    quote: str


@dataclass(frozen=True, slots=True)
class _Stated:
    page: int
    start: int
    text: str

    def as_contradiction(self, field: Literal["name", "birth_date"]) -> Contradiction:
        return Contradiction(
            field=field, page=self.page, start=self.start, end=self.start + len(self.text), quote=self.text
        )


def contradictions(pages: Mapping[int, str], profile: Profile) -> tuple[Contradiction, ...]:
    """What the pages say of their patient that the profile contradicts; nothing where one place of several agrees."""
    found: list[Contradiction] = []
    own = _name_parts(profile.display_name or "")
    # One word may be what the family calls them; two are a name.
    if len(own) >= _IN_FULL:
        names = [(stated, parts) for stated, parts in _names(pages) if len(parts) >= _IN_FULL]
        if names and not any(_same_name(parts, own) for _, parts in names):
            found.append(names[0][0].as_contradiction("name"))
    if profile.birth_date is not None:
        births = [(stated, days) for stated in _births(pages) if (days := _days(stated.text))]
        if births and not any(profile.birth_date in days for _, days in births):
            found.append(births[0][0].as_contradiction("birth_date"))
    return tuple(found)


def _labelled(pages: Mapping[int, str]) -> Iterator[tuple[str, _Stated]]:
    for page, text in pages.items():
        for match in _LABELLED.finditer(text):
            yield _GAP.split(match["label"].strip())[-1], _Stated(page, match.start("value"), match["value"])


def _names(pages: Mapping[int, str]) -> list[tuple[_Stated, list[str]]]:
    """Whom the pages name as their patient: where it stands, and the parts of the name."""
    of_patient: list[tuple[_Stated, list[str]]] = []
    anybodys: list[tuple[_Stated, list[str]]] = []
    first: list[str] | None = None
    last: tuple[_Stated, list[str]] | None = None
    for label, stated in _labelled(pages):
        name = _name_in(stated)
        if name is None:
            continue
        parts = _name_parts(name.text)
        if _is_label(label, _OF_PATIENT):
            of_patient.append((name, parts))
        elif _is_label(label, _FIRST):
            first = first or parts
        elif _is_label(label, _LAST):
            last = last or (name, parts)
        elif _is_label(label, _ANYBODYS):
            anybodys.append((name, parts))
    if first and last:
        of_patient.append((last[0], first + last[1]))
    return of_patient or anybodys


def _name_in(stated: _Stated) -> _Stated | None:
    """The stretch that begins a value and is a person's name, as far as that shows."""
    end = _NAME_END.search(stated.text)
    name = (stated.text[: end.start()] if end else stated.text).rstrip(" \t.,;-")
    if _PROFESSIONAL.match(name) or not _looks_like_a_name(name):
        return None
    return _Stated(stated.page, stated.start, name)


def _births(pages: Mapping[int, str]) -> Iterator[_Stated]:
    for label, stated in _labelled(pages):
        if _is_label(label, _OF_BIRTH) and (day := _first_day(stated)):
            yield day
    for page, text in pages.items():
        for match in _UNLABELLED_BIRTH.finditer(text):
            if day := _first_day(_Stated(page, match.start("value"), match["value"])):
                yield day


def _first_day(stated: _Stated) -> _Stated | None:
    """The stretch that begins a value and is a date."""
    for pattern in (_NUMERIC, _DAY_MONTH, _MONTH_DAY):
        if match := pattern.match(stated.text):
            return _Stated(stated.page, stated.start, match.group())
    return None


def _is_label(text: str, labels: frozenset[str]) -> bool:
    """Whether the last words before a colon are one of the labels, a misread letter in a long one allowed."""
    words = re.sub(r"[^\w\s]|_", " ", text.replace("'", "").replace("’", "")).casefold().split()
    for count in range(1, min(len(words), _LABEL_WORDS) + 1):
        said = " ".join(words[-count:])
        # "Referring doctor name:" is no label of the patient's, "Page 1 Patient name:" is.
        if any(said == label or _misread(said, label) for label in labels) and (
            labels is not _ANYBODYS or count == len(words)
        ):
            return True
    return False


def _looks_like_a_name(text: str) -> bool:
    parts = [part for part in re.split(r"[\s,.]+", text) if part]
    if not 1 <= len(parts) <= 6 or any(part.casefold() in _NO_NAMES for part in parts):
        return False
    return all(re.fullmatch(r"[^\W\d_][\w'’|!-]*", part) and part[0].isupper() for part in parts)


def _name_parts(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(character for character in plain if not unicodedata.combining(character))
    parts = [part for part in re.split(r"[^\w|!]+|_", plain) if part and part not in _TITLES]
    return [part.translate(_CONFUSED) for part in parts]


def _same_name(left: list[str], right: list[str]) -> bool:
    """Whether the shorter name is contained in the longer one, in any order, and more than initials agree."""
    fewer, more = sorted((left, right), key=len)
    free, in_full = list(more), 0
    for part in sorted(fewer, key=len, reverse=True):
        match = min((other for other in free if _same_part(part, other)), key=lambda other: -len(other), default=None)
        if match is None:
            return False
        free.remove(match)
        in_full += min(len(part), len(match)) >= _IN_FULL
    return in_full > 0


def _same_part(left: str, right: str) -> bool:
    if min(len(left), len(right)) == 1:
        return left[0] == right[0]
    shorter, longer = sorted((left, right), key=len)
    return left == right or (len(shorter) >= 3 and longer.startswith(shorter)) or _misread(left, right)


def _misread(left: str, right: str) -> bool:
    length = min(len(left), len(right))
    allowed = 2 if length >= _TWO_EDITS_FROM else 1 if length >= _ONE_EDIT_FROM else 0
    return abs(len(left) - len(right)) <= allowed and _edits(left, right) <= allowed


def _edits(left: str, right: str) -> int:
    """Letters to insert, drop or change; names are short."""
    row = list(range(len(right) + 1))
    for number, letter in enumerate(left, start=1):
        diagonal, row[0] = row[0], number
        for place, other in enumerate(right, start=1):
            diagonal, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, diagonal + (letter != other)),
            )
    return row[-1]


def _days(text: str) -> set[date]:
    """Every day that a printed date may be: 03/04/50 is the third of April or the fourth of March, of 1950 or 2050."""
    days: set[date] = set()
    if match := _NUMERIC.match(text):
        first, second, third = (part.translate(_DIGITS) for part in match.groups())
        if len(first) == 4:
            days |= _each_day([first], [(int(second), int(third)), (int(third), int(second))])
        elif len(first) <= 2:
            days |= _each_day(_years(third), [(int(second), int(first)), (int(first), int(second))])
    elif match := _DAY_MONTH.match(text):
        days |= _each_day(_years(match[3].translate(_DIGITS)), _in_month(match[2], match[1]))
    elif match := _MONTH_DAY.match(text):
        days |= _each_day([match[3].translate(_DIGITS)], _in_month(match[1], match[2]))
    return days


def _in_month(name: str, day: str) -> list[tuple[int, int]]:
    key = name.lower()[:3]
    return [(_MONTHS.index(key) + 1, int(day.translate(_DIGITS)))] if key in _MONTHS else []


def _years(text: str) -> list[str]:
    return [text] if len(text) == 4 else [f"19{text:0>2}", f"20{text:0>2}"]


def _each_day(years: list[str], months_and_days: list[tuple[int, int]]) -> set[date]:
    days = set()
    for year in years:
        for month, day in months_and_days:
            try:
                days.add(date(int(year), month, day))
            except ValueError:
                continue
    return days
