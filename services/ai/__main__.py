"""``python -m services.ai``: claims the jobs of the three passes until told to stop."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal

from shared.errors import ConfigurationError
from shared.handler import Handler
from shared.service import Runtime, run_worker
from shared.settings import exit_misconfigured, load_settings

from .handler import JOB_TYPES, AiHandler
from .local import terminology
from .providers import Provider, in_use, open_provider, within_limits
from .providers.local import LocalProvider
from .settings import AiSettings
from .shadow import JOB_TYPE as SHADOW_JOB_TYPE
from .shadow import ShadowHandler

SWITCH_SECONDS = 0.0005
"""For so long the local engine's thread, which checks a model or reads a long page, goes on while the loop has
something to do: by default ten times as long, which each of the twenty turns of a pass would wait for."""


def main() -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        settings = load_settings(AiSettings)
        provider = _open(settings, settings.ai_provider, settings.ai_model)
        checker = LocalProvider(beside=True) if settings.ai_cross_check and provider.name != "local" else None
        shadow = None
        if candidate := settings.ai_shadow_model:
            shadow = _open(settings, "local" if candidate == "local" else "openai", candidate)
    except ConfigurationError as error:
        exit_misconfigured(error)

    def handlers(runtime: Runtime) -> list[Handler[Any, Any]]:
        limited = within_limits(provider, runtime.pool)
        built = AiHandler(pool=runtime.pool, provider=limited, checker=checker).handlers()
        if shadow is not None:
            built.append(ShadowHandler(pool=runtime.pool, provider=within_limits(shadow, runtime.pool)).handler())
        return built

    @asynccontextmanager
    async def asked(runtime: Runtime) -> AsyncIterator[None]:
        # Before the first claim: 0.2 s, and 4 where no install step compiled it, that no heartbeat should wait for.
        await asyncio.to_thread(terminology.load)
        async with AsyncExitStack() as stack:
            for each in (provider, shadow):
                if each is not None:
                    await stack.enter_async_context(in_use(within_limits(each, runtime.pool)))
            yield

    run_worker(
        "ai",
        settings,
        # Last: a candidate reads when nobody waits for the model that counts.
        [*JOB_TYPES, SHADOW_JOB_TYPE] if shadow else JOB_TYPES,
        handlers,
        details={"provider": provider.name, "model": provider.model} | ({"shadow": shadow.model} if shadow else {}),
        around=asked,
    )


def _open(settings: AiSettings, provider: Literal["local", "openai"], model: str | None) -> Provider:
    return open_provider(
        provider=provider,
        model=model,
        api_key=settings.openai_api_key.get_secret_value() if settings.openai_api_key else None,
        base_url=settings.openai_base_url,
        timeout_s=settings.ai_timeout_seconds,
        price=settings.ai_prices.get(model or ""),
    )


if __name__ == "__main__":
    main()
