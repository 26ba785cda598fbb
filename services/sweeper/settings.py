"""What the sweeper takes from the environment, besides what every service does."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from shared.settings import StorageSettings


class ScaledService(BaseModel):
    """A service of Render's that follows the age of its oldest job that could run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job_types: list[str] = Field(min_length=1)
    minimum: int = Field(ge=1, le=100)
    maximum: int = Field(ge=1, le=100)

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> Self:
        if self.minimum > self.maximum:
            raise ValueError("minimum is more than maximum")
        return self


class SweeperSettings(StorageSettings):
    storage_url: str | None = Field(
        default=None,
        validation_alias=AliasChoices("storage_url", "supabase_url"),
        description="Without it, uploads and files are not looked after.",
    )
    housekeeping_seconds: float = Field(default=300.0, gt=0, le=86400, description="From one pass to the next.")
    upload_grace_hours: float = Field(default=24.0, gt=0, le=24 * 365, description="How long an upload may take.")
    storage_grace_hours: float = Field(
        default=72.0, gt=0, le=24 * 365, description="How long a missing file, or one of no document, is only reported."
    )
    unknown_files: Literal["report", "delete"] = Field(
        default="report", description="What is done with a file of no document after its grace."
    )
    document_grace_minutes: float = Field(
        default=15.0, gt=0, le=1440, description="How long a document may be on its way without a job."
    )
    retention_days: int = Field(default=90, ge=1, le=3650, description="How long finished jobs and errors are kept.")

    render_api_key: SecretStr | None = Field(default=None, description="Without it, nothing is scaled.")
    render_api_url: str = Field(default="https://api.render.com/v1", description="Render's API.")
    render_scaling: Annotated[dict[str, ScaledService], NoDecode] = Field(
        default={}, description='{"srv-…": {"job_types": ["ai_detect"], "minimum": 1, "maximum": 6}}'
    )
    scale_up_seconds: float = Field(default=60.0, gt=0, le=86400, description="A job that waits longer: more.")
    scale_down_seconds: float = Field(default=5.0, ge=0, le=86400, description="No job waits longer: fewer.")
    scale_calm_seconds: float = Field(default=600.0, ge=0, le=86400, description="For how long that has to be so.")
    scale_cooldown_seconds: float = Field(default=120.0, ge=0, le=86400, description="From one change to the next.")

    @field_validator("render_scaling", mode="before")
    @classmethod
    def _is_json(cls, value: Any) -> Any:
        """Here, not by the settings' own decoder: what is no JSON is to be refused like any other value."""
        return json.loads(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _scaling_is_whole(self) -> Self:
        if self.render_scaling and self.render_api_key is None:
            raise ValueError("RENDER_SCALING needs RENDER_API_KEY")
        if self.scale_down_seconds >= self.scale_up_seconds:
            raise ValueError("SCALE_DOWN_SECONDS must be less than SCALE_UP_SECONDS")
        return self
