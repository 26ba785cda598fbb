"""Sizes, limits and prices as data (``prices.toml``). Where a price is not there, the cost is unknown, not invented."""

import tomllib
from importlib import resources
from pathlib import Path

from pydantic import Field, ValidationError

from shared.contract.base import Row
from shared.errors import ConfigurationError


class RenderPlan(Row):
    """One instance of a service."""

    cores: float = Field(gt=0)
    memory_mb: int = Field(gt=0)
    price_per_month: float | None = Field(default=None, ge=0)


class SupabasePlan(Row):
    """A database's limits."""

    max_connections: int = Field(gt=0)
    pooler_clients: int = Field(gt=0)
    price_per_month: float | None = Field(default=None, ge=0)


class ModelPrices(Row):
    """Of a million tokens."""

    input_price: float | None = Field(default=None, ge=0)
    output_price: float | None = Field(default=None, ge=0)


class Prices(Row):
    """All of it. Plans stand in the file from the smallest to the largest."""

    as_of: str
    note: str
    render: dict[str, RenderPlan]
    supabase: dict[str, SupabasePlan]
    model: ModelPrices


def read(path: Path | None) -> Prices:
    """The prices of a file, or those that come with Chartloom. Raises ConfigurationError."""
    try:
        text = path.read_text("utf-8") if path else resources.files("cli.capacity").joinpath("prices.toml").read_text()
        return Prices.model_validate(tomllib.loads(text))
    except (OSError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigurationError(
            "prices_unreadable", f"--prices {path}: no file of prices ({type(error).__name__})."
        ) from None
