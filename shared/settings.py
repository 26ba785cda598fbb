"""Settings: from the environment, frozen, and refused at start with the variable's name."""

import os
import socket
import sys
from typing import NoReturn, TypeVar

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from .errors import ConfigurationError
from .storage import BUCKET, Storage, open_storage

EXIT_CONFIGURATION = 78
"""sysexits.h EX_CONFIG: a restart will not help."""


class ServiceSettings(BaseSettings):
    """What every service takes. Each field is the environment variable of the same name, in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    database_url: SecretStr = Field(description="Postgres, with the service's own role; a transaction pooler will do.")
    listen_database_url: SecretStr | None = Field(
        default=None,
        description="A direct or session connection for LISTEN, where DATABASE_URL is a transaction pooler.",
    )
    port: int = Field(default=8080, ge=0, le=65535, description="Where /livez, /readyz and /metrics are; 0 picks one.")
    health_host: str = Field(default="0.0.0.0", description="The address that they listen on.")  # noqa: S104
    worker_id: str = Field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}", max_length=200, description="Unique a process."
    )
    worker_concurrency: int = Field(default=4, ge=1, le=1000, description="Jobs worked on at the same time.")
    lease_seconds: int = Field(default=60, ge=3, le=3600, description="How long a silent worker keeps its jobs.")
    poll_seconds: float = Field(default=5.0, gt=0, le=60, description="The safety net under NOTIFY.")
    drain_seconds: float = Field(default=25.0, ge=0, le=290, description="How long a SIGTERM lets jobs finish.")
    pool_size: int = Field(default=4, ge=2, le=100, description="Connections besides those that listen and beat.")
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")

    @property
    def probe_port(self) -> int:
        """PORT, but for a service that serves something else there."""
        return self.port

    @property
    def listen_url(self) -> str:
        return (self.listen_database_url or self.database_url).get_secret_value()


class StorageSettings(ServiceSettings):
    """What a service takes, besides, that reads and writes files."""

    supabase_service_role_key: SecretStr | None = Field(
        default=None, description="For Supabase Storage: the service key, which is not bound by policies."
    )
    storage_bucket: str = Field(default=BUCKET, description="The bucket there.")

    def open_storage(self, url: str) -> Storage:
        """Raises ConfigurationError."""
        key = self.supabase_service_role_key
        return open_storage(url, key=key.get_secret_value() if key else None, bucket=self.storage_bucket)


S = TypeVar("S", bound=ServiceSettings)


def load_settings(settings: type[S]) -> S:
    """Reads the environment. Raises ConfigurationError that names each variable and what is wrong, never its value."""
    try:
        return settings()
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']).upper()}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_context=False, include_input=False)
        )
        raise ConfigurationError("settings_invalid", f"Settings are refused. {problems}") from None


def exit_misconfigured(error: ConfigurationError) -> NoReturn:
    """Says on standard error what to mend, and ends the process."""
    sys.stderr.write(f"{error.message}\n")
    sys.exit(EXIT_CONFIGURATION)
