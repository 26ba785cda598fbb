"""What happens to one job of each pass: read what the last step left, ask the provider, keep the answer."""

from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg

from shared.contract.findings import Detection, Enrichment, Narration
from shared.contract.pages import Page
from shared.contract.payloads import DocumentPayload
from shared.database import Connection
from shared.jobs import ClaimedJob
from shared.results import read_pass
from shared.telemetry import meter
from shared.worker import Handler

from . import passes
from .providers import Provider, with_checkpoints

_findings = meter.create_counter("chartloom_ai_findings", description="Findings, and whether the page bears them out.")

_missed = meter.create_counter(
    "chartloom_ai_missed_findings", description="Findings of the local engine that the model passed over, by model."
)
_dropped = meter.create_counter(
    "chartloom_ai_dropped_sentences", description="Sentences that said more than the facts they cite, by model."
)

JOB_TYPES = ["ai_narrate", "ai_enrich", "ai_detect"]
"""The later pass first: a document that is nearly done should not wait for one that has just begun."""


class AiHandler:
    """``checker`` reads what the provider reads: what it finds and the provider misses waits for a person."""

    def __init__(self, *, pool: asyncpg.Pool, provider: Provider, checker: Provider | None = None) -> None:
        self._pool = pool
        self._provider = provider
        self._checker = checker

    def handlers(self) -> list[Handler[Any, Any]]:
        return [
            Handler(job_type="ai_detect", payload=DocumentPayload, work=self.detect, store=save_detection),
            Handler(job_type="ai_enrich", payload=DocumentPayload, work=self.enrich, store=save_enrichment),
            Handler(job_type="ai_narrate", payload=DocumentPayload, work=self.narrate, store=save_narration),
        ]

    async def detect(self, job: ClaimedJob, _: DocumentPayload) -> Detection:
        async with self._resumed(job, "detect") as provider:
            return await passes.detect(await read_pages(self._pool, job), provider, checker=self._checker)

    async def enrich(self, job: ClaimedJob, _: DocumentPayload) -> Enrichment:
        detection = await read_pass(self._pool, job, "detect", Detection)
        async with self._resumed(job, "enrich") as provider:
            return await passes.enrich(await read_pages(self._pool, job), detection, provider)

    async def narrate(self, job: ClaimedJob, _: DocumentPayload) -> Narration:
        enrichment = await read_pass(self._pool, job, "enrich", Enrichment)
        async with self._resumed(job, "narrate") as provider:
            return await passes.narrate(enrichment, provider)

    def _resumed(self, job: ClaimedJob, name: str) -> AbstractAsyncContextManager[Provider]:
        """Goes on where an earlier attempt was ended."""
        return with_checkpoints(self._provider, self._pool, job, name)


async def read_pages(pool: asyncpg.Pool, job: ClaimedJob) -> list[Page]:
    rows = await pool.fetch("select * from chartloom.read_pages_v2($1, $2)", job.job_id, job.lease_token)
    return [Page.model_validate(dict(row)) for row in rows]


async def save_detection(connection: Connection, job: ClaimedJob, detection: Detection) -> dict[str, Any]:
    _findings.add(len(detection.findings), {"pass": "detect", "grounded": "yes"})
    _findings.add(len(detection.rejected), {"pass": "detect", "grounded": "no"})
    _missed.add(len(detection.missed), {"model": detection.engine.model})
    await save_pass(connection, job, "detect", detection)
    return {"findings": len(detection.findings), "rejected": len(detection.rejected)}


async def save_enrichment(connection: Connection, job: ClaimedJob, enrichment: Enrichment) -> dict[str, Any]:
    await save_pass(connection, job, "enrich", enrichment)
    return {"entities": len(enrichment.entities), "rejected": len(enrichment.rejected)}


async def save_narration(connection: Connection, job: ClaimedJob, narration: Narration) -> dict[str, Any]:
    _dropped.add(narration.dropped, {"model": narration.engine.model})
    await save_pass(connection, job, "narrate", narration)
    return {"sentences": len(narration.sentences), "timeline": len(narration.timeline)}


async def save_pass(
    connection: Connection, job: ClaimedJob, name: str, result: Detection | Enrichment | Narration
) -> None:
    await connection.execute(
        "select chartloom.save_ai_pass($1, $2, $3, $4), chartloom.delete_ai_checkpoints($1, $2)",
        job.job_id,
        job.lease_token,
        name,
        result.model_dump(mode="json"),
    )
