"""Whose records there are, and a new one."""

from datetime import date

from aiohttp import web

from services.console.reviews import WAITING

from .base import USER, go_to, rights_of, show

_RECORDS = f"""
select p.id, p.display_name, p.birth_date, p.created_at, p.owner_user_id = $1 as is_own,
    (select count(*) from public.shell_files as f where f.patient_id = p.id) as documents,
    (select max(f.created_at) from public.shell_files as f where f.patient_id = p.id) as latest,
    (select count(*) from public.finding_reviews as r where r.patient_id = p.id and {WAITING}) as waiting
from public.user_profiles as p
order by latest desc nulls last, p.created_at desc limit 200
"""  # noqa: S608 - a constant


async def records(request: web.Request) -> web.StreamResponse:
    return await _show(request, problem=None)


async def create(request: web.Request) -> web.StreamResponse:
    fields = await request.post()
    name = " ".join(str(fields.get("name", "")).split())
    born = str(fields.get("born", ""))
    if not 1 <= len(name) <= 200:
        return await _show(request, problem="Say whose record it is: a name of at most 200 characters.")
    try:
        birth_date = date.fromisoformat(born) if born else None
    except ValueError:
        return await _show(request, problem="The date of birth is no date: write it as 1970-12-31.")
    async with rights_of(request) as connection:
        patient_id = await connection.fetchval(
            "insert into public.user_profiles (owner_user_id, display_name, birth_date) values ($1, $2, $3) "
            "returning id",
            request[USER].user_id,
            name,
            birth_date,
        )
    return go_to(f"/records/{patient_id}/documents")


async def _show(request: web.Request, *, problem: str | None) -> web.Response:
    async with rights_of(request) as connection:
        rows = await connection.fetch(_RECORDS, request[USER].user_id)
    return show(request, "records.html", records=rows, problem=problem, status=400 if problem else 200)


def add_routes(app: web.Application) -> None:
    app.router.add_get("/", records)
    app.router.add_post("/records", create)
