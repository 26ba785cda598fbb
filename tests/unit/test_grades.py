"""Ranges, flags and severities in a form that can be compared."""

import pytest

from services.ai import grades


@pytest.mark.parametrize(
    ("printed", "normalised"),
    [
        ("12.0 - 15.5", "12-15.5"),
        ("(3.5–5.3)", "3.5-5.3"),
        ("70 to 99", "70-99"),
        ("< 5.0", "<5"),
        (">60", ">60"),
        ("up to 200", "<200"),
        ("ref 4,5-11,0", "4.5-11"),
        ("negative", None),
        ("see comment 3", None),
    ],
)
def test_reference_ranges(printed: str, normalised: str | None) -> None:
    assert grades.reference(printed) == normalised


@pytest.mark.parametrize(
    ("printed", "normalised"),
    [("H", "high"), ("(L)", "low"), ("HH", "critical high"), ("↓", "low"), ("*", "abnormal"), ("A1", None)],
)
def test_flags(printed: str, normalised: str | None) -> None:
    assert grades.flag(printed) == normalised


@pytest.mark.parametrize(
    ("printed", "normalised"),
    [("Severe", "severe"), ("mild-to-moderate", "mild to moderate"), ("slight", "mild"), ("grade 3", None)],
)
def test_severities(printed: str, normalised: str | None) -> None:
    assert grades.severity(printed) == normalised
