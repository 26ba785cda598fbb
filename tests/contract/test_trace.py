"""The waterfall of a document tells, from rows alone, what waited, what worked and what went wrong, to the second."""

import io
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from rich.console import Console

from cli.waterfall import draw, read_trace
from tests.conftest import Patient
from tests.pipeline import claim, page
from tests.users import upload

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
At = Callable[[float], Awaitable[None]]


@pytest.fixture
async def at(owner: asyncpg.Connection) -> At:
    """Sets the clock of the owner's session to so many seconds after noon."""

    async def move(seconds: float) -> None:
        moved = NOON + timedelta(seconds=seconds)
        await owner.execute("select set_config('chartloom.clock', $1, false)", moved.isoformat())

    await move(0)
    return move


async def complete(owner: asyncpg.Connection, job: asyncpg.Record) -> None:
    await owner.execute("select chartloom.complete_job($1, $2)", job["job_id"], job["lease_token"])


async def fail(owner: asyncpg.Connection, job: asyncpg.Record, code: str, *, is_transient: bool) -> None:
    await owner.execute(
        "select chartloom.fail_job($1, $2, $3, 'advice', $4)", job["job_id"], job["lease_token"], code, is_transient
    )


def attempts(trace: dict[str, Any], job_type: str) -> list[tuple[Any, ...]]:
    (job,) = [job for job in trace["jobs"] if job["job_type"] == job_type]
    return [(a["outcome"], a["offset_s"], a["waited_s"], a["worked_s"]) for a in job["attempts"]]


async def test_retries_snoozes_and_lost_leases_are_siblings_with_their_waits(
    owner: asyncpg.Connection, patient: Patient, at: At
) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    await at(2)
    job = await claim(owner, "ocr")
    await owner.fetchval(
        "select chartloom.save_ocr_pages($1, $2, $3)", job["job_id"], job["lease_token"], [page("Some words.")]
    )
    await at(5)
    await complete(owner, job)
    await at(6)
    job = await claim(owner, "ai_detect")
    await at(8)
    await fail(owner, job, "model_unavailable", is_transient=True)
    await at(20)
    job = await claim(owner, "ai_detect")
    await at(21)
    await owner.execute(
        "select chartloom.release_job($1, $2, 9, 'model_rate_limited', 'wait')", job["job_id"], job["lease_token"]
    )
    await at(30)
    await claim(owner, "ai_detect")
    await at(91)
    await owner.execute("select chartloom.sweep_expired_leases()")
    await at(92)
    job = await claim(owner, "ai_detect")
    await at(95)
    await complete(owner, job)
    await at(96)
    running = await claim(owner, "ai_enrich")
    await at(100)

    trace = await read_trace(owner, document)
    assert trace is not None
    assert (trace["fast_queue_s"], trace["ai_queue_s"]) == (5, None)
    assert attempts(trace, "ocr") == [("completed", 0, 2, 3)]
    assert attempts(trace, "ai_detect") == [
        ("transient", 5, 1, 2),
        ("snoozed", 8, 12, 1),
        ("lease_lost", 21, 9, 61),
        ("completed", 91, 1, 3),
    ]
    assert attempts(trace, "ai_enrich") == [("processing", 95, 1, 4)]
    assert await read_trace(owner, running["job_id"]) == trace

    picture = io.StringIO()
    Console(file=picture, width=120).print(draw(trace, width=120))
    heading, ids, queues, _, ocr, failed, snoozed, lost, completed, enrich = picture.getvalue().splitlines()
    assert f"document {document}  processing" in heading
    assert f"trace {trace['trace_id']}  since 2026-11-24 12:00:00 UTC" in ids
    assert queues.strip() == "fast queue 5.0 s"
    assert ocr.split()[:3] == ["ocr", str(trace["jobs"][0]["job_id"]), "1"]
    assert "model_unavailable" in failed
    assert "12.00 s" in snoozed
    assert "model_rate_limited" in snoozed
    assert "lease_expired" in lost
    # Of 100 s the frozen worker took those from 30 to 91: of 48 cells, 14 to 44.
    assert lost.count("█") == 30
    assert completed.split()[0] == "4"
    assert enrich.rstrip().endswith("█")


async def test_what_failed_before_attempts_had_a_beginning_is_shown_without_one(
    owner: asyncpg.Connection, patient: Patient, at: At
) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    await at(1)
    await fail(owner, await claim(owner, "ocr"), "file_corrupt", is_transient=False)
    await owner.execute("update chartloom.processing_errors set started_at = null")
    trace = await read_trace(owner, document)
    assert trace is not None
    assert trace["status"] == "failed"
    assert attempts(trace, "ocr") == [("terminal", 0, None, None)]
    picture = io.StringIO()
    Console(file=picture, width=120).print(draw(trace, width=120))
    assert "╌" in picture.getvalue()


async def test_a_redriven_job_keeps_its_earlier_attempts_and_waits(
    owner: asyncpg.Connection, patient: Patient, at: At
) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    await at(1)
    job = await claim(owner, "ocr")
    await at(2)
    await fail(owner, job, "file_corrupt", is_transient=False)
    await at(10)
    await owner.execute("select chartloom.redrive_jobs(array[$1::bigint])", job["job_id"])
    await at(15)
    trace = await read_trace(owner, document)
    assert trace is not None
    # When it was first enqueued is no longer known.
    assert attempts(trace, "ocr") == [("terminal", 1, 0, 1), ("waiting", 2, 13, 0)]


async def test_a_job_that_is_cancelled_while_it_waits_has_no_attempt_more(
    owner: asyncpg.Connection, patient: Patient, at: At
) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    await at(1)
    job = await claim(owner, "ocr")
    await at(2)
    await fail(owner, job, "unexpected_error", is_transient=True)
    await owner.execute("select chartloom.cancel_document_jobs($1)", document)
    trace = await read_trace(owner, document)
    assert trace is not None
    assert attempts(trace, "ocr") == [("transient", 0, 1, 1)]


async def test_a_job_without_a_document_and_what_is_not_there(owner: asyncpg.Connection, at: At) -> None:
    job_id = await owner.fetchval("select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}')")
    await at(3)
    trace = await read_trace(owner, job_id)
    assert trace is not None
    assert (trace["shell_file_id"], attempts(trace, "ocr")) == (None, [("waiting", 0, 3, 0)])
    assert draw(trace, width=80)
    assert await read_trace(owner, 10**9) is None
    assert await read_trace(owner, uuid4()) is None
