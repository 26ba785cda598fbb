"""What an earlier pass of the same run left, as the job in hand reads it."""

from typing import TypeVar

from .contract.base import Row
from .errors import TerminalError

R = TypeVar("R", bound=Row)


def parse_pass(name: str, result: str | None, shape: type[R]) -> R:
    """The result of pass ``name``, JSON, in its shape. Raises TerminalError ``earlier_pass_missing``."""
    if result is None:
        raise TerminalError(
            "earlier_pass_missing", f"Pass {name} of this run left no result: process the document again."
        )
    return shape.model_validate_json(result)
