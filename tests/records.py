"""What a run left of patients' data, to be compared with what another one left."""

import asyncpg

# What is no part of the record: ids, and what was when and took how long. In the audit, too, where an event stands in
# its chain, and what was written together: pages are kept in other lots.
LEFT_OUT = """
select attname from pg_attribute
where attrelid = $1::regclass and attnum > 0 and not attisdropped and (
    attname in ('id', 'timings') or atttypid = 'timestamptz'::regtype
    or attrelid = 'audit_log'::regclass and attname in ('seq', 'previous_hash', 'hash', 'job_id', 'row_ids')
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
        rows_of_an_event = "left join lateral unnest(t.row_ids)" if table == "audit_log" else "left join (select '')"
        rows = await owner.fetch(
            "select (to_jsonb(t) - $1::text[] || jsonb_build_object('row', row_id))::text as contents "
            f"from {table} as t {rows_of_an_event} as r (row_id) on true "
            # What was asked of a model is kept until the pass is stored: how often depends on what was repeated.
            "where coalesce(to_jsonb(t) ->> 'table_name', '') <> 'ai_checkpoints'",
            left_out,
        )
        found[table] = sorted(row["contents"] for row in rows)
    return found
