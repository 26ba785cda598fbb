"""/livez, /readyz and /metrics on $PORT.

Live is the loop: a process whose claim loop stands still should be restarted. Ready is the rest: a database that is
away makes every instance unready, and restarting them all would not bring it back.
"""

from collections.abc import Awaitable, Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

Check = Callable[[], str | None]
"""None when all is well, else the reason in a word or two."""


class HealthServer:
    """Serves until closed. The checks answer from memory: a probe costs no query."""

    def __init__(self, *, host: str, port: int, live: Check, ready: Check) -> None:
        app = web.Application()
        app.router.add_get("/livez", self._answer(live))
        app.router.add_get("/readyz", self._answer(ready))
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        self._host = host
        self._port = port

    async def start(self) -> int:
        """Starts to serve. Returns the port. Raises OSError where it is taken."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def close(self) -> None:
        await self._runner.cleanup()

    @staticmethod
    def _answer(check: Check) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(_: web.Request) -> web.Response:
            reason = check()
            return web.Response(text=f"{reason or 'ok'}\n", status=200 if reason is None else 503)

        return handle

    @staticmethod
    async def _metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
