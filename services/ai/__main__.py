"""``python -m services.ai``: claims the jobs of the three passes until told to stop."""

from shared.errors import ConfigurationError
from shared.service import run_worker
from shared.settings import exit_misconfigured, load_settings

from .handler import JOB_TYPES, AiHandler
from .providers import in_use, open_provider, within_limits
from .settings import AiSettings


def main() -> None:
    try:
        settings = load_settings(AiSettings)
        provider = open_provider(
            provider=settings.ai_provider,
            model=settings.ai_model,
            api_key=settings.openai_api_key.get_secret_value() if settings.openai_api_key else None,
            base_url=settings.openai_base_url,
            timeout_s=settings.ai_timeout_seconds,
            price=settings.ai_prices.get(settings.ai_model or ""),
        )
    except ConfigurationError as error:
        exit_misconfigured(error)
    run_worker(
        "ai",
        settings,
        JOB_TYPES,
        lambda runtime: AiHandler(pool=runtime.pool, provider=within_limits(provider, runtime.pool)).handlers(),
        details={"provider": provider.name, "model": provider.model},
        around=lambda runtime: in_use(within_limits(provider, runtime.pool)),
    )


if __name__ == "__main__":
    main()
