"""Cues are looked for only where their first words are present: none may be passed over for that."""

import pytest

from services.ai.local.cues import cue, present
from services.ai.local.sections import rules

CUES = [
    (kind, side, term) for kind, sides in rules("assertion").items() for side, terms in sides.items() for term in terms
]


@pytest.mark.parametrize(("kind", "side"), sorted({(kind, side) for kind, side, _ in CUES}))
def test_every_cue_is_seen_in_a_sentence_that_holds_it(kind: str, side: str) -> None:
    for term in (term for *place, term in CUES if place == [kind, side]):
        for text in (f"The cough {term} fever.", f"COUGH {term.upper()} FEVER", term):
            assert cue(kind, side).stands(text, present(text, 0, len(text))), term


def test_a_sentence_without_a_cue_is_not_searched() -> None:
    text = "The cough was dry."
    assert not cue("negated", "before").may_stand(present(text, 0, len(text)))
    assert not cue("terminators", "words").may_stand(present(text, 0, len(text)))
