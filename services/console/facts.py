"""A document's facts and pages, as the source view and the review show them; read with the user's own rights."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg

Fact = dict[str, Any]
Page = dict[str, Any]

UNSURE = 0.6
"""A word that was recognised with less confidence is marked."""

_FACT = """
select e.id, e.finding_key, e.shell_file_id, e.kind, e.label, e.text, e.assertion, e.subject, e.attributes, e.codes,
    e.page, e.char_start, e.char_end, e.quote, e.boxes, e.alignment, e.provider, e.model, e.prompt_version, e.review,
    e.superseded_at, e.as_found, coalesce((to_jsonb(e) ->> 'uncertain')::boolean, false) as uncertain
from public.patient_clinical_events as e
"""
_FACTS_OF_PAGE = f"""
{_FACT} where e.shell_file_id = $1 and e.page = $2 and e.superseded_by_run_id is null
    and (e.superseded_at is null or e.review = 'dismissed')
order by e.char_start, e.char_end, e.id
"""
# The rows as JSON: columns that a later release adds (tables, image_path) are there or are not.
_PAGE = """
select to_jsonb(p) as page from public.ocr_pages as p
where p.shell_file_id = $1 and p.page = $2 order by p.created_at desc limit 1
"""
_REVIEWS = """
select r.finding_key, r.shell_file_id, r.reason, r.claim, r.status, f.file_name
from public.finding_reviews as r join public.shell_files as f on f.id = r.shell_file_id
where r.patient_id = $1 and r.status = 'waiting'
order by r.created_at, r.finding_key limit 100
"""


async def read_page(connection: asyncpg.pool.PoolConnectionProxy, shell_file_id: UUID, number: int) -> Page | None:
    page: Page | None = await connection.fetchval(_PAGE, shell_file_id, number)
    return page


async def facts_of_page(connection: asyncpg.pool.PoolConnectionProxy, shell_file_id: UUID, number: int) -> list[Fact]:
    return [dict(row) for row in await connection.fetch(_FACTS_OF_PAGE, shell_file_id, number)]


async def waiting_reviews(connection: asyncpg.pool.PoolConnectionProxy, patient_id: UUID) -> list[dict[str, Any]]:
    """What waits for a person, each with its fact where there is one and the page that it is on."""
    reviews = [dict(row) for row in await connection.fetch(_REVIEWS, patient_id)]
    keys = [review["finding_key"] for review in reviews]
    facts = {
        row["finding_key"]: dict(row)
        for row in await connection.fetch(
            f"{_FACT} where e.finding_key = any($1) and e.superseded_by_run_id is null", keys
        )
    }
    pages: dict[tuple[UUID, int], Page | None] = {}
    for review in reviews:
        fact = review["fact"] = facts.get(review["finding_key"])
        number: int = fact["page"] if fact else (review["claim"] or {}).get("page") or 0
        place: tuple[UUID, int] = (review["shell_file_id"], number)
        if place not in pages:
            pages[place] = await read_page(connection, *place) if number else None
        review["page"] = pages[place]
        review["crop"] = crop(review["page"], fact["boxes"]) if fact and review["page"] else None
    return reviews


def confidence(page: Page, start: int, end: int) -> float | None:
    """That of the least certain of the words."""
    return min((word["confidence"] for word in words_between(page, start, end)), default=None)


def words_between(page: Page, start: int, end: int) -> Sequence[dict[str, Any]]:
    return [word for word in page["words"] if word["start"] < end and word["end"] > start]


def is_unsure(word: dict[str, Any]) -> bool:
    return bool(word.get("uncertain")) or word["confidence"] < UNSURE


def crop(page: Page, boxes: Sequence[Sequence[float]]) -> tuple[float, float, float, float] | None:
    """The part of the page around the words, legible on a phone: x, y, width, height."""
    if not boxes:
        return None
    left = min(box[0] for box in boxes)
    right = max(box[2] for box in boxes)
    width = min(max((right - left) * 1.2, page["width"] * 0.6), page["width"])
    x = min(max((left + right) / 2 - width / 2, 0), page["width"] - width)
    top = min(box[1] for box in boxes)
    bottom = max(box[3] for box in boxes)
    height = max((bottom - top) * 4, width / 6)
    y = min(max((top + bottom) / 2 - height / 2, 0), max(page["height"] - height, 0))
    return (x, y, width, min(height, page["height"]))
