"""Dates as records print them → ISO 8601 to the precision that is known. What cannot be known stays unresolved."""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH_NAMES = (
    "january", "february", "march", "april", "june", "july", "august", "september", "sept", "october", "november",
    "december",
)  # fmt: skip
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)"
)
_NUMERALS = {
    word: count
    for count, word in enumerate(
        "a one two three four five six seven eight nine ten eleven twelve".replace("a one", "one").split(), start=1
    )
} | {"a": 1, "an": 1}
_COUNT = rf"(?:\d{{1,3}}|{'|'.join(_NUMERALS)})"

_ANY_YEAR = rf"(?:(?:19|20)\d\d|\d\d(?!\s+{_MONTH}\b))"
"""Two digits are no year where a month follows: "2 Sep 12 Sep" are two days."""
_ISO = re.compile(r"\b(?P<y>(?:19|20)\d\d)[-/](?P<m>\d\d?)[-/](?P<d>\d\d?)\b")
_YEAR_FIRST = re.compile(rf"\b(?P<y>(?:19|20)\d\d)[\s-](?P<month>{_MONTH})[\s-](?P<d>\d\d?)\b", re.I)
_DAY_MONTH = re.compile(
    rf"\b(?P<d>\d\d?)(?:st|nd|rd|th)?[\s-]+(?:of\s+)?(?P<month>{_MONTH})\.?,?[\s-]+(?P<y>{_ANY_YEAR})\b", re.I
)
_MONTH_DAY = re.compile(rf"\b(?P<month>{_MONTH})\.?\s+(?P<d>\d\d?)(?:st|nd|rd|th)?,?\s+(?P<y>(?:19|20)\d\d)\b", re.I)
_MONTH_YEAR = re.compile(
    rf"\b(?P<month>{_MONTH})\.?,?[\s-]+(?:of\s+)?(?P<y>(?:19|20)\d\d)\b"
    r"|(?<![\d/.-])(?P<number>0?[1-9]|1[0-2])/(?P<y2>(?:19|20)\d\d)\b(?!/)",
    re.I,
)
_NUMERIC = re.compile(r"\b(?P<a>\d\d?)(?P<sep>[/.-])(?P<b>\d\d?)(?P=sep)(?P<y>(?:19|20)\d\d|\d\d)\b")
# "2 Sep", "September 5": the year is the document's. "may" and "mar" are words too where they are not capitalised.
_MONTH_NAME = r"(?-i:(?=[A-Z]))" + _MONTH
_NO_YEAR = re.compile(
    rf"\b(?P<d>\d\d?)(?:st|nd|rd|th)?\s+(?:of\s+)?(?P<month>{_MONTH_NAME})\b(?!\.?,?[\s-]+{_ANY_YEAR}\b)"
    rf"|\b(?P<month2>{_MONTH_NAME})\s+(?P<d2>\d\d?)(?:st|nd|rd|th)?\b(?![./:,]?\d)(?!\s+{_MONTH}\b)",
    re.I,
)
_CLOCK = re.compile(r"\b(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?\b")
_CLOCKS = len("00:00:00")
_YEAR = re.compile(
    r"\b(?:in|since|from|until|during|circa|year)\s+(?P<y>(?:19|20)\d\d)\b(?![/-]\d)"
    r"|^(?P<alone>(?:19|20)\d\d)(?=$|[ \t]*[:–-]|[ \t]+(?-i:[A-Z]))"
    # "Appendicectomy 1968.", "CABG (2015)": after a word, and nothing measured behind it.
    r"|(?:(?<=[a-zA-Z][ (])|(?<=[a-zA-Z] \())(?P<after>(?:19|20)\d\d)"
    r"(?=[,.;)](?!\d)|[ \t]*$|[ \t]+(?:(?:for|due|following|normal|negative|[-–])\b|[-–][ \t]|\())"
    # The last column of a table: "aspirin   mane   angina   2019".
    r"|(?<=[ \t]{3})(?P<cell>(?:19|20)\d\d)(?=[ \t]*$)",
    re.I | re.M,
)
_AGO = re.compile(
    rf"(?<![.\d])\b(?P<n>{_COUNT})\s+(?P<unit>day|week|month|year)s?\s+(?:ago|earlier|previously|before|prior)\b", re.I
)
_LATER = re.compile(
    rf"(?<![.\d])\b(?:{_COUNT}\s+(?:hour|day|week|month|year)s?\s+(?:later|after)|(?:next|following)\s+day)\b", re.I
)
_DEIXIS = re.compile(
    r"\b(?P<word>today|yesterday|this\s+(?:morning|afternoon|evening)|last\s+night|last\s+(?:week|month|year))\b", re.I
)
_SINCE_DAY = re.compile(
    r"\b(?:since|last|on)\s+(?:last\s+)?(?P<weekday>mon|tue|wed|thu|fri|sat|sun)(?:s|nes|rs|ur)?day\b", re.I
)
_SINCE_MONTH = re.compile(rf"\bsince\s+(?:last\s+)?(?P<month>{_MONTH_NAME})\b(?!\.?\s*\d)", re.I)
_PAST = re.compile(
    r"\b(?:over|in|during|for|within)\s+(?:the\s+)?(?:past|last)\s+(?P<unit>hour|day|week|month|year)\b", re.I
)
# "twice a day" is a frequency and "in 6 weeks" a date to come: neither lasts.
_LASTING = re.compile(
    rf"(?<!\bin )(?<!\bat )(?<!\bevery )(?<!times )(?<![-–>/.])(?:\b|(?<=x))(?P<n>(?!an?\b){_COUNT})[\s-]+"
    r"(?P<unit>hour|day|week|month|year|hr|wk|mth|mo|yr)s?\b"
    # "24-hour tape" and "24 hour urine" are what they are called.
    r"(?![\s-]+(?:tape|holter|urin\w+|collection|ambulatory|ecg|bp|blood pressure|monitor\w*|protein|creatinine|old)\b)"
    r"|(?<!\bin )(?<!\bat )\b(?<![./\d])(?P<hours>\d{1,3})\s?(?-i:h)\b(?!\s?/)"
    # "3/7", "6/52", "3/12": days, weeks, months; the last may be a day in December and needs a word beside it.
    r"|(?<!\bin )(?<![\d/.-])(?P<part>\d{1,2})/(?P<whole>7|52)(?![\d/])"
    # "3d", "2w" of a note in a hurry.
    r"|(?<!\bin )\b(?<![./\d])(?P<few>\d{1,2})(?-i:(?P<of>[dw]))\b(?!\s?/)"
    r"|\bfor\s+an?\s+(?P<one>day|week|month|year)\b"
    r"|(?<=\bfor )(?P<months>\d{1,2})/12(?![\d/])",
    re.I,
)
_SHORTHAND = re.compile(r"(?<!\bin )(?<![\d/.-])(?P<part>\d{1,2})/(?P<whole>12|24)(?![\d/])")
"""Months and hours of a country that does not write months before days."""
_EYESIGHT = re.compile(r"(?<![\d/])[36]/(?:5|6|9|18|36|60)(?![\d/])|\b(?:VA|acuity|vision)\b")
"""Where "6/12" is what somebody reads off a chart."""
_BIRTH = re.compile(r"(?:\bd\.?o\.?b\.?\b|\bborn\b|\bdate of birth\b|\bbirth ?date\b)[^\n]{0,20}$", re.I)
_OWN_DATE = re.compile(
    r"(?:\b(?:date of (?:report|referral|discharge|visit|service|letter|collection|admission|examination|exam"
    r"|consultation)"
    r"|(?:report|letter|visit|discharge|admission|exam|examination|collection|collected|specimen|sample|dictated"
    r"|clinic|referral|consult|consultation|encounter|entry|review)"
    r"(?: date)?|(?:sample|specimen|blood)s? (?:taken|collected|drawn)(?: on)?"
    r"|(?:collected|reported|printed|discharged|sent|updated|typed|prepared|interviewed|dispensed"
    r"|authori[sz]ed|performed)(?: on)?|date))"
    r"\s*:?\s*(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*,?\s+)?$",
    re.I,
)
_HEADS_PAPER = re.compile(r"\b(?:visit|note|consultation|encounter|clinic|letter|report|summary|referral)\b", re.I)
"""Words of a first line that says what the paper is: the date on it is the paper's."""
_PERIODS = {"hour": "PT{}H", "day": "P{}D", "week": "P{}W", "month": "P{}M", "year": "P{}Y"}
_PERIODS |= {
    "hr": _PERIODS["hour"],
    "wk": _PERIODS["week"],
    "mo": _PERIODS["month"],
    "mth": _PERIODS["month"],
    "yr": _PERIODS["year"],
}
_DAY_FIRST = re.compile(
    r"(?<![\d/])\d{1,2}/(?:7|52)(?![\d/])|\b(?:NHS|GP|A&E|U&Es?|FBC|LFTs|TTOs?|TDS|QDS|mane|nocte|\w*haem\w+|\w+aemia|o?edema(?<=oedema)|diarrhoea|paracetamol|salbutamol"
    r"|tumour|anaesthe\w+|gynae\w*|paediatric\w*|orthopaedic\w*|oesophag\w*|centre|litres?|programme|Infirmary|Surgery"
    r"|physio|thyroxine|VIC|NSW|QLD|Ireland|Dublin|Cork|Scotland|Wales|England|Australia|Mr|Mrs)\b(?!\.)"
)
_MONTH_FIRST = re.compile(
    r"\b(?:MRN|ER|CBC|CMP|BMP|EKG|M\.D|\w*hemo(?:globin|rrhag)\w*|\w+[^a]emia|diarrhea|acetaminophen|albuterol|tumor|anesthe\w+"
    r"|Hgb|y\.o|C-section|gynecolog\w+|pediatric\w*|orthopedic\w*|esophag\w+|q\.?d|p\.o|b\.i\.d|t\.i\.d|PCP"
    r"|[A-Z]{2} \d{5}|[A-Z][a-z]+,? (?:AZ|FL|TX|NY|NJ|KS|KY|IA|MN|MT|NC|NH|NM|NV|OH|TN|UT|WI|WV|WY))\b"
)
"""Words of countries that write 3 April as 03/04, and of those that write it as 04/03."""
_OPENING = re.compile(r"(?<!\d)\d|\b[A-Za-z]+")
_COUNTS = re.compile(
    r"(?:19|20)\d\d|\d\d?([/.-])\d\d?\1\d|\d\d?/(?:7|52|12|24|(?:19|20)\d\d)(?!\d)"
    rf"|\d{{1,2}}[dw]\b|(?:\d{{1,3}}(?:st|nd|rd|th)?|[a-z]+)[\s-]*(?:of\s+)?(?:{'|'.join(_MONTHS)}|day|week|month|year|h|wk|mth|mo|yr)",
    re.I,
)
"""What a number or numeral goes on with where it may be of a date: most are of results, and say "a" of anything."""
_BY_OPENING: dict[str, tuple[re.Pattern[str], ...]] = {
    **dict.fromkeys("0123456789", (
        _ISO, _YEAR_FIRST, _DAY_MONTH, _NUMERIC, _MONTH_YEAR, _NO_YEAR, _YEAR, _AGO, _LATER, _LASTING, _SHORTHAND
    )),
    **dict.fromkeys(_NUMERALS, (_AGO, _LATER, _LASTING)),
    **dict.fromkeys((*_MONTHS, *_MONTH_NAMES), (_MONTH_DAY, _MONTH_YEAR, _NO_YEAR)),
    **dict.fromkeys(("from", "until", "circa", "year"), (_YEAR,)),
    **dict.fromkeys(("in", "during"), (_YEAR, _PAST)),
    **dict.fromkeys(("over", "within"), (_PAST,)),
    "for": (_PAST, _LASTING),
    "since": (_YEAR, _SINCE_DAY, _SINCE_MONTH),
    **dict.fromkeys(("next", "following"), (_LATER,)),
    **dict.fromkeys(("today", "yesterday", "this"), (_DEIXIS,)),
    "on": (_SINCE_DAY,),
    "last": (_DEIXIS, _SINCE_DAY),
}  # fmt: skip
"""A date's first digit or word → the patterns that may begin there."""
_COUNTING = frozenset({*"0123456789", *_NUMERALS})
_ABSOLUTE = (_ISO, _YEAR_FIRST, _DAY_MONTH, _MONTH_DAY, _NUMERIC, _MONTH_YEAR, _NO_YEAR, _YEAR)
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WEEKDAY_BEFORE = re.compile(r"\b(?P<weekday>mon|tue|wed|thu|fri|sat|sun)(?:s|nes|rs|ur)?(?:day)?,?\s+$", re.I)
_HEAD = 2000
"""Characters of the first page in which an unlabelled date is taken for the document's own: letterhead and address."""
_TITLE_LINES = 1
_GAP = re.compile(r" {2,}|\t")
_BESIDE = 15
"""Characters beside an unlabelled date on its line ("London,"): more is prose, and its date is not the document's."""


