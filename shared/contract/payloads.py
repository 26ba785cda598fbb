"""Payloads of jobs. ``job_types.payload_schema`` in SQL holds the same fields; a test compares the two."""

from uuid import UUID

from pydantic import Field

from .base import Row


class DocumentPayload(Row):
    """What every step of the pipeline needs: which document, and which run over it."""

    shell_file_id: UUID
    run_id: UUID


class PagesPayload(DocumentPayload):
    """Some pages of a document, counted from 1; both ends belong to them."""

    first_page: int = Field(ge=1)
    last_page: int = Field(ge=1)
