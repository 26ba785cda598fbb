"""Numbers in ruled tables: which are read exactly, and of the others which say that they are uncertain."""

from typing import NamedTuple

from bench.queue.ground import Ground
from bench.report import Measurement, measured
from shared.contract.pages import Cell

from .damage import KINDS
from .reading import Task, make, of_all, read

REPORTS = range(24)
"""Two thousand numbers in each state; thresholds were set on reports from 1000 on."""
DPI = 300
EXACT = {"clean": 97.0, "scan": 95.0, "photo": 93.0, "noisy": 90.0}
FLAGGED_WRONG, FLAGGED_RIGHT = 95.0, 5.0


class Counts(NamedTuple):
    """Words with a digit in them."""

    right: int = 0
    right_flagged: int = 0
    wrong: int = 0
    wrong_flagged: int = 0

    def __add__(self, other: tuple[object, ...]) -> "Counts":
        return Counts(*(mine + int(str(its)) for mine, its in zip(self, other, strict=True)))


async def measure(ground: Ground) -> list[Measurement]:
    ground.progress("tables")
    tasks = [Task("laboratory_report", report, DPI, damage) for damage in KINDS for report in REPORTS]
    counted = list(zip(tasks, await of_all(count_numbers, tasks), strict=True))
    rows = []
    everything = Counts()
    for damage in KINDS:
        counts = sum((counts for task, counts in counted if task.damage == damage), Counts())
        everything += counts
        numbers = counts.right + counts.wrong
        rows.append(
            measured(
                f"tables: {numbers} numbers, {damage}: read exactly",
                [100 * counts.right / numbers],
                "%",
                at_least=EXACT[damage],
            )
        )
        rows.append(_flagged_right(f"tables, {damage}", counts))
    rows.append(
        measured(
            f"tables: {everything.wrong} wrong or missing numbers: flagged uncertain",
            [100 * everything.wrong_flagged / max(1, everything.wrong)],
            "%",
            at_least=FLAGGED_WRONG,
        )
    )
    rows.append(_flagged_right("tables", everything))
    return rows


def _flagged_right(name: str, counts: Counts) -> Measurement:
    share = 100 * counts.right_flagged / max(1, counts.right)
    return measured(f"{name}: right numbers flagged uncertain", [share], "%", at_most=FLAGGED_RIGHT)


def count_numbers(task: Task) -> Counts:
    """A number counts as right only in its own row and column of its own table."""
    page = read(task)
    counts = Counts()
    for place, rows in enumerate(make(task).tables):
        cells: dict[tuple[int, int], Cell] = {}
        if place < len(page.tables):
            cells = {(cell.row, cell.col): cell for cell in page.tables[place].cells}
        for row, texts in enumerate(rows):
            for col, text in enumerate(texts):
                counts += _count(text, cells.get((row, col)))
    return counts


def _count(text: str, cell: Cell | None) -> Counts:
    numbers = [word for word in text.split() if any(character.isdigit() for character in word)]
    found = cell.text.split() if cell is not None else []
    is_flagged = cell is not None and cell.uncertain
    right = 0
    for number in numbers:
        if number in found:
            found.remove(number)
            right += 1
    wrong = len(numbers) - right
    return Counts(right, right * is_flagged, wrong, wrong * is_flagged)
