"""What a call costs with a million rows in the table is what it costs with none: no plan reads the table through.

Measured with EXPLAIN (ANALYZE, BUFFERS), whose buffers include those of every statement inside a function, and with the
counters that Postgres keeps of the transaction at hand, which tell a sequential scan wherever it happened.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from bench.record.many_patients import fill
from bench.record.row_security import read_through
from tests.conftest import Database, Patient
from tests.users import upload

MILLION = 1_000_000
ROUNDS = 6
"""Enough for a plan that is made for any argument to take the place of those that are made for each."""
MAXIMUM_BUFFERS = 1_500
"""Of one call, for a batch of ten. The tables have 30,000 pages and more; the calls here touch 20 to 400."""
BIG = 1_000
"""A table of more pages than this is one that grows."""

READ_THROUGH = f"""
select s.relname, s.seq_tup_read from pg_stat_xact_user_tables as s
where s.seq_scan > 0 and pg_relation_size(s.relid) / 8192 > {BIG}
"""
"""These counters go on until Postgres adds them to the table's, once a second: it is the difference that tells."""

COLUMNS = (
    "select attname from pg_attribute where attrelid = $1::regclass and attnum > 0 and not attisdropped order by attnum"
)


async def multiply(owner: asyncpg.Connection, table: str, job_id: int, count: int, **changes: str) -> None:
    """Copies one row so many times. ``changes`` are expressions over the number ``n`` of the copy."""
    expressions = {row["attname"]: f"p.{row['attname']}" for row in await owner.fetch(COLUMNS, table)}
    assert changes.keys() <= expressions.keys()
    expressions |= {"id": "p.id + 1000 + n", **changes}
    await owner.execute(
        f"insert into {table} ({', '.join(expressions)}) overriding system value "
        f"select {', '.join(expressions.values())} from {table} as p cross join generate_series(1, {count}) as n "
        f"where p.id = {job_id}",
        timeout=600,
    )
    await owner.execute("select setval(pg_get_serial_sequence('chartloom.job_queue', 'id'), $1)", job_id + 1001 + count)


async def one_pending(owner: asyncpg.Connection, at: str = "null") -> int:
    job_id: int = await owner.fetchval(
        f"select chartloom.enqueue_job_v3('ocr', 'fast', '{{\"noop\": true}}', p_scheduled_at => {at})"
    )
    return job_id


async def fill_pending(owner: asyncpg.Connection, count: int) -> None:
    """Of a thousand patients, a thousand each, as enqueueing them one by one would have lined them up."""
    await multiply(
        owner,
        "chartloom.job_queue",
        await one_pending(owner),
        count,
        fairness_key="'patient ' || n % 1000",
        fair_tag="n / 1000",
    )


async def fill_future(owner: asyncpg.Connection, count: int) -> None:
    await multiply(
        owner,
        "chartloom.job_queue",
        await one_pending(owner, "now() + interval '1 day'"),
        count,
        scheduled_at="p.scheduled_at + n * interval '1 second'",
    )


async def fill_archive(owner: asyncpg.Connection, count: int) -> None:
    await one_pending(owner)
    job = await owner.fetchrow("select * from chartloom.claim_jobs('w', array['ocr'], 1)")
    await owner.execute("select chartloom.complete_job($1, $2)", job["job_id"], job["lease_token"])
    await multiply(
        owner,
        "chartloom.job_archive",
        job["job_id"],
        count,
        completed_at="p.completed_at - n * interval '1 second'",
    )


SHAPES: dict[str, Callable[[asyncpg.Connection, int], Any]] = {
    "pending": fill_pending,
    "future": fill_future,
    "archived": fill_archive,
}


NOOP = "'{\"noop\": true}'"
CAPS = "update chartloom.job_types set max_processing = $1, max_processing_per_key = $2 where job_type = 'ocr'"
HELD = "select id, lease_token from chartloom.job_queue where status = 'processing' order by id"


