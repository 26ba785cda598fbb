"""A user's documents and how far each is, read with the user's own rights."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg

from .reviews import WAITING
from .wording import FIRST_STAGES, STAGES

SHOWN = 50
FINAL = frozenset({"completed"})
"""Nothing moves these. What failed may be run again by an operator."""
ENDED = FINAL | {"failed", "quarantined", "cancelled"}

Document = dict[str, Any]

_DOCUMENTS = f"""
select f.id, f.patient_id, f.file_name, f.status, f.size_bytes, f.created_at, f.completed_at, f.processing_error,
    extract(epoch from f.completed_at - f.uploaded_at)::float8 as seconds,
    case when f.status = 'completed' then (
        select count(*) from public.patient_clinical_events as e
        where e.shell_file_id = f.id and e.superseded_by_run_id is null and e.review is distinct from 'dismissed'
    ) end as findings,
    case when f.status = 'completed' then (
        select count(*) from public.finding_reviews as r where r.shell_file_id = f.id and {WAITING}
    ) end as waiting,
    (
        select r.status from public.finding_reviews as r where r.shell_file_id = f.id and r.reason = 'other_person'
    ) as identity
from public.shell_files as f
"""  # noqa: S608 - a constant
_ALL = f"{_DOCUMENTS} where $1::uuid is null or f.patient_id = $1 order by f.created_at desc, f.id limit {SHOWN}"
_SOME = f"{_DOCUMENTS} where f.id = any($1)"


async def read_documents(
    connection: asyncpg.pool.PoolConnectionProxy, *, patient_id: UUID | None = None, ids: Sequence[UUID] | None = None
) -> list[Document]:
    """The latest documents, newest first, of a patient where one is named; or those with these ids."""
    rows = await (connection.fetch(_ALL, patient_id) if ids is None else connection.fetch(_SOME, ids))
    documents = [dict(row) for row in rows]
    stages: dict[UUID, list[asyncpg.Record]] = {document["id"]: [] for document in documents}
    for stage in await connection.fetch(
        "select * from chartloom.document_stages($1)",
        [document["id"] for document in documents if document["status"] not in ENDED],
    ):
        stages[stage["shell_file_id"]].append(stage)
    for document in documents:
        document["stages"] = _stages(document["status"], stages[document["id"]])
    return documents


def _stages(status: str, rows: Sequence[asyncpg.Record]) -> list[dict[str, Any]]:
    """The pipeline's steps in their order, those to come among them. None of what has ended: nothing comes any more."""
    if status in ENDED:
        return []
    by_type = {row["job_type"]: dict(row) for row in sorted(rows, key=lambda row: row["first_job_id"])}
    order = [*(stage for stage in STAGES if stage in by_type or stage in FIRST_STAGES), *by_type]
    return [
        by_type.get(stage) or {"job_type": stage, "status": "waiting", "attempts": 0, "progress": 0.0}
        for stage in dict.fromkeys(order)
    ]
