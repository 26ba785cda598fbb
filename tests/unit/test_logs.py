"""A log line holds what is on the list and nothing else."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from shared.logs import configure_logs, describe_error


@pytest.fixture
def _logs() -> Iterator[None]:
    """Sets everything back. A test sets it up itself: pytest changes standard output between a fixture and its test."""
    before = logging.getLogger().handlers
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.getLogger().handlers = before


@pytest.mark.usefixtures("_logs")
def test_a_field_that_is_not_on_the_list_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(service="test", level="info")
    structlog.get_logger().info("job_attempt_ended", job_id=7, patient_name="Jane Doe", text="HIV positive")
    line = json.loads(capsys.readouterr().out)
    assert line["job_id"] == 7
    assert line["service"] == "test"
    assert "Jane" not in json.dumps(line)
    assert "HIV" not in json.dumps(line)


@pytest.mark.usefixtures("_logs")
def test_a_librarys_message_is_reduced_to_its_place_and_type(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(service="test", level="info")
    try:
        raise ValueError("Jane Doe")
    except ValueError:
        logging.getLogger("some.library").exception("could not parse %s", "Jane Doe")
    out = capsys.readouterr().out
    line = json.loads(out)
    assert (line["logger"], line["error_type"]) == ("some.library", "ValueError")
    assert "Jane" not in out


def test_an_error_is_described_without_its_text() -> None:
    try:
        raise ValueError("Jane Doe")
    except ValueError as error:
        described = describe_error(error)
    assert described["error_type"] == "ValueError"
    assert described["error_at"].startswith("test_logs.py:")
    assert "Jane" not in str(described)