_TEXTS_KEPT = 256
"""Pages and quotes are asked for their dates several times."""


@dataclass(frozen=True, slots=True)
class Calendar:
    """How one document writes dates: its own date, and whether 03/04 is the third of April (None: nobody can tell)."""

    own: str | None
    day_first: bool | None


@lru_cache(maxsize=_TEXTS_KEPT)
def find(text: str) -> list[tuple[int, int]]:
    """Stretches of ``text`` that say when or for how long, leftmost longest, without overlaps."""
    found = sorted(_stretches(text), key=lambda span: (span[0], -span[1]))
    kept: list[tuple[int, int]] = []
    for span in found:
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
    return kept


def _stretches(text: str) -> Iterator[tuple[int, int]]:
    """All that a pattern matches. A date begins with a digit or one of few words: nothing is tried elsewhere."""
    ends: dict[re.Pattern[str], int] = {}
    for opening in _OPENING.finditer(text):
        start, word = opening.start(), opening.group().lower()
        if word in _COUNTING and not _COUNTS.match(text, start):
            continue
        for pattern in _BY_OPENING.get(word, ()):
            if start >= ends.get(pattern, 0) and (match := pattern.match(text, start)):
                ends[pattern] = match.end()
                if pattern is not _SHORTHAND or _writes_shorthand(text):
                    yield match.span()


