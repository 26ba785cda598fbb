"""Printed numbers and units in a form that can be compared: floats and UCUM."""

import re
import tomllib
from functools import cache
from importlib import resources

_NUMBER = re.compile(r"[<>≤≥]?\s*([-+]?\d+(?:[.,]\d+)*)\s*%?")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_SUPERSCRIPTS = str.maketrans({"²": "^2", "³": "^3", "⁶": "^6", "⁹": "^9", "µ": "u", "μ": "u", "×": "x", "*": "^"})
_SUPERSCRIPT_RUNS = {"¹²": "^12", "10e9": "10^9", "10e12": "10^12", "10e3": "10^3"}


@cache
def _ucum() -> dict[str, str]:
    text = resources.files("services.ai").joinpath("rules", "units.toml").read_text("utf-8")
    return dict(tomllib.loads(text)["ucum"])


def ucum(text: str) -> str | None:
    """The UCUM code of a printed unit, or None."""
    plain = re.sub(r"\s+", "", text.lower())
    for run, written in _SUPERSCRIPT_RUNS.items():
        plain = plain.replace(run, written)
    return _ucum().get(plain.translate(_SUPERSCRIPTS))


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


def known_units() -> tuple[str, ...]:
    """The units that have a UCUM code, as ``units.toml`` writes them."""
    return tuple(_ucum())
