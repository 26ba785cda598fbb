"""The console as a service's loop: serves the pages, watches, and ends both when told to."""

import structlog
from aiohttp import web

from .feed import Feed

GOODBYE_SECONDS = 5.0
"""For answers that are under way; streams are ended by the feed."""


class Console:
    def __init__(self, app: web.Application, feed: Feed, *, host: str, port: int) -> None:
        self._app = app
        self._feed = feed
        self._host = host
        self._port = port

    def live(self) -> str | None:
        return self._feed.live()

    def ready(self) -> str | None:
        return self._feed.ready()

    def stop(self) -> None:
        self._feed.stop()

    async def run(self) -> None:
        runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=GOODBYE_SECONDS, handler_cancellation=True)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
            structlog.get_logger().info("pages", port=runner.addresses[0][1])
            await self._feed.run()
        finally:
            await runner.cleanup()
