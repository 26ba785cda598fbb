"""``python -m services.sweeper``: watches the queue until told to stop."""

from shared.errors import ConfigurationError
from shared.service import VERSION, Runtime, run_service
from shared.settings import ServiceSettings, exit_misconfigured, load_settings

from .handler import Sweeper


def main() -> None:
    try:
        settings = load_settings(ServiceSettings)
    except ConfigurationError as error:
        exit_misconfigured(error)

    def build(runtime: Runtime) -> Sweeper:
        return Sweeper(pool=runtime.pool, listener=runtime.listener, worker_id=settings.worker_id, version=VERSION)

    run_service("sweeper", settings, topics=["changes"], build=build)


if __name__ == "__main__":
    main()
