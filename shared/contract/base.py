"""What every contract shape has in common."""

from pydantic import BaseModel, ConfigDict


class Row(BaseModel):
    """A frozen shape that refuses fields it does not know, so that a drift between services is an error, not a loss."""

    model_config = ConfigDict(frozen=True, extra="forbid")
