"""What happens to one ``persist`` job: read the passes' results, shape the rows, write them as the job completes."""

import asyncpg

from shared.contract.findings import Detection, Enrichment, Narration
from shared.contract.payloads import DocumentPayload
from shared.errors import TerminalError
from shared.handler import Handler
from shared.jobs import ClaimedJob, Write
from shared.results import parse_pass

from . import identity
from .rows import ClinicalRows, clinical_rows


class PersistHandler:
    def __init__(self, *, pool: asyncpg.Pool) -> None:
        self._pool = pool

    def handler(self) -> Handler[DocumentPayload, ClinicalRows]:
        return Handler(job_type="persist", payload=DocumentPayload, work=self.shape_rows, store=write_rows)

    async def shape_rows(self, job: ClaimedJob, payload: DocumentPayload) -> ClinicalRows:
        read = await self._pool.fetchrow(
            "select passes ->> 'detect' as detect, passes ->> 'enrich' as enrich, passes ->> 'narrate' as narrate, "
            "pages, display_name, birth_date from chartloom.read_persist_input($1, $2)",
            job.job_id,
            job.lease_token,
        )
        assert read is not None
        detection = parse_pass("detect", read["detect"], Detection)
        enrichment = parse_pass("enrich", read["enrich"], Enrichment)
        narration = parse_pass("narrate", read["narrate"], Narration)
        pages = {int(page): text for page, text in (read["pages"] or {}).items()}
        check_grounded(enrichment, pages)
        profile = identity.Profile(read["display_name"], read["birth_date"])
        return clinical_rows(
            payload.run_id,
            payload.shell_file_id,
            enrichment,
            narration,
            (*detection.rejected, *enrichment.rejected),
            detection=detection,
            contradictions=identity.contradictions(pages, profile),
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


def write_rows(_: ClaimedJob, rows: ClinicalRows) -> Write:
    return Write("chartloom.write_findings", (rows,))