@dataclass
class Meter:
    """Calls functions on one connection and keeps what a call of each cost at most."""

    name: str
    connection: asyncpg.Connection
    owner: asyncpg.Connection
    buffers: dict[str, int]
    read_through: set[str]
    measuring: bool = False

    async def __call__(self, name: str, call: str, *arguments: Any) -> None:
        async with self.connection.transaction():
            before: dict[str, int] = dict(await self.connection.fetch(READ_THROUGH))
            explained = await self.connection.fetchval(
                f"explain (analyze, buffers, timing off, format json) select * from chartloom.{call}", *arguments
            )
            if not self.measuring:
                return
            plan = json.loads(explained)[0]["Plan"]
            cost = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
            key = f"{name}, {self.name}"
            self.buffers[key] = max(self.buffers.get(key, 0), cost)
            for table, rows in await self.connection.fetch(READ_THROUGH):
                if rows > before.get(table, 0):
                    self.read_through.add(f"{name}, {self.name}: {rows - before.get(table, 0)} rows of {table}")

    async def held(self) -> tuple[list[int], list[UUID]]:
        rows = await self.owner.fetch(HELD)
        return [row["id"] for row in rows], [row["lease_token"] for row in rows]

    async def a_day(self) -> None:
        """Everything that may happen to jobs, once. A batch is of ten."""
        for _ in range(10):
            await self(
                "enqueue_job_v3", f"enqueue_job_v3('ocr', 'fast', {NOOP}, p_fairness_key => $1)", f"patient {uuid4()}"
            )
        await self("enqueue_jobs_v3", f"enqueue_jobs_v3('ocr', 'fast', array_fill({NOOP}::jsonb, array[10]))")
        for _ in range(2):
            await self("claim_jobs", "claim_jobs('w', array['ocr'], 10)")
        ids, tokens = await self.held()
        assert len(ids) == 20
        await self("heartbeat_jobs", "heartbeat_jobs('w', 'ocr', '0', $1, $2)", ids[:10], tokens[:10])
        await self("complete_job", "complete_job($1, $2)", ids[0], tokens[0])
        await self("complete_jobs", "complete_jobs($1, $2)", ids[1:10], tokens[1:10])
        # What is not there is looked for in the archive.
        await self("complete_jobs, refused", "complete_jobs($1, $2)", ids[:10], tokens[:10])
        await self("heartbeat_jobs, refused", "heartbeat_jobs('w', 'ocr', '0', $1, $2)", ids[:10], tokens[:10])
        await self("fail_job, transient", "fail_job($1, $2, 'x', 'y', true)", ids[10], tokens[10])
        await self("fail_job, terminal", "fail_job($1, $2, 'x', 'y', false)", ids[11], tokens[11])
        await self("redrive_jobs", "redrive_jobs($1)", [ids[11]])
        await self("release_job", "release_job($1, $2, 60)", ids[12], tokens[12])
        # The worker of the others died.
        await self.owner.execute(
            "update chartloom.job_queue set lease_expires_at = now() - interval '1 second' where id = any($1)", ids[13:]
        )
        await self("next_deadline", "next_deadline()")
        await self("sweep_expired_leases", "sweep_expired_leases(10)")
        assert await self.held() == ([], [])
        await self("sweep_expired_leases, none", "sweep_expired_leases()")
        await self.owner.execute(
            "update chartloom.job_queue set scheduled_at = now() - interval '1 second' where id = any($1)",
            [ids[10], ids[12]],
        )
        await self("promote_due_jobs", "promote_due_jobs(10)")
        waiting = "select count(*) from chartloom.job_queue where id = any($1) and not is_ready"
        assert await self.owner.fetchval(waiting, ids) == 0
        await self("promote_due_jobs, none", "promote_due_jobs()")
        await self.owner.execute(CAPS, 1000, 100)
        await self("claim_jobs, capped", "claim_jobs('w', array['ocr'], 10)")
        await self.owner.execute(CAPS, None, None)
        ids, tokens = await self.held()
        assert len(ids) == 10
        await self("complete_jobs", "complete_jobs($1, $2)", ids, tokens)
        await self("cancel_document_jobs", "cancel_document_jobs($1)", uuid4())


