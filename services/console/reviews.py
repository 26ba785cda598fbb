"""What waits for a person, as the review shows it; read with the user's own rights."""

from typing import Any
from uuid import UUID

import asyncpg

from .facts import FACT, Fact, Page, boxes_between, crop, read_page

Review = dict[str, Any]

# A document that may be somebody else's is decided on first: until then, and ever after if it is not the patient's,
# nobody needs to look at what it says.
WAITING = """
r.status = 'waiting' and (r.reason = 'other_person' or not exists (
    select from public.finding_reviews as held
    where held.shell_file_id = r.shell_file_id and held.reason = 'other_person'
        and held.status in ('waiting', 'dismissed')
))
"""
_REVIEWS = f"""
select r.finding_key, r.shell_file_id, r.reason, r.claim, r.status, f.file_name
from public.finding_reviews as r join public.shell_files as f on f.id = r.shell_file_id
where r.patient_id = $1 and {WAITING}
order by r.reason <> 'other_person', r.created_at, r.finding_key limit 100
"""  # noqa: S608 - a constant
_IDENTITY = """
select finding_key, reason, claim, status from public.finding_reviews
where shell_file_id = $1 and reason = 'other_person' and status <> 'withdrawn'
"""


async def waiting_reviews(connection: asyncpg.pool.PoolConnectionProxy, patient_id: UUID) -> list[Review]:
    """Each with its fact where there is one, the page that it is on, and the part of it that shows the words."""
    reviews = [dict(row) for row in await connection.fetch(_REVIEWS, patient_id)]
    keys = [review["finding_key"] for review in reviews]
    facts = {
        row["finding_key"]: dict(row)
        for row in await connection.fetch(
            f"{FACT} where e.finding_key = any($1) and e.superseded_by_run_id is null", keys
        )
    }
    pages: dict[tuple[UUID, int], Page | None] = {}
    for review in reviews:
        fact = review["fact"] = facts.get(review["finding_key"])
        number = fact["page"] if fact else _page_of(review)
        place: tuple[UUID, int] = (review["shell_file_id"], number)
        if place not in pages:
            pages[place] = await read_page(connection, *place) if number else None
        page = review["page"] = pages[place]
        review["boxes"] = (fact["boxes"] if fact else _boxes_of(review, page)) if page else []
        review["doubted"] = _doubted_boxes(fact) if fact else []
        review["crop"] = crop(page, [*review["boxes"], *review["doubted"]]) if page else None
    return reviews


async def identity_review(connection: asyncpg.pool.PoolConnectionProxy, shell_file_id: UUID) -> Review | None:
    """Whether the document may be somebody else's, and what was decided; None where nothing speaks for it."""
    row = await connection.fetchrow(_IDENTITY, shell_file_id)
    return dict(row) if row else None


def _places(review: Review) -> list[dict[str, Any]]:
    """Where the words stand that a claim without a fact is about."""
    claim = review["claim"] or {}
    return [claim["place"]] if "place" in claim else claim.get("contradictions", [])


def _page_of(review: Review) -> int:
    places = _places(review)
    return (places[0]["page"] if places else (review["claim"] or {}).get("page")) or 0


def _doubted_boxes(fact: Fact) -> list[list[float]]:
    """Where that of its words stands whose reading is not certain."""
    return [
        box
        for said in fact["attributes"].values()
        if said.get("uncertain") and said["source"]["page"] == fact["page"]
        for box in said["source"]["boxes"]
    ]


def _boxes_of(review: Review, page: Page) -> list[list[float]]:
    return [
        box
        for place in _places(review)
        if place["page"] == page["page"]
        for box in boxes_between(page, place["start"], place["end"])
    ]
