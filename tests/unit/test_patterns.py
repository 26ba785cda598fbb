"""Patterns are tried only at the words that they say a match begins with: no match may begin with another."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ai.local.detection import PatternDetector
from services.ai.local.sections import layout, rules
from services.ai.local.tokens import tokens

EXPRESSIONS = [rule for rule in rules("patterns")["pattern"] if "match" in rule]


@pytest.mark.parametrize("rule", EXPRESSIONS, ids=lambda rule: rule["label"])
@given(data=st.data())
def test_a_match_begins_with_a_word_that_its_pattern_names(rule: dict[str, str], data: st.DataObject) -> None:
    words = data.draw(st.from_regex(re.compile(rule["match"], re.I | re.A), fullmatch=True))
    first = tokens(words).lower[0]
    assert ("0" if first[0].isdigit() else first) in rule["begins"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("A man aged 64 was seen.", ["aged 64"]),
        ("Age: 7\nSex: F\n", ["Age: 7", "F"]),
        (
            "She has a 22.5 pack-year history, and drinks 12-14 units of alcohol per week.",
            ["22.5 pack-year", "12-14 units of alcohol per week"],
        ),
        ("The 3.5-year-old girl lives with her grandmother.", ["3.5-year-old", "lives with her grandmother"]),
        ("Retired; worked as a welder until 1999. NKDA.", ["welder", "NKDA"]),
    ],
)
def test_what_its_form_gives_away_is_found(text: str, found: list[str]) -> None:
    spans = sorted(PatternDetector(before_terms=True).find(layout(text)), key=lambda span: span.start)
    assert [text[span.start : span.end] for span in spans] == found