@lru_cache(maxsize=_TEXTS_KEPT)
def _writes_shorthand(text: str) -> bool:
    """Whether "6/12" is six months: not where months stand before days, nor where eyesight is tested."""
    return _order([text]) is True and _EYESIGHT.search(text) is None


@lru_cache(maxsize=_TEXTS_KEPT)
def told(text: str) -> list[tuple[int, int]]:
    """What ``find`` finds, without dates of birth: they are no finding's."""
    return [span for span in find(text) if not _BIRTH.search(text, max(0, span[0] - 40), span[0])]


def within(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The date, duration or time of day that [start, end) is part of: the 4 of "X-ray 04/02/2025" is no value."""
    dated = find(text)
    place = bisect_left(dated, (end, 0)) - 1
    if place >= 0 and start < dated[place][1]:
        return dated[place]
    for match in _CLOCK.finditer(text, max(start - _CLOCKS, 0), min(end + _CLOCKS, len(text))):
        if match.start() < end and start < match.end():
            return match.span()
    return None


@lru_cache(maxsize=_TEXTS_KEPT)
def lasts(text: str) -> bool:
    """Whether a time says for how long, not when."""
    if _PAST.search(text):
        return True
    return not any(pattern.search(text) for pattern in (*_ABSOLUTE, _AGO, _LATER, _DEIXIS, _SINCE_DAY, _SINCE_MONTH))


def calendar(texts: Iterable[str]) -> Calendar:
    """Read a document's own date and its order of day and month from its pages' texts."""
    pages = list(texts)
    day_first = _order(pages)
    own = None
    for text in pages:
        own = own or _own_date(text, day_first, labelled=True)
    if own is None and pages:
        own = _own_date(pages[0], day_first, labelled=False)
    return Calendar(own, day_first)


def _order(pages: Sequence[str]) -> bool | None:
    """Whether a day stands before its month: as one date or weekday shows, or as the country of the words does."""
    shown = [_shows_order(text, match) for text in pages for match in _NUMERIC.finditer(text)]
    orders = set(shown) - {None}
    if orders:
        return orders.pop() if len(orders) == 1 else None
    # Where no date could be read in two ways, nobody asks for the country.
    asked = shown or any(short in text for short in ("/12", "/24") for text in pages)
    return _of_country(pages) if asked else None


def _shows_order(text: str, match: re.Match[str]) -> bool | None:
    """Of 13/02 the day stands first; of "Thursday 05/06/2025" too: the sixth of May was a Tuesday."""
    first, second = int(match["a"]), int(match["b"])
    if (first > 12) != (second > 12):
        return first > 12
    stated = _WEEKDAY_BEFORE.search(text, max(0, match.start() - 12), match.start())
    if stated is None or first == second:
        return None
    weekday, year = _WEEKDAYS.index(stated["weekday"].lower()), _year(match["y"])
    fits = [
        iso is not None and date.fromisoformat(iso).weekday() == weekday
        for iso in (_iso(year, second, first), _iso(year, first, second))
    ]
    return fits[0] if fits[0] != fits[1] else None


def _of_country(pages: Iterable[str]) -> bool | None:
    """The order of the country whose words a document uses: two of one and none of the other, else nobody can tell."""
    british = {word for text in pages for word in _DAY_FIRST.findall(text)}
    american = {word for text in pages for word in _MONTH_FIRST.findall(text)}
    if len(british) > 1 and not american:
        return True
    return False if len(american) > 1 and not british else None


def _own_date(text: str, day_first: bool | None, *, labelled: bool) -> str | None:
    for start, end in find(text):
        before = text[max(0, start - 40) : start]
        if labelled and not _OWN_DATE.search(before.rpartition("\n")[2]):
            continue
        if not labelled and (end > _HEAD or (len(_beside(text, start, end)) > _BESIDE and not _in_title(text, start))):
            continue
        if _BIRTH.search(before):
            continue
        resolved = _absolute(text[start:end], day_first)
        # A bare year or month heads a copyright line or a form's edition, not a letter.
        if resolved and len(resolved) == len("2024-03-09"):
            return resolved
    return None


def _in_title(text: str, position: int) -> bool:
    """Whether a position stands on the first line, and that says what the paper is."""
    begin = len(text) - len(text.lstrip())
    line = text[begin:].partition("\n")[0]
    return position < begin + len(line) and not line.rstrip().endswith(".") and _HEADS_PAPER.search(line) is not None


def _beside(text: str, start: int, end: int) -> str:
    """What else the line says on which [start, end) stands."""
    line_end = text.find("\n", end)
    before, after = text[text.rfind("\n", 0, start) + 1 : start], text[end : line_end if line_end >= 0 else len(text)]
    if not before.strip() and text[:start].strip().count("\n") < _TITLE_LINES:
        after = _GAP.split(after, maxsplit=1)[0]  # a note's title in columns: its day, where, who
    return (before + after).strip()


def resolve(text: str, known: Calendar) -> str | None:
    """The ISO date, month, year or duration (``P5D``) that ``text`` names in a document with this calendar."""
    return _absolute(text, known.day_first) or _without_year(text, known.own) or _relative(text, known)


def _without_year(text: str, own: str | None) -> str | None:
    """A day and month in the year that brings it nearest to the document's own date."""
    match = _NO_YEAR.search(text)
    if match is None or own is None:
        return None
    anchor = date.fromisoformat(own)
    month, day = _month(match["month"] or match["month2"]), int(match["d"] or match["d2"])
    candidates = [iso for year in (-1, 0, 1) if (iso := _iso(anchor.year + year, month, day))]
    return min(candidates, key=lambda iso: abs((date.fromisoformat(iso) - anchor).days), default=None)


def _relative(text: str, known: Calendar) -> str | None:
    for pattern, resolved in _RELATIVES:
        if match := pattern.search(text):
            return resolved(match, known)
    return None


def _deictic(match: re.Match[str], known: Calendar) -> str | None:
    word = re.sub(r"\s+", " ", match["word"].lower())
    days = {"yesterday": 1, "last night": 1}.get(word, None if word.startswith("last") else 0)
    return _back(known.own, days, "day") if days is not None else _back(known.own, 1, word.split()[1])


def _abbreviated(match: re.Match[str], known: Calendar) -> str | None:
    unit = "month" if match["whole"] == "12" else "hour"
    return _PERIODS[unit].format(match["part"]) if known.day_first else None


_RELATIVES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], Calendar], str | None]], ...] = (
    (_AGO, lambda match, known: _back(known.own, _count(match["n"]), match["unit"].lower())),
    (_LATER, lambda *_: None),  # later than what, only the reader knows
    (_PAST, lambda match, _: _PERIODS[match["unit"].lower()].format(1)),
    (_SINCE_DAY, lambda match, known: _last(known.own, _WEEKDAYS.index(match["weekday"].lower()))),
    (_SINCE_MONTH, lambda match, known: _last_month(known.own, _month(match["month"]))),
    (_DEIXIS, _deictic),
    (_LASTING, lambda match, _: _period(match)),
    (_SHORTHAND, _abbreviated),
)


