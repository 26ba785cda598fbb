"""What a run left of patients' data, to be compared with what another one left."""

import asyncpg

# What is no part of the record: ids and times. In the audit, too, where an event stands in its chain.
LEFT_OUT = """
select attname from pg_attribute
where attrelid = $1::regclass and attnum > 0 and not attisdropped and (
    attname = 'id' or atttypid = 'timestamptz'::regtype
    or attrelid = 'audit_log'::regclass and attname in ('seq', 'previous_hash', 'hash', 'job_id')
)
"""


async def record(owner: asyncpg.Connection) -> dict[str, list[str]]:
    """Every row of every table with patients' data, the audit among them; ids and times aside."""
    tables = await owner.fetch(
        "select relname from chartloom.patient_tables() join pg_class on oid = relation "
        "where relnamespace = 'public'::regnamespace order by relname"
    )
    found = {}
    for table in [row["relname"] for row in tables]:
        left_out = [row["attname"] for row in await owner.fetch(LEFT_OUT, table)]
        rows = await owner.fetch(f"select (to_jsonb(t) - $1::text[])::text as contents from {table} as t", left_out)
        found[table] = sorted(row["contents"] for row in rows)
    return found
