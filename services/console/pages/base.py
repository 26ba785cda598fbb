"""What every page has in common: whose it is, its rights, its frame."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
from aiohttp import web

from services.console.feed import Feed
from services.console.files import Files
from services.console.partials import Partials
from services.console.rendering import Renderer
from services.console.reviews import WAITING
from services.console.sessions import Cookies, Limit, LocalSignIn, SupabaseSignIn, is_operator
from services.console.settings import ConsoleSettings
from shared.auth import User, as_user

SETTINGS = web.AppKey("settings", ConsoleSettings)
POOL = web.AppKey("pool", asyncpg.Pool)
FILES: web.AppKey[Files] = web.AppKey("files")
PARTIALS = web.AppKey("partials", Partials)
FEED = web.AppKey("feed", Feed)
RENDERER = web.AppKey("renderer", Renderer)
SIGN_IN: web.AppKey[LocalSignIn | SupabaseSignIn] = web.AppKey("sign_in")
COOKIES = web.AppKey("cookies", Cookies)
UPLOADS = web.AppKey("uploads", Limit)

USER = web.RequestKey("user", User)
TOKEN = web.RequestKey("token", str)
"""The user's own, for what is asked of Supabase in their name."""
CSRF = web.RequestKey("csrf", str)

OPERATOR = "chartloom_operator"


def not_found() -> web.HTTPNotFound:
    """The one answer for what is not there and for what is somebody else's."""
    return web.HTTPNotFound()


def go_to(address: str) -> web.Response:
    """As an answer, not as an exception: cookies can go with it."""
    return web.Response(status=303, headers={"Location": address})


def id_of(request: web.Request, name: str) -> UUID:
    try:
        return UUID(request.match_info[name])
    except ValueError:
        raise not_found() from None


def number_of(request: web.Request, name: str, *, most: int) -> int:
    text = request.match_info[name]
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise not_found()
    return int(text)


@asynccontextmanager
async def rights_of(request: web.Request) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
    """A transaction with the rights of whoever asks."""
    async with as_user(request.app[POOL], request[USER]) as connection:
        yield connection


@asynccontextmanager
async def operator_rights(request: web.Request) -> AsyncIterator[asyncpg.pool.PoolConnectionProxy]:
    """A transaction as an operator, who sees the queue and no patient's row. 404 for anybody else."""
    if not is_operator(request[USER]):
        raise not_found()
    async with as_user(request.app[POOL], request[USER]) as connection:
        await connection.execute(f"set local role {OPERATOR}")
        yield connection


async def read_patient(connection: asyncpg.pool.PoolConnectionProxy, patient_id: UUID) -> dict[str, Any]:
    """The profile with what stands on its tabs. 404 where it is nobody's that asks."""
    row = await connection.fetchrow(
        f"""
        select p.id, p.display_name, p.birth_date, chartloom.has_profile_access(p.id, 'write') as may_write,
            (select count(*) from public.shell_files as f where f.patient_id = p.id) as documents,
            (select count(*) from public.finding_reviews as r where r.patient_id = p.id and {WAITING}) as waiting,
            (
                select count(*) from public.finding_reviews as r
                where r.patient_id = p.id and r.reason = 'other_person' and r.status = 'waiting'
            ) as held
        from public.user_profiles as p where p.id = $1
        """,  # noqa: S608 - a constant
        patient_id,
    )
    if row is None:
        raise not_found()
    return dict(row)


def show(request: web.Request, template: str, *, status: int = 200, **context: Any) -> web.Response:
    """A page. Its title says what it is, never whose."""
    user = request.get(USER)
    html = request.app[RENDERER].page(
        template,
        csrf=request.get(CSRF, ""),
        signed_in=user is not None,
        may_operate=user is not None and is_operator(user),
        is_local=request.app[SIGN_IN].is_local,
        path=request.path,
        **context,
    )
    return web.Response(text=html, content_type="text/html", status=status)
