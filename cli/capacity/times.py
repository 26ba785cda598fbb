"""How long one job takes where nothing holds it up: seconds of a core, and questions to a model."""

import itertools
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from statistics import fmean, median
from typing import NamedTuple

from pydantic import Field, ValidationError

from shared.contract.base import Row
from shared.errors import ConfigurationError

from .workload import Document

STEPS = ("ocr", "ai_detect", "ai_enrich", "ai_narrate", "persist")
"""A document's way. What is simulated is this pipeline; a new step wants a time of its own here."""
QUESTIONS_AT_ONCE = 4
"""Of one job to a model (services/ai/passes.py): five pages are two rounds of questions."""
SPREAD = 100
"""A job's own part in the spread is drawn from so many quantiles."""
LEAST_JOBS = 3


class PerPage(Row):
    """Seconds of a document: ``fixed``, ``scan`` more where it has scanned pages, and so many for each page."""

    fixed: float = Field(default=0.0, ge=0)
    scan: float = Field(default=0.0, ge=0)
    digital_page: float = Field(default=0.0, ge=0)
    scanned_page: float = Field(default=0.0, ge=0)

    def of(self, document: Document) -> float:
        weights = (self.fixed, self.scan, self.digital_page, self.scanned_page)
        return sum(weight * column for weight, column in zip(weights, _columns(document), strict=True))


def _columns(document: Document) -> tuple[float, float, float, float]:
    """What the seconds of a ``PerPage`` are multiplied by."""
    is_scan = document.scanned_pages > 0
    return (1.0, float(is_scan), float(document.digital_pages), float(document.scanned_pages))


class Questions(Row):
    """What a job asks a model: tokens are those of one question, in and out."""

    answer_s: float = Field(ge=0)
    a_document: float = Field(default=0.0, ge=0)
    a_page: float = Field(default=0.0, ge=0)
    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)

    def count(self, document: Document) -> int:
        return math.ceil(self.a_document + self.a_page * document.pages - 1e-9)

    def seconds(self, document: Document) -> float:
        return self.answer_s * math.ceil(self.count(document) / QUESTIONS_AT_ONCE)


class StepTime(Row):
    """One job of a step. ``spread`` is measured / expected, one value for each equal share of the jobs."""

    core_s: PerPage
    model: Questions | None = None
    spread: tuple[float, ...] = (1.0,)


class Times(Row):
    """All steps. ``pick_up_s`` passes from a job's end until the same hand has the next, where one waits."""

    note: str
    pick_up_s: float = Field(ge=0)
    transactions_a_document: float = Field(ge=0)
    transactions_a_second_idle: float = Field(ge=0)
    """Of one process that has nothing to do."""
    steps: dict[str, StepTime]

    def with_answers_after(self, seconds: float) -> "Times":
        """The same where the model takes so long for an answer. A step that asks no model stays as it is."""
        return self.model_copy(
            update={
                "steps": {
                    name: step.model_copy(update={"model": step.model.model_copy(update={"answer_s": seconds})})
                    if step.model
                    else step
                    for name, step in self.steps.items()
                }
            }
        )


def reference() -> Times:
    """The times that come with Chartloom; their note says what they were measured on."""
    return Times.model_validate_json(resources.files("cli.capacity").joinpath("reference.json").read_text("utf-8"))


def read(path: Path) -> Times:
    """Times of a file, as ``--save-times`` writes it. Raises ConfigurationError."""
    try:
        times = Times.model_validate_json(path.read_text("utf-8"))
    except (OSError, ValidationError) as error:
        raise ConfigurationError(
            "times_unreadable", f"--times {path}: no file of service times ({type(error).__name__})."
        ) from None
    if missing := [step for step in STEPS if step not in times.steps]:
        raise ConfigurationError("times_incomplete", f"--times {path}: no times of {', '.join(missing)}.")
    return times


# -- from finished jobs -----------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """A finished job: ``seconds`` from its claim to its end. ``requests`` and tokens are a remote model's, else 0."""

    step: str
    worker_id: str
    created_at: float
    started_at: float
    completed_at: float
    document: Document
    requests: int
    input_tokens: int
    output_tokens: int

    @property
    def seconds(self) -> float:
        return self.completed_at - self.started_at


def of_jobs(jobs: Sequence[Job], known: Times, *, note: str) -> Times:
    """Times fitted to finished jobs. What jobs don't tell is taken from ``known``: the core's part of a model's job.

    Raises ConfigurationError where a step has too few jobs.
    """
    steps = {}
    for name in STEPS:
        of_step = [job for job in jobs if job.step == name]
        if len(of_step) < LEAST_JOBS:
            raise ConfigurationError(
                "times_too_few", f"Only {len(of_step)} finished jobs of {name}: process some documents first."
            )
        asks = sum(job.requests for job in of_step) > 0
        steps[name] = _asking(of_step, known.steps[name]) if asks else _working(of_step)
    return known.model_copy(update={"note": note, "steps": steps, "pick_up_s": _pick_up(jobs, known.pick_up_s)})


