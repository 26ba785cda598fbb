"""What row-level security costs a reader: 1,000 patients with 1,000 findings each, and one user who asks for theirs.

As PostgREST asks: the user's role and claims, for one transaction. Against the owner, whom no policy holds, with the
patient's id as a filter. Measured is the query alone; nothing may read a big table through.
"""

import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

import asyncpg

from bench.queue.ground import Ground
from bench.report import Measurement, measured, ratio

from .many_patients import DELEGATE, OWNER, PATIENT, fill, ids

PATIENTS = 1_000
EVENTS = 1_000
ENTRIES = 100
QUERIES = 200
"""Of one round, each for another patient."""

# What an app shows: the timeline, a page of findings. RLS alone says whose; a client may name the patient as well.
VIEWS = {
    "the timeline over all documents": (
        "select event_date, title, event_ids, shell_file_ids from public.patient_timeline "
        "where true{} order by sort_key nulls last, event_date, position",
        ENTRIES,
    ),
    "the timeline": (
        "select id, event_date, title, event_ids from public.healthcare_timeline_events "
        "where superseded_at is null{} order by event_date desc nulls last, position",
        ENTRIES,
    ),
    "the findings": (
        "select id, kind, text, assertion, page, quote, boxes from public.patient_clinical_events "
        "where superseded_at is null{} order by kind, id limit 200",
        200,
    ),
}
OF_PATIENT = " and patient_id = $1"
BIG = ("patient_clinical_events", "healthcare_timeline_events")

NO_RLS = "without RLS"
READERS: dict[str, tuple[str | None, bool]] = {
    # Whose claims, and whether the query names the patient.
    NO_RLS: (None, True),
    "their owner": (OWNER, False),
    "their owner, patient named": (OWNER, True),
    "a delegate": (DELEGATE, False),
    "a delegate, patient named": (DELEGATE, True),
}


async def measure(ground: Ground) -> list[Measurement]:
    async with ground.clone("many_patients") as database:
        ground.progress(f"{PATIENTS} patients with {EVENTS} findings each")
        async with ground.owner(database) as owner, ground.admin(database) as superuser:
            persister_url = ground.persister_url_of(database)
            await fill(owner, superuser, persister_url, patients=PATIENTS, events=EVENTS, entries=ENTRIES)
        times: dict[tuple[str, str], list[float]] = {}
        async with ground.owner(database) as connection:
            for _ in ground.rounds("row security"):
                for view, (query, rows) in VIEWS.items():
                    for reader in READERS:
                        milliseconds = 1000 * await median_time(connection, reader, query, rows)
                        times.setdefault((view, reader), []).append(milliseconds)
                        ground.progress(f"  {view}, {reader}: {milliseconds:.3f} ms")
            assert (through := await read_through(connection)) == [], through
    return [
        *(measured(f"reading {view}, {reader}", runs, "ms") for (view, reader), runs in times.items()),
        *(
            ratio(f"reading {view}: {reader} / no RLS", times[view, reader], times[view, NO_RLS], at_most=1.5)
            for view in VIEWS
            for reader in READERS
            if reader != NO_RLS
        ),
    ]


async def median_time(connection: asyncpg.Connection, reader: str, query: str, rows: int) -> float:
    """Seconds of a query whose pages are in memory: each is asked twice, and the second time counts."""
    taken = []
    for number in random.Random(1).sample(range(1, PATIENTS + 1), QUERIES):
        async with reading(connection, reader, query, number) as (statement, arguments):
            await connection.fetch(statement, *arguments)
            began = time.perf_counter()
            found = await connection.fetch(statement, *arguments)
            taken.append(time.perf_counter() - began)
        assert len(found) == rows, f"{reader} sees {len(found)} rows"
    return median(taken)


async def read_through(connection: asyncpg.Connection) -> list[str]:
    """Who would read a whole table for a view."""
    found = []
    for view, (query, _) in VIEWS.items():
        for reader in READERS:
            async with reading(connection, reader, query, 1) as (statement, arguments):
                plan = await connection.fetchval(f"explain (format json) {statement}", *arguments)
            scans = [node["Relation Name"] for node in nodes(json.loads(plan)[0]["Plan"]) if is_whole(node)]
            found += [f"{view}, {reader}: {table}" for table in scans]
    return found


@asynccontextmanager
async def reading(
    connection: asyncpg.Connection, reader: str, query: str, number: int
) -> AsyncIterator[tuple[str, list[Any]]]:
    """The statement and its arguments, in the reader's transaction; ``number`` is the patient's."""
    user, names_patient = READERS[reader]
    patient_id = await ids(connection, PATIENT, number)
    claims = {"sub": str(await ids(connection, user, number)), "role": "authenticated"} if user else {}
    async with connection.transaction():
        if user:
            await connection.execute(
                "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', $1, true)",
                json.dumps(claims),
            )
        yield query.format(OF_PATIENT if names_patient else ""), [patient_id] if names_patient else []


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


def is_whole(node: dict[str, Any]) -> bool:
    return node["Node Type"] == "Seq Scan" and node["Relation Name"] in BIG
