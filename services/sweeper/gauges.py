"""What rows alone know, as gauges: any instance of any service may have done it, and may be gone.

Several sweepers say the same, so whoever reads takes the largest, not the sum.
"""

import asyncpg
from opentelemetry.metrics import CallbackOptions, Observation

from shared.telemetry import meter


class OperatorGauges:
    """Says what it read last; observing costs no query."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._read: dict[str, dict[str, float]] = {}
        meter.create_observable_gauge(
            "chartloom_workers",
            callbacks=[self._observe_workers],
            description="Workers by service: alive, or silent for more than a minute without a goodbye.",
        )
        meter.create_observable_gauge(
            "chartloom_recent_dead_letters",
            callbacks=[self._observe_dead_letters],
            description="Dead letters of the last hour that nobody has redriven, by job type.",
        )
        meter.create_observable_gauge(
            "chartloom_failed_audit_events",
            callbacks=[self._observe_failed_audit_events],
            description="Audit events that could not be written and are tried again.",
        )

    async def read(self) -> None:
        read: dict[str, dict[str, float]] = {}
        for row in await self._pool.fetch("select * from chartloom.operator_gauges()"):
            read.setdefault(row["gauge"], {})[row["label"]] = row["value"]
        self._read = read

    def _observe_workers(self, _: CallbackOptions) -> list[Observation]:
        return [
            Observation(count, {"service": service, "state": state})
            for state in ("alive", "dead")
            for service, count in self._read.get(f"workers_{state}", {}).items()
        ]

    def _observe_dead_letters(self, _: CallbackOptions) -> list[Observation]:
        found = self._read.get("recent_dead_letters", {})
        return [Observation(count, {"job_type": job_type}) for job_type, count in found.items()]

    def _observe_failed_audit_events(self, _: CallbackOptions) -> list[Observation]:
        return [Observation(count) for count in self._read.get("failed_audit_events", {}).values()]
