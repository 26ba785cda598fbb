"""How many instances of a service of Render's there are, by the age of its oldest job that could run.

https://api-docs.render.com/reference/scale-service. Render ignores the call where a service has autoscaling.
"""

from collections import Counter
from collections.abc import Mapping

import aiohttp
import asyncpg

from .settings import ScaledService

CALL_SECONDS = 10.0
RETRY_SECONDS = 60.0
"""After a refusal that does not say when to come back."""
ACCEPTED = 202


class Scaling:
    """More at once, by half; fewer one by one. SQL decides when: all sweepers share one cooldown a service."""

    name = "scaling"

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        api_url: str,
        api_key: str,
        services: Mapping[str, ScaledService],
        up_seconds: float,
        down_seconds: float,
        calm_seconds: float,
        cooldown_seconds: float,
    ) -> None:
        self._pool = pool
        self._api_url = api_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}", "Accept": "application/json"}
        self._services = services
        self._limits = (up_seconds, down_seconds, calm_seconds, cooldown_seconds)

    async def run(self) -> Counter[str]:
        outcomes: Counter[str] = Counter()
        for service_id, service in self._services.items():
            direction = await self._pool.fetchval(
                "select chartloom.decide_scaling($1, $2, $3, $4, $5, $6)", service_id, service.job_types, *self._limits
            )
            if direction is not None:
                outcomes[await self._scale(service_id, service, direction)] += 1
        return outcomes

    async def _scale(self, service_id: str, service: ScaledService, direction: str) -> str:
        url = f"{self._api_url}/services/{service_id}"
        try:
            async with aiohttp.ClientSession(
                headers=self._headers, timeout=aiohttp.ClientTimeout(total=CALL_SECONDS)
            ) as session:
                async with session.get(url) as answer:
                    if answer.status != 200:
                        return await self._put_off(service_id, answer)
                    current = int((await answer.json())["serviceDetails"]["numInstances"])
                wanted = max(current + 1, current * 3 // 2) if direction == "up" else current - 1
                wanted = min(max(wanted, service.minimum), service.maximum)
                if wanted == current:
                    return "at_its_bound"
                async with session.post(f"{url}/scale", json={"numInstances": wanted}) as answer:
                    if answer.status != ACCEPTED:
                        return await self._put_off(service_id, answer)
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
            return await self._put_off(service_id, None)
        return direction

    async def _put_off(self, service_id: str, answer: aiohttp.ClientResponse | None) -> str:
        after = answer.headers.get("Retry-After", "") if answer is not None else ""
        seconds = float(after) if after.isdecimal() else RETRY_SECONDS
        await self._pool.execute("select chartloom.put_off_scaling($1, $2)", service_id, min(seconds, 3600.0))
        return "refused"
