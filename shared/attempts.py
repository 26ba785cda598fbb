"""The attempts of a job, from its row and from what ended each that failed: waits and work, in seconds."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

Job = Mapping[str, Any]
"""``status``, ``created_at``, ``started_at``, ``completed_at``, and ``worker_id`` where it is known."""
Error = Mapping[str, Any]
"""``kind``, ``code``, ``started_at``, ``occurred_at``, and ``worker_id`` where it is known; a job's in their order."""


def attempts(job: Job, errors: Sequence[Error], origin: datetime, now: datetime) -> Iterator[dict[str, Any]]:
    """Each attempt with the wait before it. The wait for a retry is the next attempt's."""
    since = began_to_wait(job, errors)
    seen = set()

    def attempt(
        began: datetime | None, ended: datetime, outcome: str, code: str | None, worker: str | None
    ) -> dict[str, Any]:
        return {
            "outcome": outcome,
            "code": code,
            "worker_id": worker,
            "offset_s": seconds_between(origin, since),
            "waited_s": seconds_between(since, began),
            "worked_s": seconds_between(began, ended),
            "ended_s": seconds_between(origin, ended),
        }

    for error in errors:
        if error["kind"] == "cancelled" and (error["started_at"] is None or error["started_at"] in seen):
            continue  # it waited: nobody's attempt was ended
        yield attempt(error["started_at"], error["occurred_at"], error["kind"], error["code"], error.get("worker_id"))
        seen.add(error["started_at"])
        since = error["occurred_at"]
    if job["status"] in ("completed", "processing"):
        yield attempt(job["started_at"], job["completed_at"] or now, job["status"], None, job.get("worker_id"))
    elif job["status"] in ("pending", "failed"):
        yield attempt(now, now, "waiting", None, None)


def began_to_wait(job: Job, errors: Sequence[Error]) -> datetime:
    """A redrive counts created_at anew, and the job's earlier attempts were before that."""
    first: datetime = min([job["created_at"], *(error["started_at"] or error["occurred_at"] for error in errors)])
    return first


def seconds_between(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else round((end - start).total_seconds(), 3)
