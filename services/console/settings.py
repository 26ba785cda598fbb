"""What the console takes from the environment, besides what every service does."""

from typing import Self

from pydantic import Field, SecretStr, model_validator

from shared.settings import ServiceSettings
from shared.storage import BUCKET

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ConsoleSettings(ServiceSettings):
    port: int = Field(default=8700, ge=0, le=65535, description="Where the pages are; 0 picks one.")
    health_port: int = Field(default=8080, ge=0, le=65535, description="Where /livez, /readyz and /metrics are.")
    storage_url: str | None = Field(
        default=None, description="Where uploads go and page images are: without it, with the project at SUPABASE_URL."
    )
    storage_bucket: str = Field(default=BUCKET, description="The bucket there.")
    supabase_url: str | None = Field(default=None, description="The project whose users sign in.")
    supabase_anon_key: SecretStr | None = Field(default=None, description="The project's publishable key.")
    supabase_jwt_secret: SecretStr | None = Field(
        default=None, description="Of a project that signs with a shared secret; else its published keys are asked for."
    )
    console_development_key: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="Whoever has it is the local user: only of the embedded default, which makes it.",
    )
    console_max_megabytes: int = Field(default=50, ge=1, le=1000, description="Larger uploads are refused.")
    console_uploads_per_minute: int = Field(default=60, ge=1, le=10_000, description="Of one user, by this instance.")
    console_trace_url: str | None = Field(
        default=None, description="Where a trace is shown, with {trace_id} in it: Grafana's address."
    )

    @property
    def files_url(self) -> str:
        url = self.storage_url or self.supabase_url
        assert url is not None
        return url

    @property
    def probe_port(self) -> int:
        return self.health_port

    @model_validator(mode="after")
    def _there_is_one_way_to_sign_in(self) -> Self:
        if self.supabase_url is not None and self.console_development_key is not None:
            raise ValueError("CONSOLE_DEVELOPMENT_KEY is refused where SUPABASE_URL is set")
        if self.supabase_url is None and self.storage_url is None:
            raise ValueError("STORAGE_URL is missing")
        if self.supabase_url is None and self.console_development_key is None:
            raise ValueError("SUPABASE_URL is missing: nobody could sign in")
        if self.supabase_url is not None and self.supabase_anon_key is None:
            raise ValueError("SUPABASE_URL needs SUPABASE_ANON_KEY")
        if self.console_development_key is not None and self.health_host not in LOOPBACK:
            raise ValueError("CONSOLE_DEVELOPMENT_KEY is refused where HEALTH_HOST is reachable from outside")
        return self
