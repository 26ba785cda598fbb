"""Reading what an earlier pass of the same run left, by the lease of the job in hand."""

from typing import TypeVar

from .contract.base import Row
from .database import Connection
from .errors import TerminalError
from .jobs import ClaimedJob

R = TypeVar("R", bound=Row)


async def read_pass(connection: Connection, job: ClaimedJob, name: str, shape: type[R]) -> R:
    """The result of pass ``name`` in its shape. Raises TerminalError ``earlier_pass_missing``."""
    result = await connection.fetchval("select chartloom.read_ai_pass($1, $2, $3)", job.job_id, job.lease_token, name)
    if result is None:
        raise TerminalError(
            "earlier_pass_missing", f"Pass {name} of this run left no result: process the document again."
        )
    return shape.model_validate(result)
