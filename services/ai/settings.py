"""What the AI service takes from the environment, besides what every service does. A model swap is AI_MODEL."""

from typing import Literal

from pydantic import Field, SecretStr

from shared.settings import ServiceSettings

from .usage import Price


class AiSettings(ServiceSettings):
    worker_concurrency: int = Field(default=8, ge=1, le=1000, description="Passes in flight at once.")
    ai_provider: Literal["local", "openai"] = Field(default="local", description="local needs no network and no key.")
    ai_model: str | None = Field(default=None, description="The endpoint's name of the model.")
    ai_shadow_model: str | None = Field(
        default=None,
        description="A candidate, read by chartloom shadow without a clinical row; local is the local engine.",
    )
    ai_cross_check: bool = Field(
        default=True, description="Whether what the local engine finds and a model passes over waits for a person."
    )
    openai_api_key: SecretStr | None = Field(default=None, description="The endpoint's key.")
    openai_base_url: str | None = Field(default=None, description="Any endpoint that speaks the same wire.")
    ai_timeout_seconds: float = Field(default=120, gt=0, le=600, description="How long one call may take.")
    ai_prices: dict[str, Price] = Field(
        default_factory=dict, description="Of a million tokens by model, for the cost in the metrics."
    )
