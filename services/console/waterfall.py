"""Where a document's time went, as bars: the geometry; what an attempt is, shared/attempts.py says."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from shared.attempts import attempts, began_to_wait

SCALE = 1000
"""The width of the whole in the drawing's own units."""


def waterfall(jobs: Sequence[dict[str, Any]], uploaded_at: datetime | None, now: datetime) -> dict[str, Any]:
    """Rows of attempts with the places of their bars, and how long it all took."""
    if not jobs:
        return {"rows": [], "seconds": 0.0}
    began = min([uploaded_at or now, *(began_to_wait(job, job["errors"]) for job in jobs)])
    rows = [
        {"job_type": job["job_type"], "number": number, **attempt}
        for job in jobs
        for number, attempt in enumerate(attempts(job, job["errors"], began, now), 1)
    ]
    whole = max((row["ended_s"] for row in rows), default=0.0) or 1.0
    for row in rows:
        start, end = row["offset_s"], row["ended_s"]
        begin = start + (row["waited_s"] or 0.0)
        row["waited_x"] = _place(start, whole)
        row["waited_width"] = _place(begin - start, whole)
        row["worked_x"] = min(_place(begin, whole), SCALE - 4)
        row["worked_width"] = 0 if row["outcome"] == "waiting" else max(_place(end - begin, whole), 4)
    return {"rows": rows, "seconds": whole}


def _place(seconds: float, whole: float) -> float:
    return round(seconds / whole * SCALE, 1)
