"""Printed numbers and units in a form that can be compared: floats and UCUM."""

import re
import tomllib
from functools import cache
from importlib import resources

_NUMBER = re.compile(r"[<>≤≥]?\s*([-+]?\d+(?:[.,]\d+)*)\s*%?")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_SUPERSCRIPTS = str.maketrans({"²": "^2", "³": "^3", "⁶": "^6", "⁹": "^9", "µ": "u", "μ": "u", "×": "x", "*": "^"})
_SUPERSCRIPT_RUNS = {"10⁹": "10^9", "10⁶": "10^6", "¹²": "^12", "10e9": "10^9", "10e12": "10^12", "10e3": "10^3"}


_DEGREES = {"c": "Cel", "f": "[degF]"}
"""Letters that are units only of a temperature; nothing is looked for by them."""


@cache
def _ucum() -> dict[str, str]:
    text = resources.files("services.ai").joinpath("rules", "units.toml").read_text("utf-8")
    return dict(tomllib.loads(text)["ucum"])


def ucum(text: str) -> str | None:
    """The UCUM code of a printed unit, or None."""
    plain = re.sub(r"\s+", "", text.lower())
    for run, written in _SUPERSCRIPT_RUNS.items():
        plain = plain.replace(run, written)
    plain = plain.translate(_SUPERSCRIPTS)
    # OCR loses the caret of "x 10^9/L". No other unit begins with these digits.
    plain = re.sub(r"^x?10(3|6|9|12)(?=/u?l$)", r"10^\1", plain)
    return _ucum().get(plain) or _DEGREES.get(plain)


def number(text: str) -> float | None:
    """The number that ``text`` is, or None where it is a word, a ratio ("120/80") or ambiguous ("1.234.5").

    A bound ("<0.5") gives None too: 0.5 would be a value that nobody measured.
    """
    match = _NUMBER.fullmatch(text.strip())
    if not match or text.strip()[0] in "<>≤≥":
        return None
    digits = match.group(1)
    if _GROUPED.fullmatch(digits.lstrip("+-")):
        digits = digits.replace(",", "")
    try:
        return float(digits.replace(",", "."))
    except ValueError:
        return None


def outside(value: str, reference: str) -> str | None:
    """ "low" or "high" where a plain number lies outside a printed range, else None."""
    measured = number(value)
    bounds = [float(bound.replace(",", ".")) for bound in re.findall(r"\d+(?:[.,]\d+)?", reference)]
    if measured is None:
        return None
    if len(bounds) == 2:
        return "low" if measured < bounds[0] else "high" if measured > bounds[1] else None
    if len(bounds) == 1 and re.match(r"[<≤]|(?:under|below|less than|up to)\b", reference, re.I):
        return "high" if measured > bounds[0] else None
    if len(bounds) == 1 and re.match(r"[>≥]|(?:over|above|more than|greater than)\b", reference, re.I):
        return "low" if measured < bounds[0] else None
    return None


def known_units() -> tuple[str, ...]:
    """The units that have a UCUM code, as ``units.toml`` writes them."""
    return tuple(_ucum())
