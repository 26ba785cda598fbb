"""Long pages are cut and put together again: no word is lost, none is found twice."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ai.passages import OVERLAP, Merger, halve, split
from services.ai.wire import Passage
from shared.contract.findings import Finding, Kind, Source
from shared.contract.pages import Page


def page_of(text: str) -> Page:
    return Page(page=1, width=9, height=9, text=text, words=(), text_source="ocr", engine="t", engine_version="1")


def finding(start: int, end: int, *, kind: Kind = "observation", number: int = 1) -> Finding:
    quote = "x" * (end - start)
    source = Source(page=1, start=start, end=end, quote=quote, boxes=())
    return Finding(id=f"e{number}", kind=kind, label="test", text=quote, source=source, alignment="exact", codes=())


def covers(text: str, passages: list[Passage], *, start: int = 0) -> bool:
    position = start
    for passage in passages:
        assert text[passage.start - start : passage.start - start + len(passage.text)] == passage.text
        if passage.start > position:
            return False
        position = max(position, passage.start + len(passage.text))
    return position == start + len(text)


@given(st.lists(st.sampled_from(["word ", "line\n", "\n", "x" * 90, "Medication:\n"]), min_size=1, max_size=400))
def test_passages_cover_the_page_and_overlap(pieces: list[str]) -> None:
    text = "a" + "".join(pieces)
    passages = split(page_of(text), 800)
    assert covers(text, passages)
    assert all(len(passage.text) <= 800 for passage in passages)
    for earlier, later in pairwise(passages):
        assert earlier.start < later.start < earlier.start + len(earlier.text)


@given(st.lists(st.sampled_from(["word ", "line\n", "x" * 90]), min_size=30, max_size=200), st.integers(0, 500))
def test_halves_cover_the_passage(pieces: list[str], start: int) -> None:
    text = "".join(pieces)
    passage = Passage(page=1, start=start, text=text)
    halves = halve(passage)
    if halves:
        assert covers(text, halves, start=start)
        assert all(len(half.text) < len(text) for half in halves)


def test_a_line_that_ends_early_costs_no_text() -> None:
    # The first half ended at this line, the second had its length from there, and the rest was gone.
    text = "x" * 320 + "\n" + "y" * 679
    assert covers(text, halve(Passage(page=1, start=0, text=text)))


def test_a_page_is_cut_where_a_section_begins() -> None:
    text = "Diagnosis: asthma.\n" + "The course was without events.\n" * 20 + "Medication:\n" + "ramipril 5 mg\n" * 30
    first, second = split(page_of(text), 800)
    assert first.start + len(first.text) == text.index("Medication:")
    assert second.start >= text.index("Medication:") - OVERLAP


def test_a_short_page_is_one_passage() -> None:
    assert split(page_of("Diagnosis: asthma."), 800, "list")[0].role == "list"
    assert split(page_of(" \n "), 800) == []


FIRST, SECOND = Passage(page=1, start=0, text="x" * 1000), Passage(page=1, start=800, text="x" * 1000)


@pytest.mark.parametrize(
    ("told", "again", "kept"),
    [
        ((900, 910), (900, 910), (900, 910)),
        # The cut went through the words: whoever had them whole is right, in whichever order.
        ((990, 1000), (990, 1010), (990, 1010)),
        ((795, 810), (800, 810), (795, 810)),
    ],
)
def test_what_two_passages_tell_is_one(told: tuple[int, int], again: tuple[int, int], kept: tuple[int, int]) -> None:
    merger = Merger()
    merger.add(finding(*told), FIRST)
    merger.add(finding(*again, number=2), SECOND)
    assert [(one.source.start, one.source.end, one.id) for one in merger.findings] == [(*kept, "e1")]


def test_what_one_passage_tells_of_the_same_words_stays() -> None:
    merger = Merger()
    for number, span in enumerate([(900, 920), (900, 910)]):
        merger.add(finding(*span, number=number), SECOND)
    assert len(merger.findings) == 2


def test_another_kind_of_the_same_words_is_no_second_finding() -> None:
    merger = Merger()
    merger.add(finding(900, 910), FIRST)
    merger.add(finding(900, 910, kind="event", number=2), SECOND)
    assert [one.kind for one in merger.findings] == ["observation"]
