"""A thousand patients' clinical rows: a persisted document, copied in SQL. For a measure and a test of plans."""

import random
from uuid import UUID

import asyncpg

from shared.database import open_pool

from .documents import Persister, add_documents, enqueue

COLUMNS = """
select attname from pg_attribute
where attrelid = $1::regclass and attnum > 0 and not attisdropped and attgenerated = '' order by attnum
"""
# Ids that follow from a number, so that no copy has to know another.
PATIENT = "md5('patient ' || {n})::uuid"
OWNER = "md5('owner ' || {n})::uuid"
DELEGATE = "md5('delegate ' || {n})::uuid"
EVENT = "md5('event ' || patient || ' ' || n)::uuid"


async def ids(connection: asyncpg.Connection, expression: str, number: int) -> UUID:
    """The id of one of them, by PATIENT, OWNER or DELEGATE."""
    found: UUID = await connection.fetchval(f"select {expression.format(n=number)}")
    return found


async def fill(
    owner: asyncpg.Connection,
    superuser: asyncpg.Connection,
    persister_url: str,
    *,
    patients: int,
    events: int,
    entries: int,
) -> None:
    """So many findings and timeline entries for each, a user who owns the profile and another with a grant to read it.

    The copies by the superuser, who alone may leave out triggers and foreign keys: they take longer than the rows.
    """
    await enqueue(owner, await add_documents(owner, random.Random("many patients"), patients=1, documents=2))
    pool = await open_pool(persister_url, size=2, application_name="bench")
    persister = Persister(pool)
    async with pool.acquire() as connection:
        for shaped in await persister.shape(2):
            await persister.store(connection, shaped)
    await pool.close()
    async with superuser.transaction():
        await superuser.execute("set local session_replication_role = replica")
        number = f"generate_series(1, {patients}) as n"
        await superuser.execute(
            f"insert into public.user_profiles (id, owner_user_id) "
            f"select {PATIENT.format(n='n')}, {OWNER.format(n='n')} from {number}"
        )
        await superuser.execute(
            f"insert into public.profile_access (grantee_user_id, profile_id, access_level) "
            f"select {DELEGATE.format(n='n')}, {PATIENT.format(n='n')}, 'read' from {number}"
        )
        run = {"run_id": "gen_random_uuid()"}
        finding = {"id": EVENT, "finding_key": "gen_random_uuid()"}
        await multiply(superuser, "public.patient_clinical_events", patients, events, **run, **finding)
        # Each tells of a finding of its patient's, and stands for itself.
        entry = {"event_ids": f"array[{EVENT}]", "fact_key": "null"}
        await multiply(superuser, "public.healthcare_timeline_events", patients, entries, **run, **entry)
        for spoke, kind in (("observations", "observation"), ("interventions", "intervention")):
            await superuser.execute(
                f"insert into public.patient_{spoke} (event_id, patient_id) "
                f"select id, patient_id from public.patient_clinical_events where kind = '{kind}' "
                "on conflict do nothing"
            )
    await superuser.execute("vacuum analyze")


async def multiply(superuser: asyncpg.Connection, table: str, patients: int, each: int, **changes: str) -> None:
    """Copies the rows of a table in turn until each patient has so many. What is not named stays as it is."""
    columns = [row["attname"] for row in await superuser.fetch(COLUMNS, table)]
    expressions = {column: f"original.{column}" for column in columns}
    expressions |= {"id": "gen_random_uuid()", "patient_id": PATIENT.format(n="patient"), **changes}
    await superuser.execute(
        f"""
        with originals as (select *, row_number() over () - 1 as place, count(*) over () as many from {table})
        insert into {table} ({", ".join(expressions)})
        select {", ".join(expressions.values())}
        from generate_series(1, {patients}) as patient
        cross join generate_series(1, {each}) as n
        join originals as original on original.place = n % original.many
        """,
        timeout=600,
    )
