"""One way to fail. An error's type decides what becomes of its job; its code is stable; its message says what to do.

A code and a message reach operators and, for a document, its owner: neither may hold a word of a record.
"""

from datetime import timedelta


class ChartloomError(Exception):
    """The root of every error that Chartloom raises itself. ``code`` is snake_case and stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ConfigurationError(ChartloomError):
    """The process can't start as it is set up."""


class TransientError(ChartloomError):
    """May pass: spends an attempt and retries by the row's own policy."""


class TerminalError(ChartloomError):
    """Will not pass: straight to dead letter, and the document's owner is told."""


class BusyError(ChartloomError):
    """The other side asks for patience (429, a full slot): the job is snoozed and no attempt is spent."""

    def __init__(self, code: str, message: str, retry_after: timedelta) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after


class LeaseLostError(ChartloomError):
    """Somebody else holds the job now. Whatever this worker still wanted to write was refused."""


class JobCancelledError(ChartloomError):
    """The job was cancelled while it ran."""
