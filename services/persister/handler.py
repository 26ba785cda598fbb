"""What happens to one ``persist`` job: read the passes' results, shape the rows, write them as the job completes."""

from typing import Any

import asyncpg

from shared.contract.findings import Detection, Enrichment, Narration
from shared.contract.payloads import DocumentPayload
from shared.database import Connection
from shared.jobs import ClaimedJob
from shared.results import read_pass
from shared.worker import Handler

from .rows import clinical_rows

ClinicalRows = dict[str, list[dict[str, Any]]]


class PersistHandler:
    def __init__(self, *, pool: asyncpg.Pool) -> None:
        self._pool = pool

    def handler(self) -> Handler[DocumentPayload, ClinicalRows]:
        return Handler(job_type="persist", payload=DocumentPayload, work=self.shape_rows, store=write_rows)

    async def shape_rows(self, job: ClaimedJob, payload: DocumentPayload) -> ClinicalRows:
        detection = await read_pass(self._pool, job, "detect", Detection)
        enrichment = await read_pass(self._pool, job, "enrich", Enrichment)
        narration = await read_pass(self._pool, job, "narrate", Narration)
        return clinical_rows(
            payload.run_id,
            payload.shell_file_id,
            enrichment,
            narration,
            (*detection.rejected, *enrichment.rejected),
        )


async def write_rows(connection: Connection, job: ClaimedJob, rows: ClinicalRows) -> dict[str, Any]:
    written = await connection.fetchval(
        "select chartloom.persist_findings($1, $2, $3)", job.job_id, job.lease_token, rows
    )
    return {"rows": written}
