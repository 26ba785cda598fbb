"""``python -m services.persister``: claims ``persist`` jobs until told to stop."""

from shared.errors import ConfigurationError
from shared.service import run_worker
from shared.settings import ServiceSettings, exit_misconfigured, load_settings

from .handler import PersistHandler


def main() -> None:
    try:
        settings = load_settings(ServiceSettings)
    except ConfigurationError as error:
        exit_misconfigured(error)
    run_worker(
        "persister", settings, ["persist"], lambda runtime: [PersistHandler(pool=runtime.pool).handler()], details={}
    )


if __name__ == "__main__":
    main()
