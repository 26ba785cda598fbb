"""A document's facts and pages, as the source view and the review show them; read with the user's own rights."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg

Fact = dict[str, Any]
Page = dict[str, Any]

UNSURE = 0.6
"""A word that was recognised with less confidence is marked."""

FACT = """
select e.id, e.finding_key, e.shell_file_id, e.kind, e.label, e.text, e.assertion, e.subject, e.attributes, e.codes,
    e.page, e.char_start, e.char_end, e.quote, e.boxes, e.alignment, e.provider, e.model, e.prompt_version, e.review,
    e.superseded_at, e.as_found, e.uncertain, (
        select r.reason from public.finding_reviews as r where r.finding_key = e.finding_key and r.status = 'waiting'
    ) as waits_for
from public.patient_clinical_events as e
"""
# Of the current run, with what doesn't count: what was dismissed, and all of a document that may be somebody else's.
_FACTS_OF_PAGE = f"""
{FACT} where e.shell_file_id = $1 and e.page = $2 and e.superseded_by_run_id is null
order by e.char_start, e.char_end, e.id
"""
_PAGE = """
select to_jsonb(p) as page from public.ocr_pages as p
where p.shell_file_id = $1 and p.page = $2 order by p.created_at desc limit 1
"""


async def read_page(connection: asyncpg.pool.PoolConnectionProxy, shell_file_id: UUID, number: int) -> Page | None:
    page: Page | None = await connection.fetchval(_PAGE, shell_file_id, number)
    return page


async def facts_of_page(connection: asyncpg.pool.PoolConnectionProxy, shell_file_id: UUID, number: int) -> list[Fact]:
    return [dict(row) for row in await connection.fetch(_FACTS_OF_PAGE, shell_file_id, number)]


def confidence(page: Page, start: int, end: int) -> float | None:
    """That of the least certain of the words."""
    return min((word["confidence"] for word in words_between(page, start, end)), default=None)


def words_between(page: Page, start: int, end: int) -> Sequence[dict[str, Any]]:
    return [word for word in page["words"] if word["start"] < end and word["end"] > start]


def boxes_between(page: Page, start: int, end: int) -> list[list[float]]:
    """One box a line, as a finding has them."""
    boxes: list[list[float]] = []
    for word in words_between(page, start, end):
        x0, y0, x1, y1 = word["box"]
        if boxes and boxes[-1][1] < (y0 + y1) / 2 < boxes[-1][3]:
            left, top, right, bottom = boxes[-1]
            boxes[-1] = [min(left, x0), min(top, y0), max(right, x1), max(bottom, y1)]
        else:
            boxes.append([x0, y0, x1, y1])
    return boxes


def is_unsure(word: dict[str, Any]) -> bool:
    return bool(word.get("uncertain")) or word["confidence"] < UNSURE


def is_unsure_fact(fact: Fact, page: Page) -> bool:
    """Until a person has looked: the reading of its words is not certain, or of what is said of it."""
    if fact["review"] is not None:
        return False
    if fact["uncertain"] or any(said.get("uncertain") for said in fact["attributes"].values()):
        return True
    return (confidence(page, fact["char_start"], fact["char_end"]) or 1) < UNSURE


def crop(page: Page, boxes: Sequence[Sequence[float]]) -> tuple[float, float, float, float] | None:
    """The part of the page around the words, legible on a phone: x, y, width, height."""
    if not boxes:
        return None
    left = min(box[0] for box in boxes)
    right = max(box[2] for box in boxes)
    width = min(max((right - left) * 1.2, page["width"] * 0.45), page["width"])
    x = min(max((left + right) / 2 - width / 2, 0), page["width"] - width)
    top = min(box[1] for box in boxes)
    bottom = max(box[3] for box in boxes)
    height = max((bottom - top) * 4, width / 6)
    y = min(max((top + bottom) / 2 - height / 2, 0), max(page["height"] - height, 0))
    return (x, y, width, min(height, page["height"]))
