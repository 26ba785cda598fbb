"""Printed reference ranges, flags and severities in a form that can be compared: "12.0 to 15.5", "(H)", "slight"."""

import re

_NUMBER = r"\d+(?:[.,]\d+)*"
_BETWEEN = re.compile(rf"\D*?({_NUMBER})\s*(?:-|–|—|to|up to)\s*({_NUMBER})\D*", re.I)
_BOUND = re.compile(rf"\D*?(?P<word>[<>≤≥]|[A-Za-z ]+?)\s*=?\s*(?P<number>{_NUMBER})\D*", re.I)
_BELOW = frozenset({"<", "≤", "under", "below", "less than", "up to"})
_ABOVE = frozenset({">", "≥", "over", "above", "more than", "greater than"})
_FLAGS = {
    "h": "high", "hi": "high", "high": "high", "raised": "high", "elevated": "high", "↑": "high", "+": "high",
    "l": "low", "lo": "low", "low": "low", "reduced": "low", "↓": "low",
    "hh": "critical high", "h*": "critical high", "critical high": "critical high", "↑↑": "critical high",
    "ll": "critical low", "l*": "critical low", "critical low": "critical low", "↓↓": "critical low",
    "above range": "high", "below range": "low", "out of range": "abnormal",
    "a": "abnormal", "*": "abnormal", "abnormal": "abnormal", "abn": "abnormal",
    "n": "normal", "normal": "normal",
}  # fmt: skip
_SEVERITIES = {
    "mild": "mild", "slight": "mild", "minimal": "mild", "minor": "mild", "low-grade": "mild",
    "moderate": "moderate", "mild to moderate": "mild to moderate", "mild-to-moderate": "mild to moderate",
    "moderate to severe": "moderate to severe", "moderate-to-severe": "moderate to severe",
    "severe": "severe", "marked": "severe", "massive": "severe", "profound": "severe", "extensive": "severe",
    "severely": "severe", "mildly": "mild", "moderately": "moderate", "slightly": "mild", "markedly": "severe",
}  # fmt: skip


def reference(text: str) -> str | None:
    """ "12-15.5", "<5" or ">60"; None where it is neither a range of numbers nor a bound."""
    if match := _BETWEEN.fullmatch(text):
        return f"{_plain(match[1])}-{_plain(match[2])}"
    if match := _BOUND.fullmatch(text):
        word = match["word"].strip().lower()
        if word in _BELOW or word in _ABOVE:
            return f"{'<' if word in _BELOW else '>'}{_plain(match['number'])}"
    return None


def flag(text: str) -> str | None:
    """ "high", "low", "critical high", "critical low", "abnormal" or "normal"."""
    return _FLAGS.get(_bare(text))


def severity(text: str) -> str | None:
    """ "mild", "moderate", "severe", or two of them with "to"."""
    return _SEVERITIES.get(_bare(text))


def _bare(text: str) -> str:
    return " ".join(text.lower().strip(" ()[].,").split())


def _plain(number: str) -> str:
    """Without the zeros that carry no value."""
    plain = number.replace(",", ".") if number.count(",") + number.count(".") == 1 else number
    return plain.rstrip("0").rstrip(".") if "." in plain else plain
