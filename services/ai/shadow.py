"""What happens to one ``ai_shadow`` job: a candidate model does all three passes over pages that another one has done.

Its results are rows beside the document's own, for ``chartloom compare``; no clinical row is made of them.
"""

from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg

from shared.contract.findings import Detection, Enrichment, Narration
from shared.contract.payloads import DocumentPayload
from shared.database import Connection
from shared.jobs import ClaimedJob
from shared.worker import Handler

from . import passes
from .handler import read_pages, save_pass
from .providers import Provider, with_checkpoints

JOB_TYPE = "ai_shadow"
Results = tuple[Detection, Enrichment, Narration]


class ShadowHandler:
    def __init__(self, *, pool: asyncpg.Pool, provider: Provider) -> None:
        self._pool = pool
        self._provider = provider

    def handler(self) -> Handler[DocumentPayload, Results]:
        return Handler(job_type=JOB_TYPE, payload=DocumentPayload, work=self.read, store=save_results)

    async def read(self, job: ClaimedJob, _: DocumentPayload) -> Results:
        pages = await read_pages(self._pool, job)
        async with self._resumed(job, "detect") as provider:
            detection = await passes.detect(pages, provider)
        async with self._resumed(job, "enrich") as provider:
            enrichment = await passes.enrich(pages, detection, provider)
        async with self._resumed(job, "narrate") as provider:
            return detection, enrichment, await passes.narrate(enrichment, provider)

    def _resumed(self, job: ClaimedJob, name: str) -> AbstractAsyncContextManager[Provider]:
        return with_checkpoints(self._provider, self._pool, job, name)


async def save_results(connection: Connection, job: ClaimedJob, results: Results) -> dict[str, Any]:
    detection, enrichment, narration = results
    await save_pass(connection, job, "detect", detection)
    await save_pass(connection, job, "enrich", enrichment)
    await save_pass(connection, job, "narrate", narration)
    return {"entities": len(enrichment.entities), "sentences": len(narration.sentences)}
