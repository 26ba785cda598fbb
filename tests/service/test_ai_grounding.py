"""A quote is found on the page, or it is no finding."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ai import grounding, passages
from services.ai.grounding import Ground
from shared.contract.pages import Page, Word

_NOISE = st.text(alphabet="abcdefgRN105.,-/ \nﬁéµ°\u00ad—’", min_size=0, max_size=120)
_WORDS = st.lists(
    st.sampled_from(
        ["fever", "Haemoglobin", "10.2", "g/dL", "ﬁbrosis", "no", "chest", "pain,", "hyper-", "tension", "B12"]
    ),
    min_size=1,
    max_size=40,
)


def page_of(text: str, *, number: int = 1) -> Page:
    """A page with a grid of word boxes: 10 pixels a character, 20 a line."""
    words, offset = [], 0
    for line_number, line in enumerate(text.split("\n")):
        column = 0
        for token in line.split(" "):
            if token.strip():
                start = offset + column
                box = (column * 10.0, line_number * 20.0, (column + len(token)) * 10.0, line_number * 20.0 + 15)
                words.append(Word(text=token, box=box, confidence=0.9, start=start, end=start + len(token)))
            column += len(token) + 1
        offset += len(line) + 1
    return Page(
        page=number,
        width=2000,
        height=2000,
        text=text,
        words=tuple(words),
        text_source="ocr",
        engine="t",
        engine_version="1",
    )


@pytest.mark.parametrize(
    ("text", "quote", "found", "alignment"),
    [
        ("Has fever today", "fever", "fever", "exact"),
        ("Severe chest\n   pain", "chest pain", "chest\n   pain", "normalised"),
        ("signs of hyper-\ntension here", "hypertension", "hyper-\ntension", "normalised"),
        ("pulmonary ﬁbrosis", "pulmonary fibrosis", "pulmonary ﬁbrosis", "normalised"),
        ("SpO2 98% at 72bpm", "72", "72", "exact"),
        ("SpO2 98% at 72bpm", "bpm", "bpm", "exact"),
        ("Crohn’s disease", "crohn's disease", "Crohn’s disease", "normalised"),
        ("Haernoglobin l0.2", "Haemoglobin 10.2", "Haernoglobin l0.2", "normalised"),
        ("treated with metoprolal twice", "metoprolol", "metoprolal", "fuzzy"),
    ],
)
def test_a_quote_is_found_as_the_page_prints_it(text: str, quote: str, found: str, alignment: str) -> None:
    match = Ground(text).find(quote)
    assert match is not None
    assert (text[match.start : match.end], match.alignment) == (found, alignment)


@pytest.mark.parametrize(
    ("text", "quote"),
    [
        ("Blood pressure was normal", "diabetes mellitus"),
        ("hypotension", "hypertension"),
        ("history of hypotension since childhood and more", "history of hypertension since childhood and more"),
        ("ramipril 5 mg", "ramipril 6 mg"),
        ("sodium 138 mmol/L measured twice", "sodium 139 mmol/L measured twice"),
        ("a male patient", "a mole patient"),
        ("fever", ""),
        ("fever", "  ... "),
        ("ARAB", "RA"),
        ("vitamin B12", "12"),
        ("ramipril 2.5 mg", "5"),
        ("ramipril 2.5 mg", "2"),
        ("sodium 11000 units", "1000"),
        ("weight 1,234 g", "234"),
        ("HbA1c 1000.5", "1000"),
    ],
)
def test_what_the_page_does_not_say_is_not_found(text: str, quote: str) -> None:
    assert Ground(text).find(quote) is None


def test_the_asked_occurrence_is_taken_and_the_nearest_where_none_is_named() -> None:
    text = "fever on day 1, fever on day 5, feverish, fever gone"
    ground = Ground(text)
    second = ground.find("fever", occurrence=2)
    assert second is not None
    assert second.start == text.index("fever", 1)
    near = ground.find("fever", occurrence=None, near=len(text))
    assert near is not None
    assert near.start == text.rindex("fever")
    assert grounding.Places(text).occurrence(second.start, second.end) == 2


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=_NOISE, quote=_NOISE)
def test_any_match_is_a_stretch_of_the_page_without_edge_space(text: str, quote: str) -> None:
    match = Ground(text).find(quote)
    if match is not None:
        stretch = text[match.start : match.end]
        assert stretch
        assert stretch == stretch.strip()


@settings(max_examples=100, deadline=None)
@given(words=_WORDS, data=st.data())
def test_quote_offsets_and_boxes_agree_with_the_page(words: list[str], data: st.DataObject) -> None:
    gaps = data.draw(st.lists(st.sampled_from([" ", "\n", "  "]), min_size=len(words), max_size=len(words)))
    text = "".join(word + gap for word, gap in zip(words, gaps, strict=True))
    page = page_of(text)
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(first + 5, len(words) - 1)))
    quote = " ".join(words[first : last + 1])
    match = Ground(text).find(quote)
    assert match is not None
    source = grounding.source(page, match.start, match.end)
    assert source.quote == page.text[source.start : source.end]
    touched = [word for word in page.words if word.start < source.end and word.end > source.start]
    for word in touched:
        assert any(
            box[0] <= word.box[0] and box[1] <= word.box[1] and box[2] >= word.box[2] and box[3] >= word.box[3]
            for box in source.boxes
        )
    assert len(source.boxes) == len({word.box[1] for word in touched})


def test_words_without_line_breaks_in_the_text_still_get_a_box_a_line() -> None:
    words = (
        Word(text="chest", box=(800, 10, 900, 30), confidence=1, start=0, end=5),
        Word(text="pain", box=(10, 40, 90, 60), confidence=1, start=6, end=10),
    )
    page = Page(
        page=1,
        width=1000,
        height=1000,
        text="chest pain",
        words=words,
        text_source="ocr",
        engine="t",
        engine_version="1",
    )
    assert grounding.boxes(page, 0, 10) == ((800, 10, 900, 30), (10, 40, 90, 60))


QUOTES = (
    "chest pain",
    "an invented diagnosis of something",
    "chest pain and was given aspirim",
    "aspirim",
    "a a a a a a a b",
    "aaaaaaaaaaaaaaaaaaab",
    "l0.2 g/dL of haernoglobin",
)


def steps(text: str, quote: str) -> int:
    ground = Ground(text)
    ground.find(quote)
    return ground.steps


@settings(max_examples=80, deadline=None)
@given(
    piece=st.one_of(
        st.sampled_from(
            ["The patient reports chest pain and was given aspirin. ", "a " * 30, "a" * 60, "ab" * 30 + " "]
        ),
        st.text(alphabet="ab l1.0-\n", min_size=20, max_size=60),
    ),
    quote=st.one_of(st.sampled_from(QUOTES), st.text(alphabet="ab l1.0-", min_size=1, max_size=40)),
)
def test_a_search_takes_steps_in_proportion_to_the_text(piece: str, quote: str) -> None:
    """Whatever it repeats, however much of the quote it holds: eight times the text is eight times the work."""
    once, eightfold = steps(piece * 8, quote), steps(piece * 64, quote)
    assert eightfold <= 8 * once + 50 * len(quote) ** 2
    # A letter is looked at a bounded number of times for each letter of the quote, which has 300 at most.
    assert eightfold <= len(piece * 64) * (8 + 4 * len(quote))


def test_what_was_looked_for_is_not_looked_for_again() -> None:
    ground = Ground("5 mmol/L, 6 mmol/L, 7 mmol/L")
    for occurrence in (1, 2, 3):
        ground.find("mmol/L", occurrence=occurrence)
    assert ground.steps == len(ground.text) + 3 * len("mmol/L")


def test_words_that_ocr_doubts_mark_what_stands_on_them() -> None:
    page = page_of("Potassium 5.9 mmol/L")
    doubted = page.words[1].model_copy(update={"uncertain": True})
    page = page.model_copy(update={"words": (page.words[0], doubted, page.words[2])})
    marked = [
        grounding.is_uncertain(page, grounding.source(page, start, start + len(word)))
        for word, start in (("Potassium", 0), ("5.9", 10), ("mmol/L", 14), ("Potassium 5.9", 0))
    ]
    assert marked == [False, True, False, True]


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(st.text(alphabet="abc 1", max_size=60), max_size=60), window=st.integers(100, 900))
def test_passages_cover_the_page_within_the_window(lines: list[str], window: int) -> None:
    page = page_of("\n".join(lines))
    pieces = passages.split(page, window)
    covered: set[int] = set()
    for piece in pieces:
        assert len(piece.text) <= window
        assert page.text[piece.start : piece.start + len(piece.text)] == piece.text
        covered.update(range(piece.start, piece.start + len(piece.text)))
    assert not pieces or covered == set(range(len(page.text)))
