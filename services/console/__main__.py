"""``python -m services.console``: serves the pages until told to stop."""

from shared.errors import ConfigurationError
from shared.service import Runtime, run_service
from shared.settings import exit_misconfigured, load_settings

from .application import make_application
from .feed import Feed
from .files import open_files
from .rendering import Renderer
from .server import Console
from .settings import ConsoleSettings


def main() -> None:
    try:
        settings = load_settings(ConsoleSettings)
        files = open_files(settings)
    except ConfigurationError as error:
        exit_misconfigured(error)

    def build(runtime: Runtime) -> Console:
        renderer = Renderer()
        feed = Feed(pool=runtime.pool, listener=runtime.listener, render=renderer.document)
        app = make_application(settings, pool=runtime.pool, files=files, renderer=renderer, feed=feed)
        return Console(app, feed, host=settings.health_host, port=settings.port)

    run_service("console", settings, topics=["changes"], build=build)


if __name__ == "__main__":
    main()
