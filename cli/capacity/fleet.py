"""What does the work: so many instances of each service, what each may have in hand, and whose cores they use."""

from dataclasses import dataclass, replace

from .prices import Prices

SERVICE_OF = {
    "ocr": "ocr",
    "ai_detect": "ai",
    "ai_enrich": "ai",
    "ai_narrate": "ai",
    "persist": "persister",
}
CLAIMED_BY = {"ocr": ("ocr",), "ai": ("ai_narrate", "ai_enrich", "ai_detect"), "persister": ("persist",)}
"""In the order in which a service claims: the later pass first."""
ONE_CORE = frozenset({"ai", "persister"})
"""Services that are one Python process, whatever the plan has; OCR reads in child processes."""
CONNECTIONS_BESIDE_THE_POOL = 2
"""The one that listens and the heartbeat's."""


@dataclass(frozen=True)
class Service:
    """The instances of one service, all alike."""

    name: str
    instances: int
    concurrency: int
    plan: str
    pool_size: int = 4

    @property
    def connections(self) -> int:
        return self.instances * (self.pool_size + CONNECTIONS_BESIDE_THE_POOL)


@dataclass(frozen=True)
class Fleet:
    """All services. ``cores``: of the one machine that all of them share; None where each has what its plan says."""

    services: dict[str, Service]
    cores: float | None = None

    @property
    def connections(self) -> int:
        return sum(service.connections for service in self.services.values())

    @property
    def listeners(self) -> int:
        """Direct (session) connections: each process LISTENs on one."""
        return sum(service.instances for service in self.services.values())

    @property
    def processes(self) -> int:
        return sum(service.instances for service in self.services.values())

    def cores_of(self, service: Service, prices: Prices) -> float:
        """What one instance may use."""
        cores = self.cores if self.cores is not None else prices.render[service.plan].cores
        return min(cores, 1.0) if service.name in ONE_CORE else cores

    def changed(self, service: str, **changes: int | str) -> "Fleet":
        """The same fleet with another number of instances, plan, … of a service."""
        changed = replace(self.services[service], **changes)  # type: ignore[arg-type]
        return replace(self, services={**self.services, service: changed})


DEFAULT = Fleet(
    {
        # As in render.yaml.
        "ocr": Service("ocr", 1, 1, "standard"),
        "ai": Service("ai", 2, 16, "standard"),
        "persister": Service("persister", 1, 4, "starter"),
        "sweeper": Service("sweeper", 1, 1, "starter"),
    }
)
