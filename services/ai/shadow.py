"""What happens to one ``ai_shadow`` job: a candidate model does all three passes over pages that another one has done.

Its results are rows beside the document's own, for ``chartloom compare``; no clinical row is made of them.
"""

from contextlib import AbstractAsyncContextManager

import asyncpg

from shared.contract.findings import Detection, Enrichment, Narration
from shared.contract.payloads import DocumentPayload
from shared.handler import Handler
from shared.jobs import ClaimedJob, Write

from . import passes
from .handler import PassInput, read_input, write_passes
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
        read = await read_input(self._pool, job)
        async with self._resumed(job, "detect", read) as provider:
            detection = await passes.detect(read.pages, provider)
        async with self._resumed(job, "enrich", read) as provider:
            enrichment = await passes.enrich(read.pages, detection, provider)
        async with self._resumed(job, "narrate", read) as provider:
            return detection, enrichment, await passes.narrate(enrichment, provider)

    def _resumed(self, job: ClaimedJob, name: str, read: PassInput) -> AbstractAsyncContextManager[Provider]:
        return with_checkpoints(self._provider, self._pool, job, name, read.checkpoints)


def save_results(_: ClaimedJob, results: Results) -> Write:
    detection, enrichment, narration = results
    return write_passes(
        {"detect": detection, "enrich": enrichment, "narrate": narration},
        {"entities": len(enrichment.entities), "sentences": len(narration.sentences)},
    )
