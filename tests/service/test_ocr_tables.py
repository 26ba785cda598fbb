"""Ruled tables: numbers keep their row, their column and their value, or say that they are not certain."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.ocr import sheets
from bench.ocr.damage import KINDS
from bench.ocr.prose import distance
from bench.ocr.reading import Task, make, read
from bench.ocr.tables import count_numbers
from services.ocr.cells import Mark
from services.ocr.grey import Grey
from services.ocr.numbers import oddly_spaced, settle
from services.ocr.page_text import ReadWord
from services.ocr.reader import DocumentReader, ReaderLimits
from services.ocr.rules import find_grids
from services.ocr.tables import read_tables
from shared.contract.pages import Page

GRIDS = (1000, 1002)
"""Reports of one table with all its rules, and of two tables."""


class Blind:
    """A line reader that sees nothing."""

    def read_lines(self, cuts: Sequence[Image.Image], *, numbers_only: bool = False) -> list[list[ReadWord]]:
        return [[] for _ in cuts]


def page_of(task: Task, folder: Path) -> Page:
    """The sheet as the service reads it, through its child process."""
    path = folder / "sheet.png"
    pixels = KINDS[task.damage](sheets.render(make(task), task.dpi), task.seed)
    Image.fromarray(pixels).save(path, dpi=(task.dpi, task.dpi))
    reader = DocumentReader(renderer="pypdfium2", engine="tesserocr", limits=ReaderLimits(), tesseract_command=None)
    (page,) = asyncio.run(reader.read(path))
    return page


def test_a_table_keeps_its_rows_and_columns_and_its_text_is_the_pages(tmp_path: Path) -> None:
    task = Task("laboratory_report", 1000, 300, "clean")
    page = page_of(task, tmp_path)
    (rows,) = make(task).tables
    (table,) = page.tables
    assert {(cell.row, cell.col) for cell in table.cells} == {
        (row, col) for row in range(len(rows)) for col in range(len(rows[0]))
    }
    for cell in table.cells:
        assert page.text[cell.start : cell.end] == cell.text
    right = sum(cell.text == rows[cell.row][cell.col] for cell in table.cells)
    assert right > 0.97 * len(table.cells)
    assert page.text.index(rows[1][0]) < page.text.index(rows[2][0]) < page.text.index("Comment")


@pytest.mark.parametrize(("report", "damage"), [(1002, "photo"), (1002, "noisy"), (9, "noisy")])
def test_numbers_of_a_bad_copy_are_right_or_uncertain(report: int, damage: str) -> None:
    counts = count_numbers(Task("laboratory_report", report, 300, damage))
    assert counts.right > 0.93 * (counts.right + counts.wrong)
    assert counts.right_flagged < 0.08 * counts.right
    assert counts.wrong - counts.wrong_flagged <= 1


def test_prose_of_a_noisy_crooked_copy_is_read(tmp_path: Path) -> None:
    task = Task("letter", 12, 200, "noisy")
    page = read(task)
    said = make(task).text
    assert distance(" ".join(page.text.split()), said) < 0.02 * len(said)
    assert {"noise", "skew"} <= set(page.corrections)


def test_a_clean_page_is_left_as_it_is() -> None:
    assert read(Task("letter", 12, 150, "clean")).corrections == ()


def test_two_tables_below_each_other_are_two() -> None:
    sheet = sheets.laboratory_report(1002)
    grids = find_grids(sheets.render(sheet, 300), 300)
    assert [(len(grid.across) - 1, len(grid.down) - 1) for grid in grids] == [
        (len(rows), len(rows[0])) for rows in sheet.tables
    ]


@pytest.mark.parametrize("damage", ["clean", "photo"])
@pytest.mark.parametrize("report", [pytest.param(1028, id="one table"), pytest.param(1033, id="two tables")])
def test_tables_of_rules_across_alone_have_all_their_rows_and_columns(report: int, damage: str) -> None:
    task = Task("laboratory_report", report, 300, damage)
    assert [(table.cells[-1].row + 1, table.cells[-1].col + 1) for table in read(task).tables] == [
        (len(rows), len(rows[0])) for rows in make(task).tables
    ]


def ruled_page() -> Grey:
    """Three rows of three cells, without a rule at the left and right edges."""
    page = np.full((1600, 2000), 255, np.uint8)
    for y in range(500, 801, 100):
        page[y : y + 4, 300:1501] = 0
    for x in (700, 1100):
        page[500:804, x : x + 4] = 0
    return page


def test_a_stem_above_a_column_makes_no_row_of_its_own() -> None:
    page = ruled_page()
    page[400:480, 1100:1105] = 0  # a capital I of the heading, right above a rule
    (grid,) = find_grids(page, 300)
    assert (len(grid.across) - 1, len(grid.down) - 1) == (3, 3)


def test_a_table_without_its_upper_rule_has_its_first_row() -> None:
    page = ruled_page()
    page[500:504, 300:1501] = 255
    for x in (700, 1100):
        page[500:504, x : x + 4] = 0
    (grid,) = find_grids(page, 300)
    assert (len(grid.across) - 1, len(grid.down) - 1) == (3, 3)


def test_brackets_below_each_other_are_no_column() -> None:
    page = ruled_page()
    for y in range(520, 801, 100):
        page[y : y + 62, 1300:1304] = 0
    (grid,) = find_grids(page, 300)
    assert (len(grid.across) - 1, len(grid.down) - 1) == (3, 3)


def test_two_stems_far_below_each_other_part_no_table_of_rules_across_alone() -> None:
    page = np.full((1600, 2000), 255, np.uint8)
    for y in range(500, 1001, 100):
        page[y : y + 4, 300:1501] = 0
    for y in (530, 730):
        page[y : y + 46, 1300:1304] = 0
    (grid,) = find_grids(page, 300)
    assert len(grid.across) - 1 == 5


def test_a_page_of_prose_has_no_table() -> None:
    assert find_grids(sheets.render(sheets.letter(12), 300), 300) == []


def test_a_frame_around_the_page_is_no_table() -> None:
    page = np.full((1754, 1240), 255, np.uint8)
    page[100:104, 100:1140] = page[1600:1604, 100:1140] = page[100:1604, 100:104] = page[100:1604, 1136:1140] = 0
    assert find_grids(page, 150) == []


def test_ink_that_nobody_can_read_is_an_uncertain_cell() -> None:
    sheet = sheets.laboratory_report(1000)
    (table,) = read_tables(sheets.render(sheet, 300), 300, Blind())
    (rows,) = sheet.tables
    for cell in table.cells:
        assert cell.words == ()
        assert cell.uncertain == bool(rows[cell.row][cell.col])


@pytest.mark.parametrize(
    ("report", "ranges"),
    [
        pytest.param(1017, ["60 - 120", "1.00 - 4.00", "20 - 41"], id="narrow spaces"),
        pytest.param(1019, ["(115 - 165)", "(0.00 - 0.10)"], id="a typewriter's brackets"),
        pytest.param(1007, ["3.5-5.3", "0-5", "115-165"], id="no spaces"),
    ],
)
def test_ranges_are_spaced_as_printed(report: int, ranges: list[str]) -> None:
    task = Task("laboratory_report", report, 300, "clean")
    printed = {text.replace("–", "-") for rows in make(task).tables for row in rows for text in row}
    assert printed.issuperset(ranges)
    said = {cell.text.replace("—", "-") for table in read(task).tables for cell in table.cells}
    assert said.issuperset(ranges)


@pytest.mark.parametrize(
    ("column", "odd"),
    [
        (["4.0 – 11.0", "3.5 – 5.1", "20-41", "130 – 180", "0.5 – 1.2", "Range"], {2}),
        (["4.0-11.0", "3.5-5.1", "20- 41", "130-180", "0.5-1.2"], {2}),
        (["4.0-11.0", "3.5 – 5.1", "20-41", "130 – 180"], set()),
        (["4.0-11.0", "3.5 – 5.1"], set()),
    ],
    ids=["a space that was lost", "half of one that was made up", "no habit", "too few"],
)
def test_a_range_that_is_spaced_otherwise_than_its_column_is_odd(column: list[str], odd: set[int]) -> None:
    assert oddly_spaced(column) == odd


def marks(count: int) -> list[Mark]:
    return [Mark(20 * n, 0, 20 * n + 15, 30, 200) for n in range(count)]


def word(text: str, confidence: float) -> list[ReadWord]:
    return [ReadWord(text, (0, 0, 10, 10), confidence)]


@pytest.mark.parametrize(
    ("readings", "pieces", "expected", "is_uncertain"),
    [
        pytest.param([word("4.2", 0.96)], 3, "4.2", False, id="one sure reading that fits the ink"),
        pytest.param([word("42", 0.96)] * 3, 3, "42", True, id="a point was lost"),
        pytest.param([word("4.22", 0.96)] * 3, 3, "4.22", True, id="a digit was invented"),
        pytest.param([word("759", 0.6), word("159", 0.81), word("159", 0.5)], 3, "159", True, id="nobody is sure"),
        pytest.param([word("iS", 0.5), word("15", 0.96), word("15", 0.93)], 2, "15", False, id="two outvote one"),
        pytest.param([word("l5", 0.95)] * 3, 2, "l5", True, id="a letter among digits"),
        pytest.param([word("4.9]", 0.95)], 4, "4.9]", True, id="half of a pair of brackets"),
        pytest.param([word("O", 0.9) + word("- 14", 0.95)] * 3, 4, "O - 14", True, id="a range from a letter"),
        pytest.param([[]] * 3, 2, "", True, id="nothing was read"),
        pytest.param([word("High", 0.95)], 5, "High", False, id="a word in a column of numbers"),
        pytest.param([word("a", 0.95)], 1, "a", True, id="a letter where a number should be"),
    ],
)
def test_a_number_is_certain_only_by_several_signs(
    readings: list[list[ReadWord]], pieces: int, expected: str, is_uncertain: bool
) -> None:
    verdict = settle(readings, marks(pieces), is_numeric=True)
    assert " ".join(w.text for w in verdict.words) == expected
    assert verdict.is_uncertain is is_uncertain
