"""Printed doses, frequencies and routes in a form that can be compared: "5mg" and "5 mg", "bd" and "twice daily"."""

import re
import tomllib
from functools import cache
from importlib import resources

from . import units

_DOSE = re.compile(r"(\d+(?:[.,]\d+)*)(?:\s?[-–]\s?(\d+(?:[.,]\d+)*))?\s?(\S.*)")
_COUNTS = {"other": 2, "second": 2, "two": 2, "third": 3, "three": 3, "four": 4, "six": 6, "eight": 8, "twelve": 12}
_PERIODS = {"hour": "h", "day": "d", "week": "wk", "month": "mo"}
_EVERY = re.compile(r"every (\d+|[a-z]+)(?: ?(?:-|to) ?(\d+))? (hour|day|week|month)s?")
_SHORT: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"q(\d+)h|(\d+)[- ]?(?:hourly|hrly)"), r"1/\1\2h"),
    (re.compile(r"(\d+)[- ]?weekly"), r"1/\1wk"),
    (re.compile(r"(\d+)[- ]?monthly"), r"1/\1mo"),
    (re.compile(r"(\d) ?x ?(?:/|per |a ) ?d(?:ay)?"), r"\1/d"),
    (re.compile(r"every (?:mon|tues|wednes|thurs|fri|satur|sun)day"), "1/wk"),
)
"""What no list holds → its code."""
_AS_NEEDED = re.compile(r"[ ,]+(?:as needed|as required|when required|when needed|if needed|if required|prn)$")


@cache
def _rules(name: str) -> dict[str, str]:
    text = resources.files("services.ai").joinpath("rules", "dosing.toml").read_text("utf-8")
    table = tomllib.loads(text)[name]
    if name == "units":
        return dict(table)
    return {printed: code for code, spellings in table.items() for printed in spellings}


def dose(text: str) -> str | None:
    """The amount with its UCUM unit ("500 mg", "2 {puff}", "5 mg/kg", "1-2 {tbl}"), or None where the unit is none."""
    match = _DOSE.fullmatch(text.strip())
    if match is None:
        return None
    low, high, unit = match.groups()
    code = _unit(unit)
    amounts = [units.number(amount) for amount in (low, high) if amount]
    if code is None or None in amounts:
        return None
    return f"{'-'.join(f'{amount:.10g}' for amount in amounts)} {code}"


def frequency(text: str) -> str | None:
    """A stable code: "1/d", "2/d", "1/wk", "1/8h", "as needed", "2/d as needed", or None."""
    plain = " ".join(text.lower().replace(".", "").split())
    if plain in _rules("frequencies"):
        return _rules("frequencies")[plain]
    if (shorter := _AS_NEEDED.sub("", plain)) != plain:
        code = frequency(shorter)
        return f"{code} as needed" if code else None
    short = next((match.expand(code) for form, code in _SHORT if (match := form.fullmatch(plain))), None)
    match = _EVERY.fullmatch(plain)
    if match is None:
        return short
    count, upper, period = match.groups()
    times = int(count) if count.isdigit() else _COUNTS.get(count)
    if times is None:
        return None
    return f"1/{f'{times}-{upper}' if upper else '' if times == 1 else times}{_PERIODS[period]}"


def route(text: str) -> str | None:
    """The way in one word ("oral", "subcutaneous"), or None where the word names a form that may go several ways."""
    return _rules("routes").get(" ".join(text.lower().replace(".", "").split()))


def _unit(text: str) -> str | None:
    """Each part of "mg/kg/day" by itself: no list holds every combination."""
    known = [_rules("units").get(part) or units.ucum(part) for part in re.split(r"\s*/\s*", text.strip().lower())]
    return "/".join(code for code in known if code) if known and None not in known else None
