"""Characters of three letters, read wrongly: at three resolutions, from four states of the paper."""

import difflib

from bench.queue.ground import Ground
from bench.report import Measurement, measured

from .damage import KINDS
from .reading import Task, make, of_all, read

LETTERS = (1, 2, 3)
"""Helvetica, Times and Vera have a turn each; thresholds were set on other letters."""
AT_MOST = {
    (300, "clean"): 0.2,
    (300, "scan"): 0.2,
    (300, "photo"): 0.2,
    (300, "noisy"): 0.2,
    (200, "clean"): 0.2,
    (200, "scan"): 0.2,
    (200, "photo"): 0.2,
    (200, "noisy"): 1.5,
    (150, "clean"): 3.0,
    (150, "scan"): 3.0,
    (150, "photo"): 3.0,
    (150, "noisy"): 3.0,
}
"""Percent."""


async def measure(ground: Ground) -> list[Measurement]:
    ground.progress("prose")
    tasks = [Task("letter", letter, dpi, damage) for dpi, damage in AT_MOST for letter in LETTERS]
    wrong = dict(zip(tasks, await of_all(characters_wrong, tasks), strict=True))
    return [
        measured(
            f"prose: characters wrong, {damage} at {dpi} dpi",
            [_together([wrong[Task("letter", letter, dpi, damage)] for letter in LETTERS])],
            "%",
            at_most=AT_MOST[dpi, damage],
        )
        for dpi in (300, 200, 150)
        for damage in KINDS
    ]


def characters_wrong(task: Task) -> tuple[int, int]:
    """Insertions, deletions and changes, and of how many characters. White space counts as one space."""
    said, read_as = make(task).text, " ".join(read(task).text.split())
    return distance(read_as, said), len(said)


def distance(found: str, truth: str) -> int:
    """Levenshtein's, over what is left between the runs that agree: a page whole would take minutes."""
    total = 0
    matcher = difflib.SequenceMatcher(None, found, truth, autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        if tag != "equal":
            total += _levenshtein(found[a:b], truth[c:d])
    return total


def _levenshtein(one: str, other: str) -> int:
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def _together(counts: list[tuple[int, int]]) -> float:
    wrong, characters = map(sum, zip(*counts, strict=True))
    return 100 * wrong / characters
