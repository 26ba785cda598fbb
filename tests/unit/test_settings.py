"""Settings are refused at start, by the variable's name and never with its value."""

import pytest

from shared.errors import ConfigurationError
from shared.settings import ServiceSettings, load_settings


def test_a_missing_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    with pytest.raises(ConfigurationError, match="DATABASE_URL: Field required"):
        load_settings(ServiceSettings)


def test_every_wrong_variable_is_named_and_no_value_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:secret@db/x")
    monkeypatch.setenv("LEASE_SECONDS", "secret-number")
    monkeypatch.setenv("WORKER_CONCURRENCY", "0")
    with pytest.raises(ConfigurationError) as refused:
        load_settings(ServiceSettings)
    assert "LEASE_SECONDS" in refused.value.message
    assert "WORKER_CONCURRENCY" in refused.value.message
    assert "secret" not in refused.value.message


def test_settings_cannot_change_and_do_not_show_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:secret@db/x")
    settings = load_settings(ServiceSettings)
    assert "secret" not in repr(settings)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_a_variable_left_empty_is_a_variable_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@db/x")
    monkeypatch.setenv("LISTEN_DATABASE_URL", "")
    assert load_settings(ServiceSettings).listen_url == "postgresql://u@db/x"
