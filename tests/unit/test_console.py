"""The console's parts: ranges, plots, pages drawn from words, waterfalls, names of things, uploads in parts."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import pytest

from services.console import wording
from services.console.page_image import draw_page, page_image
from services.console.partials import MOST_OF_A_USER, Partials
from services.console.plots import HEIGHT, expected, plots_of
from services.console.waterfall import SCALE, waterfall
from services.ocr.scan.policy import FindingKind
from shared.contract.findings import Assertion, AttributeName, Kind, Subject
from shared.contract.pages import Correction
from shared.storage import LocalStorage


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("115 - 165", (115, 165)),
        ("3.5–5.1", (3.5, 5.1)),
        ("0 to 5", (0, 5)),
        ("< 5.0", (None, 5.0)),
        ("under 14", (None, 14)),
        ("over 60", (60, None)),
        ("> 60", (60, None)),
        ("negative", (None, None)),
        (None, (None, None)),
    ],
)
def test_a_reference_range_is_understood(text: str | None, bounds: tuple[float | None, float | None]) -> None:
    assert expected(text) == bounds


def result(value: float, day: str | None, **changes: Any) -> dict[str, Any]:
    return {
        "text": "Potassium", "unit": "mmol/L", "value_number": value, "observed_on": day,
        "reference_range": "3.5 - 5.1", **changes,
    }  # fmt: skip


def test_points_lie_in_the_order_of_their_days_and_what_is_outside_says_so() -> None:
    (plot,) = plots_of([result(5.9, "2024-03-09"), result(4.1, "2023"), result(4.4, "2024-01")])
    assert [point.value for point in plot.points] == [4.1, 4.4, 5.9]
    assert [point.is_outside for point in plot.points] == [False, False, True]
    assert plot.points[0].x < plot.points[1].x < plot.points[2].x
    assert plot.band is not None
    top, bottom = plot.band
    assert 0 <= plot.points[2].y < top < plot.points[1].y < plot.points[0].y < bottom <= HEIGHT


def test_other_units_are_another_plot_and_a_value_told_twice_is_one_point() -> None:
    plots = plots_of([result(4.1, "2024-01-01"), result(4.1, "2024-01-01"), result(4.2, None, unit="mg/L")])
    assert {(plot.unit, len(plot.points)) for plot in plots} == {("mmol/L", 1), ("mg/L", 1)}


def test_what_is_outside_its_range_comes_first_and_what_has_no_drawing_last() -> None:
    plots = plots_of([
        result(60, None, text="Height", reference_range=None), result(4.4, None, text="Potassium"),
        result(138, None, text="Sodium", reference_range="133 - 146"), result(31, None, text="CRP"),
    ])  # fmt: skip
    assert [plot.name for plot in plots] == ["CRP", "Potassium", "Sodium", "Height"]


def test_a_page_drawn_from_words_is_well_formed_whatever_they_are() -> None:
    words = [
        {"text": text, "box": [10.0, 10.0, 50.0, 20.0], "confidence": 1, "start": 0, "end": 1}
        for text in ("<script>", "a&b", '"quoted"', "bell\x07", "ä ß")
    ]
    root = ElementTree.fromstring(draw_page({"width": 100, "height": 200, "words": words}))
    assert [element.text for element in root if element.tag.endswith("text")] == [
        "<script>", "a&b", '"quoted"', "bell", "ä ß",
    ]  # fmt: skip


async def test_the_image_that_ocr_kept_is_shown_and_nothing_else_that_lies_there(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    page = {"width": 100, "height": 200, "words": [], "image_path": "patient/pages/1"}
    for content, media_type in (
        (b"\x89PNG\r\n\x1a\nrest", "image/png"),
        (b"\xff\xd8\xffrest", "image/jpeg"),
        (b"<html><script>", "image/svg+xml"),
    ):
        (tmp_path / "patient" / "pages").mkdir(parents=True, exist_ok=True)
        (tmp_path / "patient" / "pages" / "1").write_bytes(content)
        found, chunks = await page_image(storage.stream, page)
        assert found == media_type
        assert (b"".join([chunk async for chunk in chunks]) == content) is (media_type != "image/svg+xml")


def test_the_waterfall_has_a_bar_for_every_attempt_within_the_whole() -> None:
    start = datetime(2026, 11, 24, tzinfo=UTC)

    def at(seconds: float) -> datetime:
        return start + timedelta(seconds=seconds)

    failed = {"kind": "transient", "code": "busy", "started_at": at(1), "occurred_at": at(3)}
    job = {
        "job_type": "ocr", "job_category": "fast", "status": "completed", "created_at": at(0), "started_at": at(5),
        "completed_at": at(10), "errors": [failed],
    }  # fmt: skip
    drawn = waterfall([job], start, at(20))
    assert drawn["seconds"] == 10
    assert [(row["outcome"], row["waited_s"], row["worked_s"]) for row in drawn["rows"]] == [
        ("transient", 1, 2), ("completed", 2, 5),
    ]  # fmt: skip
    assert all(row["worked_x"] + row["worked_width"] <= SCALE for row in drawn["rows"])
    assert waterfall([], start, at(20)) == {"rows": [], "seconds": 0.0}


@pytest.mark.parametrize(
    ("value", "said"),
    [("2024-03-09", "9 Mar 2024"), ("2024-03", "Mar 2024"), ("2024", "2024"), (None, ""), ("in May", "in May")],
)
def test_a_date_is_said_to_the_precision_that_is_known(value: str | None, said: str) -> None:
    assert wording.partial_date(value) == said


@pytest.mark.parametrize(
    ("named", "written"),
    [
        (wording.FILE_FINDINGS, FindingKind), (wording.CORRECTIONS, Correction),
        (wording.ASSERTIONS, Assertion), (wording.SUBJECTS, Subject), (wording.KINDS, Kind),
        (wording.ATTRIBUTES, AttributeName),
    ],
)  # fmt: skip
def test_whatever_the_pipeline_writes_has_a_name_on_the_pages(named: dict[str, object], written: object) -> None:
    assert set(named) == set(get_args(written))


async def test_a_line_that_died_writes_nothing_more_once_its_client_came_again() -> None:
    partial = Partials().open("user", "upload")
    took_over = asyncio.Event()

    async def of_the_dead_line() -> AsyncIterator[bytes]:
        yield b"ab"
        await took_over.wait()
        yield b"cd"

    async def of_the_new_line() -> AsyncIterator[bytes]:
        yield b"cd"
        took_over.set()

    dead = asyncio.create_task(partial.append(of_the_dead_line(), most=4))
    while partial.received < 2:
        await asyncio.sleep(0)
    assert await partial.append(of_the_new_line(), most=4)
    assert not await dead
    assert partial.received == 4
    partial.file.seek(0)
    assert partial.file.read() == b"abcd"


def test_a_user_has_so_many_uploads_under_way_and_the_oldest_goes() -> None:
    partials = Partials()
    first = partials.open("user", "0")
    for number in range(1, MOST_OF_A_USER + 1):
        partials.open("user", str(number))
    assert first.file.closed
    assert partials.open("user", "1") is partials.open("user", "1")
    assert partials.open("another", "0").received == 0
