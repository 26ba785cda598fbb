"""One JSON line an event, on standard output. Fields are an allow-list: what is not on it is not logged."""

import logging
import sys
import traceback
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

import structlog
from opentelemetry import trace

from .jobs import ClaimedJob

current_job: ContextVar[ClaimedJob | None] = ContextVar("current_job", default=None)
"""The attempt that this task works on: each of its log lines says so."""

ALLOWED_FIELDS = frozenset(
    {
        "event", "level", "timestamp", "logger", "service", "version", "worker_id", "trace_id", "span_id",
        "job_id", "job_type", "shell_file_id", "run_id", "attempt", "code", "outcome", "status", "new_status",
        "error_type", "error_at", "sqlstate", "seconds", "count", "pages", "page", "port", "mode", "signal",
        "retry_after_s", "provider", "model", "overdue_s", "previous_worker_id", "job_types",
    }
)  # fmt: skip


def _only_allowed(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: value for key, value in event.items() if key in ALLOWED_FIELDS}


def _add_trace(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event.setdefault("trace_id", f"{context.trace_id:032x}")
        event.setdefault("span_id", f"{context.span_id:016x}")
    return event


def _add_job(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    job = current_job.get()
    if job is not None:
        event.setdefault("job_id", job.job_id)
        event.setdefault("job_type", job.job_type)
        event.setdefault("attempt", job.attempt)
        event.setdefault("trace_id", job.traceparent.split("-")[1])
        if job.shell_file_id:
            event.setdefault("shell_file_id", str(job.shell_file_id))
    return event


class _LibraryHandler(logging.Handler):
    """Libraries may put anything in a message, a URL or a row: theirs is reduced to who, where and what type."""

    def emit(self, record: logging.LogRecord) -> None:
        error_type = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        structlog.get_logger().log(
            record.levelno,
            "library_message",
            logger=record.name,
            error_at=f"{record.module}:{record.lineno}",
            **({"error_type": error_type} if error_type else {}),
        )


def configure_logs(*, service: str, level: str) -> None:
    """Sets up structlog and takes over the root logger of the standard library."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_trace,
            _add_job,
            _only_allowed,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    root = logging.getLogger()
    root.handlers = [_LibraryHandler()]
    root.setLevel(logging.WARNING)


def describe_error(error: BaseException) -> dict[str, str]:
    """An error without its text: the type, and the innermost line. Text of a record may hide in a message."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else "?"
    return {"error_type": type(error).__name__, "error_at": where}