@pytest.mark.parametrize(
    "count", [pytest.param(50_000, id="50k"), pytest.param(MILLION, id="1M", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.timeout(300)
async def test_no_call_costs_more_for_what_lies_in_the_table(
    database: Database, owner: asyncpg.Connection, shape: str, count: int
) -> None:
    # Autovacuum would make the statistics good at a moment of its own; here it is the test that says when.
    for row in await owner.fetch(
        "select oid::regclass::text as name from pg_class where relname ~ '^job_(queue|archive_)' and relkind = 'r'"
    ):
        await owner.execute(f"alter table {row['name']} set (autovacuum_enabled = false)")
    buffers: dict[str, int] = {}
    read_through: set[str] = set()
    # One session has made its plans while the tables were empty, and knows no better: a worker that starts on a quiet
    # day, before the flood.
    early = Meter("planned while the table was empty", await database.connect(), owner, buffers, read_through)
    for _ in range(ROUNDS):
        await early.a_day()
    await SHAPES[shape](owner, count)
    early.measuring = True
    await early.a_day()
    await owner.execute("analyze chartloom.job_queue, chartloom.job_archive")
    late = Meter("planned after", await database.connect(), owner, buffers, read_through, measuring=True)
    for _ in range(ROUNDS):
        await late.a_day()
    await early.connection.close()
    await late.connection.close()
    assert read_through == set()
    assert {name: cost for name, cost in buffers.items() if cost > MAXIMUM_BUFFERS} == {}, buffers


async def test_a_users_view_of_a_record_reads_no_other_patients_rows(
    database: Database, owner: asyncpg.Connection
) -> None:
    superuser = await database.connect_as_superuser()
    await fill(owner, superuser, database.url("chartloom_persister"), patients=400, events=50, entries=25)
    await superuser.close()
    assert await read_through(owner) == []


async def test_every_policy_can_use_an_index(owner: asyncpg.Connection) -> None:
    """``in (select …)`` in a policy is a filter on every row of its table."""
    filters = await owner.fetch(
        "select tablename, policyname from pg_policies where schemaname = 'public' and qual ~* '\\mIN \\( SELECT'"
    )
    assert filters == []


READS = {
    "ocr": "select from chartloom.read_ocr_input($1, $2), chartloom.missing_pages($1, $2, 1)",
    "ai_detect": "select from chartloom.read_ai_input($1, $2, true, null)",
    "ai_enrich": "select from chartloom.read_ai_input($1, $2, true, 'detect')",
    "ai_narrate": "select from chartloom.read_ai_input($1, $2, false, 'enrich')",
    "persist": "select from chartloom.read_persist_input($1, $2)",
}
KEEP_RESULT = """
insert into public.ai_pass_results
    (run_id, pass, shell_file_id, patient_id, provider, model, prompt_version, schema_version, result)
select r.id, $2, f.id, f.patient_id, '', '', '', '', '{}'
from chartloom.document_runs as r join public.shell_files as f on f.id = r.shell_file_id where r.id = $1
"""
GROWING = ["ai_checkpoints", "ai_pass_results", "document_runs", "ocr_pages", "shell_files"]


async def test_what_a_job_reads_is_found_by_an_index_from_the_first_document_on(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    """A plan that was made for tables as good as empty is kept, until a burst has filled them."""
    scanned: set[tuple[str, str]] = set()
    await owner.execute("vacuum analyze public.ai_pass_results")
    for number in range(ROUNDS):
        await upload(owner, patient.user_id, patient.profile_id, b"record %d" % number)
        for job_type, read in READS.items():
            (job,) = await owner.fetch("select * from chartloom.claim_jobs('w', array[$1], 1)", job_type)
            async with owner.transaction():
                before = dict(await owner.fetch("select relname, seq_scan from pg_stat_xact_user_tables"))
                await owner.execute(read, job["job_id"], job["lease_token"])
                after = dict(await owner.fetch("select relname, seq_scan from pg_stat_xact_user_tables"))
                scanned |= {(job_type, table) for table in GROWING if after.get(table, 0) > before.get(table, 0)}
            await owner.execute("select chartloom.complete_job($1, $2)", job["job_id"], job["lease_token"])
            if job_type in ("ai_detect", "ai_enrich"):
                await owner.execute(KEEP_RESULT, UUID(job["payload"]["run_id"]), job_type.removeprefix("ai_"))
    assert scanned == set()
