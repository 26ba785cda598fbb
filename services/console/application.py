"""The web application: routes, and what holds for every request."""

import contextlib
import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import asyncpg
import structlog
from aiohttp import hdrs, web

from shared.auth import TokenRefusedError
from shared.database import CONNECTION_ERRORS
from shared.logs import describe_error

from .feed import Feed
from .files import Files
from .pages import documents, operations, record, records, review, sign_in, source, uploads
from .pages.base import (
    COOKIES,
    CSRF,
    FEED,
    FILES,
    PARTIALS,
    POOL,
    RENDERER,
    SETTINGS,
    SIGN_IN,
    TOKEN,
    UPLOADS,
    USER,
    go_to,
    show,
)  # fmt: skip
from .partials import Partials
from .rendering import STATIC, Renderer
from .sessions import Cookies, Limit, SignInRefusedError, Tokens, open_sign_in
from .settings import LOOPBACK, ConsoleSettings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

RENEWED = web.RequestKey("renewed", Tokens)
"""What goes to the browser with whatever the answer is."""

FORM_BYTES = 64 * 1024
"""Of anything but an upload, which is streamed."""
KEPT_SECONDS = 365 * 24 * 3600
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "geolocation=(), microphone=(), payment=()",
}
OPEN_PATHS = ("/sign-in", "/sign-in/local", "/livez", "/readyz")
"""And /static/: all that a stranger may see."""


def make_application(
    settings: ConsoleSettings, *, pool: asyncpg.Pool, files: Files, renderer: Renderer, feed: Feed
) -> web.Application:
    app = web.Application(
        middlewares=[_with_answers, _for_this_host, _with_user, _with_csrf], client_max_size=FORM_BYTES
    )
    app[SETTINGS] = settings
    app[POOL] = pool
    app[FILES] = files
    app[PARTIALS] = Partials()
    app[RENDERER] = renderer
    app[FEED] = feed
    app[SIGN_IN] = open_sign_in(settings)
    app[COOKIES] = Cookies(is_local=app[SIGN_IN].is_local)
    app[UPLOADS] = Limit(settings.console_uploads_per_minute)
    app.on_response_prepare.append(_add_headers)
    app.on_cleanup.append(_close_files)
    for pages in (sign_in, records, record, documents, uploads, source, review, operations):
        pages.add_routes(app)
    app.router.add_static("/static/", STATIC)
    app.router.add_get("/livez", _probe(feed.live))
    app.router.add_get("/readyz", _probe(feed.ready))
    return app


async def _close_files(app: web.Application) -> None:
    await app[FILES].close()


def _probe(check: Callable[[], str | None]) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n") if check() is None else web.Response(text="not ready\n", status=503)

    return answer


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """On every answer, streams and refusals among them."""
    response.headers.update(HEADERS)
    if RENEWED in request:
        # An answer's own cookies are written already.
        for cookie in request.app[COOKIES].of(request[RENEWED]):
            response.headers.add(hdrs.SET_COOKIE, cookie)
    if not request.app[SIGN_IN].is_local:
        response.headers["Strict-Transport-Security"] = f"max-age={KEPT_SECONDS}"
    is_versioned = request.path.startswith("/static/") and "v" in request.query and response.status == 200
    # A record is nowhere but on the screen.
    response.headers["Cache-Control"] = f"public, max-age={KEPT_SECONDS}, immutable" if is_versioned else "no-store"


@web.middleware
async def _with_answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever goes wrong is a page that says what to do."""
    try:
        return await handler(request)
    except web.HTTPRedirection:
        raise
    except web.HTTPNotFound:
        return show(
            request, "problem.html", title="There is nothing here", status=404,
            message="It may be gone, or not be yours to see. What you may see starts at your records.",
        )  # fmt: skip
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return show(request, "problem.html", title="That did not work", message=error.reason, status=error.status)
    except CONNECTION_ERRORS as error:
        if isinstance(error, ConnectionResetError):
            raise  # the client has gone
        structlog.get_logger().warning("database_away", **describe_error(error))
        return show(
            request, "problem.html", title="Not just now", status=503,
            message="The database does not answer. Nothing is lost: try again in a moment.",
        )  # fmt: skip
    except Exception as error:
        structlog.get_logger().error("request_failed", **describe_error(error))
        return show(
            request, "problem.html", title="That did not work", status=500,
            message="Something went wrong here. It was noted; try again.",
        )  # fmt: skip


@web.middleware
async def _for_this_host(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The local sign-in answers only under a local name: another site's name that leads here gets nothing."""
    if request.app[SIGN_IN].is_local and urlsplit(f"//{request.host}").hostname not in LOOPBACK:
        raise web.HTTPMisdirectedRequest
    return await handler(request)


@web.middleware
async def _with_user(request: web.Request, handler: Handler) -> web.StreamResponse:
    await _find_user(request)
    if USER not in request and request.path not in OPEN_PATHS and not request.path.startswith("/static/"):
        if request.method == hdrs.METH_GET and "text/html" in request.headers.get("Accept", ""):
            return go_to("/sign-in")
        raise web.HTTPUnauthorized(reason="Sign in again.")
    return await handler(request)


async def _find_user(request: web.Request) -> None:
    """Notes who asks, and new tokens where the old one had expired."""
    sign_in, cookies = request.app[SIGN_IN], request.app[COOKIES]
    with contextlib.suppress(TokenRefusedError):
        token = request.cookies.get(cookies.session, "")
        request[USER], request[TOKEN] = await sign_in.verify(token), token
        return
    refresh = request.cookies.get(cookies.refresh)
    if refresh and not request.path.startswith("/static/"):
        with contextlib.suppress(SignInRefusedError, TokenRefusedError):
            renewed = await sign_in.refresh(refresh)
            request[USER], request[TOKEN] = await sign_in.verify(renewed.access), renewed.access
            request[RENEWED] = renewed


@web.middleware
async def _with_csrf(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A form or a script of ours shows the token of the cookie, which no other site can read or set."""
    cookies = request.app[COOKIES]
    known = request.cookies.get(cookies.csrf, "")
    request[CSRF] = known or secrets.token_urlsafe(32)
    if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
        shown = request.headers.get("X-CSRF-Token")
        if shown is None and request.content_type == "application/x-www-form-urlencoded":
            shown = str((await request.post()).get("csrf", ""))
        if not known or shown is None or not secrets.compare_digest(shown.encode(), known.encode()):
            raise web.HTTPForbidden(reason="This page was open for too long, or came from elsewhere: load it again.")
    response = await handler(request)
    if not known and not response.prepared and response.content_type == "text/html":
        cookies.keep_csrf(response, request[CSRF])
    return response
