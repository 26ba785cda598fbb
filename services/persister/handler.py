"""What happens to one ``persist`` job: read the passes' results, shape the rows, write them as the job completes."""

from typing import Any

import asyncpg

from shared.contract.findings import Detection, Enrichment, Narration
from shared.contract.payloads import DocumentPayload
from shared.database import Connection
from shared.errors import TerminalError
from shared.jobs import ClaimedJob
from shared.results import read_pass
from shared.worker import Handler

from . import identity
from .rows import ClinicalRows, clinical_rows


class PersistHandler:
    def __init__(self, *, pool: asyncpg.Pool) -> None:
        self._pool = pool

    def handler(self) -> Handler[DocumentPayload, ClinicalRows]:
        return Handler(job_type="persist", payload=DocumentPayload, work=self.shape_rows, store=write_rows)

    async def shape_rows(self, job: ClaimedJob, payload: DocumentPayload) -> ClinicalRows:
        detection = await read_pass(self._pool, job, "detect", Detection)
        enrichment = await read_pass(self._pool, job, "enrich", Enrichment)
        narration = await read_pass(self._pool, job, "narrate", Narration)
        lease = (job.job_id, job.lease_token)
        read = await self._pool.fetch("select page, text from chartloom.read_page_texts($1, $2)", *lease)
        pages = {row["page"]: row["text"] for row in read}
        check_grounded(enrichment, pages)
        profile = await self._pool.fetchrow(
            "select display_name, birth_date from chartloom.read_profile($1, $2)", *lease
        )
        return clinical_rows(
            payload.run_id,
            payload.shell_file_id,
            enrichment,
            narration,
            (*detection.rejected, *enrichment.rejected),
            detection=detection,
            contradictions=identity.contradictions(pages, identity.Profile(*profile)) if profile else (),
        )


def check_grounded(enrichment: Enrichment, pages: dict[int, str]) -> None:
    """The last gate, whoever wrote the results: each quote is its page's text at its offsets, or nothing is written."""
    for entity in enrichment.entities:
        for source in (entity.source, *(said.source for said in entity.attributes.values())):
            if pages.get(source.page, "")[source.start : source.end] != source.quote:
                raise TerminalError(
                    "finding_not_on_page",
                    f"Finding {entity.id} quotes what is not on its page: reprocess the document.",
                )


async def write_rows(connection: Connection, job: ClaimedJob, rows: ClinicalRows) -> dict[str, Any]:
    written = await connection.fetchval(
        "select chartloom.persist_findings($1, $2, $3)", job.job_id, job.lease_token, rows
    )
    return {"rows": written}