def _working(jobs: Sequence[Job]) -> StepTime:
    core_s = fitted([(job.document, job.seconds) for job in jobs])
    return StepTime(core_s=core_s, spread=_spread([(job.seconds, core_s.of(job.document)) for job in jobs]))


def _asking(jobs: Sequence[Job], known: StepTime) -> StepTime:
    pages = sum(job.document.pages for job in jobs)
    requests = sum(job.requests for job in jobs)
    # Pass 3 asks about the document as a whole.
    by_page = jobs[0].step != "ai_narrate"
    rounds = [math.ceil(job.requests / QUESTIONS_AT_ONCE) for job in jobs]
    waited = sum(max(job.seconds - known.core_s.of(job.document), 0.0) for job in jobs)
    model = Questions(
        answer_s=waited / sum(rounds),
        a_page=requests / pages if by_page else 0.0,
        a_document=0.0 if by_page else requests / len(jobs),
        input_tokens=round(sum(job.input_tokens for job in jobs) / requests),
        output_tokens=round(sum(job.output_tokens for job in jobs) / requests),
    )
    expected = [known.core_s.of(job.document) + model.answer_s * turns for job, turns in zip(jobs, rounds, strict=True)]
    spread = _spread(list(zip((job.seconds for job in jobs), expected, strict=True)))
    return StepTime(core_s=known.core_s, model=model, spread=spread)


def fitted(measured: Sequence[tuple[Document, float]]) -> PerPage:
    """Least squares without negative times: of all choices of columns that have a solution, the one nearest to it."""
    rows = [(_columns(document), seconds) for document, seconds in measured]
    best: tuple[float, tuple[float, ...]] = (math.inf, (0.0,) * 4)
    for size in (1, 2, 3, 4):
        for chosen in itertools.combinations(range(4), size):
            solved = _solve(rows, chosen)
            if solved is None or min(solved) < 0:
                continue
            error = sum((sum(a * b for a, b in zip(row, solved, strict=True)) - y) ** 2 for row, y in rows)
            # A column more has to earn its place.
            if error < best[0] * (1 - 1e-6):
                best = (error, solved)
    fixed, scan, digital_page, scanned_page = best[1]
    return PerPage(fixed=fixed, scan=scan, digital_page=digital_page, scanned_page=scanned_page)


def _solve(rows: Sequence[tuple[tuple[float, ...], float]], chosen: tuple[int, ...]) -> tuple[float, ...] | None:
    """The normal equations of the chosen columns, by Gauss; None where they do not tell the columns apart."""
    size = len(chosen)
    matrix = [
        [sum(row[i] * row[j] for row, _ in rows) for j in chosen] + [sum(row[i] * y for row, y in rows)] for i in chosen
    ]
    for place in range(size):
        pivot = max(range(place, size), key=lambda line: abs(matrix[line][place]))
        matrix[place], matrix[pivot] = matrix[pivot], matrix[place]
        if abs(matrix[place][place]) < 1e-9 * len(rows):
            return None
        for line in range(size):
            if line != place:
                share = matrix[line][place] / matrix[place][place]
                matrix[line] = [a - share * b for a, b in zip(matrix[line], matrix[place], strict=True)]
    values = [0.0] * 4
    for place, column in enumerate(chosen):
        values[column] = matrix[place][size] / matrix[place][place]
    return tuple(values)


def _spread(pairs: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """Measured / expected, in order, no more than SPREAD of them, with a mean that leaves the sum as it is."""
    ratios = sorted(seconds / expected for seconds, expected in pairs if expected > 0) or [1.0]
    if len(ratios) > SPREAD:
        ratios = [ratios[int((place + 0.5) * len(ratios) / SPREAD)] for place in range(SPREAD)]
    scale = sum(seconds for seconds, _ in pairs) / (sum(expected for _, expected in pairs) * fmean(ratios) or 1.0)
    return tuple(round(ratio * scale, 4) for ratio in ratios)


def _pick_up(jobs: Sequence[Job], known: float) -> float:
    """The median pause of a worker between a job's end and the claim of one that already waited then."""
    pauses = []
    workers: dict[str, list[Job]] = {}
    for job in jobs:
        workers.setdefault(job.worker_id, []).append(job)
    for own in workers.values():
        ends = sorted(job.completed_at for job in own)
        place = -1
        for job in sorted(own, key=lambda one: one.started_at):
            while place + 1 < len(ends) and ends[place + 1] <= job.started_at:
                place += 1
            if place >= 0 and job.created_at < ends[place]:
                pauses.append(job.started_at - ends[place])
    return median(pauses) if len(pauses) >= LEAST_JOBS else known