def _last_month(own: str | None, month: int) -> str | None:
    """The month that was last before a document's own date, or is it."""
    if own is None:
        return None
    day = date.fromisoformat(own)
    return f"{day.year - (month > day.month)}-{month:02}"


def _last(own: str | None, weekday: int) -> str | None:
    """The weekday before a document's own date."""
    if own is None:
        return None
    day = date.fromisoformat(own)
    return (day - timedelta(days=(day.weekday() - weekday - 1) % 7 + 1)).isoformat()


def _period(match: re.Match[str]) -> str:
    if match["n"]:
        return _PERIODS[match["unit"].lower()].format(_count(match["n"]))
    if match["hours"]:
        return _PERIODS["hour"].format(match["hours"])
    if match["few"]:
        return _PERIODS["day" if match["of"] == "d" else "week"].format(match["few"])
    if match["one"]:
        return _PERIODS[match["one"].lower()].format(1)
    if match["months"]:
        return _PERIODS["month"].format(match["months"])
    return _PERIODS["day" if match["whole"] == "7" else "week"].format(match["part"])


def _absolute(text: str, day_first: bool | None) -> str | None:
    if match := _ISO.search(text):
        return _iso(int(match["y"]), int(match["m"]), int(match["d"]))
    for pattern in (_YEAR_FIRST, _DAY_MONTH, _MONTH_DAY):
        if match := pattern.search(text):
            return _iso(_year(match["y"]), _month(match["month"]), int(match["d"]))
    if match := _NUMERIC.search(text):
        return _numeric(match, day_first)
    if match := _MONTH_YEAR.search(text):
        return f"{match['y'] or match['y2']}-{match['number'] or _month(match['month']):0>2}"
    if match := _YEAR.search(text.strip()):
        return match["y"] or match["alone"] or match["after"] or match["cell"]
    return None


