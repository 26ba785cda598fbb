"""Signing in and out."""

import secrets

from aiohttp import web

from services.console.sessions import Limit, LocalSignIn, SignInRefusedError, Tokens
from shared.errors import BusyError

from .base import COOKIES, SIGN_IN, USER, go_to, show

TRIES = web.AppKey("sign_in_tries", Limit)


async def form(request: web.Request) -> web.StreamResponse:
    if USER in request:
        return go_to("/")
    return show(request, "sign_in.html", problem=None)


async def with_password(request: web.Request) -> web.StreamResponse:
    sign_in = request.app[SIGN_IN]
    if isinstance(sign_in, LocalSignIn):
        raise web.HTTPNotFound
    fields = await request.post()
    email, password = str(fields.get("email", "")), str(fields.get("password", ""))
    try:
        request.app[TRIES].take(email.lower())
        return _signed_in(request, await sign_in.sign_in(email, password))
    except (SignInRefusedError, BusyError) as error:
        return show(request, "sign_in.html", problem=error.message, status=401)


async def with_key(request: web.Request) -> web.StreamResponse:
    """The address that ``chartloom up`` prints. There is none where Supabase is."""
    sign_in = request.app[SIGN_IN]
    if not isinstance(sign_in, LocalSignIn):
        raise web.HTTPNotFound
    try:
        return _signed_in(request, sign_in.sign_in(request.query.get("key", "")))
    except SignInRefusedError as error:
        return show(request, "sign_in.html", problem=error.message, status=401)


async def out(request: web.Request) -> web.StreamResponse:
    response = go_to("/sign-in")
    request.app[COOKIES].drop(response)
    return response


def _signed_in(request: web.Request, tokens: Tokens) -> web.StreamResponse:
    response = go_to("/")
    cookies = request.app[COOKIES]
    cookies.keep(response, tokens)
    cookies.keep_csrf(response, secrets.token_urlsafe(32))
    return response


def add_routes(app: web.Application) -> None:
    app[TRIES] = Limit(10)
    app.router.add_get("/sign-in", form)
    app.router.add_post("/sign-in", with_password)
    app.router.add_get("/sign-in/local", with_key)
    app.router.add_post("/sign-out", out)
