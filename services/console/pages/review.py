"""A person's word on findings: accept, correct, dismiss."""

import re
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
from aiohttp import web

from services.console.facts import read_page
from services.console.reviews import waiting_reviews

from .base import FEED, USER, go_to, id_of, not_found, read_patient, rights_of, show

NUMBER = re.compile(r"-?\d+(?:[.,]\d+)?")
ATTRIBUTES = ("value", "unit", "range", "flag", "dose", "route", "frequency", "time", "severity", "site")
_FINDING = """
select coalesce(e.patient_id, r.patient_id) as patient_id, coalesce(e.shell_file_id, r.shell_file_id) as shell_file_id,
    e.id as event_id, to_jsonb(e) as event, r.claim
from (select $1::uuid as finding_key) as wanted
left join public.patient_clinical_events as e
    on e.finding_key = wanted.finding_key and e.superseded_by_run_id is null
left join public.finding_reviews as r on r.finding_key = wanted.finding_key
where e.id is not null or r.finding_key is not null
"""


class CorrectionRefusedError(Exception):
    """What the form holds is no correction; says what to mend."""


async def waiting(request: web.Request) -> web.StreamResponse:
    patient_id = id_of(request, "patient")
    async with rights_of(request) as connection:
        patient = await read_patient(connection, patient_id)
        reviews = await waiting_reviews(connection, patient_id)
    return show(request, "review.html", patient=patient, tab="review", reviews=reviews)


async def decide(request: web.Request) -> web.StreamResponse:
    """Back to where the form was, or the reason why not."""
    key = id_of(request, "finding")
    fields = {name: str(value) for name, value in (await request.post()).items()}
    async with rights_of(request) as connection:
        finding = await connection.fetchrow(_FINDING, key)
        if finding is None:
            raise not_found()
        try:
            correction = await _correction(connection, finding, fields) if fields.get("decision") == "correct" else None
            async with connection.transaction():
                answer = await connection.fetchval(
                    "select public.review_finding($1, $2, $3)", key, fields.get("decision"), correction
                )
        except CorrectionRefusedError as error:
            return _refused(request, str(error))
        except asyncpg.PostgresError as error:
            if error.sqlstate != "CL005":
                raise
            return _refused(request, str(error.args[0]).removeprefix("correction: ").capitalize() + ".")
    if "error" in answer:
        raise not_found()
    request.app[FEED].touch(request[USER])
    return go_to(_back(fields.get("back", ""), finding["patient_id"]))


async def _correction(
    connection: asyncpg.pool.PoolConnectionProxy, finding: asyncpg.Record, fields: dict[str, str]
) -> dict[str, Any]:
    """What differs from what the row says now: a form sends all of its fields."""
    event: dict[str, Any] = finding["event"] or {"attributes": {}}
    said: dict[str, Any] = {}
    for name in ("text", "kind", "assertion", "subject"):
        value = " ".join(fields.get(name, "").split())
        if value and value != event.get(name):
            said[name] = value
    attributes: dict[str, Any] = {}
    for name in ATTRIBUTES:
        if name not in fields:
            continue
        text = " ".join(fields[name].split())
        before = event["attributes"].get(name)
        if text and (before is None or text != " ".join(before["text"].split())):
            attributes[name] = {"text": text, "normalised": _normalised(name, text)}
        elif not text and before is not None:
            attributes[name] = None
    if attributes:
        said["attributes"] = attributes
    if finding["event_id"] is None:
        said["place"] = await _place(connection, finding, fields)
    if not said:
        raise CorrectionRefusedError("Nothing was changed. Accept it as it is, or say what is wrong.")
    return said


def _normalised(name: str, text: str) -> str | float | None:
    if name == "value" and NUMBER.fullmatch(text):
        return float(text.replace(",", "."))
    if name == "time" and re.fullmatch(r"\d{4}(-\d\d(-\d\d)?)?", text):
        return text
    return None


async def _place(
    connection: asyncpg.pool.PoolConnectionProxy, finding: asyncpg.Record, fields: dict[str, str]
) -> dict[str, int]:
    """Where the words are that the reader copied from the page."""
    claimed = (finding["claim"] or {}).get("place")
    if claimed and fields.get("quote") == claimed["quote"] and fields.get("page") == str(claimed["page"]):
        return {name: claimed[name] for name in ("page", "start", "end")}
    quote, number = " ".join(fields.get("quote", "").split()), fields.get("page", "")
    page = (
        await read_page(connection, finding["shell_file_id"], int(number))
        if number.isdecimal() and len(number) < 7
        else None
    )
    words = [re.escape(word) for word in quote.split()]
    found = re.search(r"\s+".join(words), page["text"], re.IGNORECASE) if page and words else None
    if found is None or page is None:
        raise CorrectionRefusedError("These words are not on that page. Copy them from it as they stand there.")
    return {"page": page["page"], "start": found.start(), "end": found.end()}


def _back(wanted: str, patient_id: UUID) -> str:
    """Only to a page of this console, whatever the form says."""
    parts = urlsplit(wanted)
    is_ours = (
        not parts.scheme and not parts.netloc and parts.path.startswith("/") and not wanted.startswith(("//", "/\\"))
    )
    return wanted if is_ours else f"/records/{patient_id}/review"


def _refused(request: web.Request, message: str) -> web.Response:
    return show(request, "problem.html", title="That can't be kept", message=message, status=400)


def add_routes(app: web.Application) -> None:
    app.router.add_get("/records/{patient}/review", waiting)
    app.router.add_post("/findings/{finding}", decide)