def _numeric(match: re.Match[str], day_first: bool | None) -> str | None:
    first, second, year = int(match["a"]), int(match["b"]), _year(match["y"])
    if first > 12 or first == second or (second <= 12 and match["sep"] == "."):
        day_first = True  # no country writes month.day.year
    elif second > 12:
        day_first = False
    if day_first is None:
        return None
    return _iso(year, second, first) if day_first else _iso(year, first, second)


def _count(text: str) -> int:
    return int(text) if text.isdigit() else _NUMERALS[text.lower()]


def _year(text: str) -> int:
    if len(text) == 4:
        return int(text)
    # Two digits: records reach back further than they look ahead.
    return 2000 + int(text) if int(text) <= 40 else 1900 + int(text)


def _month(text: str) -> int:
    return _MONTHS.index(text.lower()[:3]) + 1


def _iso(year: int, month: int, day: int) -> str | None:
    try:
        return date(year, month, day).isoformat()
    except ValueError:
        return None


def _back(own: str | None, count: int, unit: str) -> str | None:
    """``count`` units before ``own``, no more precise than the unit: "two months ago" names a month, not a day."""
    if own is None:
        return None
    day = date.fromisoformat(own)
    if unit in ("day", "week"):
        return (day - timedelta(days=count * (7 if unit == "week" else 1))).isoformat()
    if unit == "year":
        return str(day.year - count)
    months = day.year * 12 + day.month - 1 - count
    return f"{months // 12}-{months % 12 + 1:02}"
