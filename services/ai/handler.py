"""What happens to one job of each pass: read what the last step left, ask the provider, keep the answer."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import asyncpg
from pydantic import TypeAdapter

from shared.contract.findings import Detection, Enrichment, Narration
from shared.contract.pages import Page
from shared.contract.payloads import DocumentPayload
from shared.handler import Handler
from shared.jobs import ClaimedJob, Write
from shared.results import parse_pass
from shared.telemetry import meter

from . import passes
from .providers import Provider, with_checkpoints

_findings = meter.create_counter("chartloom_ai_findings", description="Findings, and whether the page bears them out.")

_missed = meter.create_counter(
    "chartloom_ai_missed_findings", description="Findings of the local engine that the model passed over, by model."
)
_dropped = meter.create_counter(
    "chartloom_ai_dropped_sentences", description="Sentences that said more than the facts they cite, by model."
)

_pages = TypeAdapter(list[Page])

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
        read = await read_input(self._pool, job)
        async with self._resumed(job, "detect", read) as provider:
            return await passes.detect(read.pages, provider, checker=self._checker)

    async def enrich(self, job: ClaimedJob, _: DocumentPayload) -> Enrichment:
        read = await read_input(self._pool, job, earlier="detect")
        detection = parse_pass("detect", read.earlier, Detection)
        async with self._resumed(job, "enrich", read) as provider:
            return await passes.enrich(read.pages, detection, provider)

    async def narrate(self, job: ClaimedJob, _: DocumentPayload) -> Narration:
        read = await read_input(self._pool, job, earlier="enrich", with_pages=False)
        enrichment = parse_pass("enrich", read.earlier, Enrichment)
        async with self._resumed(job, "narrate", read) as provider:
            return await passes.narrate(enrichment, provider)

    def _resumed(self, job: ClaimedJob, name: str, read: "PassInput") -> AbstractAsyncContextManager[Provider]:
        """Goes on where an earlier attempt was ended."""
        return with_checkpoints(self._provider, self._pool, job, name, read.checkpoints)


class PassInput(NamedTuple):
    """What a pass reads: pages, the earlier pass' result, and each question of the run that was answered already."""

    pages: list[Page]
    earlier: str | None
    """JSON."""
    checkpoints: list[dict[str, Any]]


async def read_input(
    pool: asyncpg.Pool, job: ClaimedJob, *, earlier: str | None = None, with_pages: bool = True
) -> PassInput:
    # As text: pydantic parses and validates it in one go, in half the time.
    row = await pool.fetchrow(
        "select pages::text, earlier::text, checkpoints from chartloom.read_ai_input($1, $2, $3, $4)",
        job.job_id,
        job.lease_token,
        with_pages,
        earlier,
    )
    assert row is not None
    return PassInput(_pages.validate_json(row["pages"] or "[]"), row["earlier"], row["checkpoints"] or [])


def save_detection(_: ClaimedJob, detection: Detection) -> Write:
    _findings.add(len(detection.findings), {"pass": "detect", "grounded": "yes"})
    _findings.add(len(detection.rejected), {"pass": "detect", "grounded": "no"})
    _missed.add(len(detection.missed), {"model": detection.engine.model})
    summary = {"findings": len(detection.findings), "rejected": len(detection.rejected)}
    return write_passes({"detect": detection}, summary)


def save_enrichment(_: ClaimedJob, enrichment: Enrichment) -> Write:
    summary = {"entities": len(enrichment.entities), "rejected": len(enrichment.rejected)}
    return write_passes({"enrich": enrichment}, summary)


def save_narration(_: ClaimedJob, narration: Narration) -> Write:
    _dropped.add(narration.dropped, {"model": narration.engine.model})
    summary = {"sentences": len(narration.sentences), "timeline": len(narration.timeline)}
    return write_passes({"narrate": narration}, summary)


def write_passes(results: Mapping[str, Detection | Enrichment | Narration], summary: dict[str, int]) -> Write:
    """``summary`` is for the job's own row."""
    dumped = {name: result.model_dump(mode="json") for name, result in results.items()}
    return Write("chartloom.write_ai_passes", (dumped, summary))
