"""The audit of a patient's rows: nobody can write past it, and nobody can bend it unseen."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from shared.database import connect
from tests.conftest import SERVICE_ROLES, Database, Patient
from tests.contract.test_rls_matrix import fill
from tests.users import RefusedError, as_user, upload

VERIFY = "select * from chartloom.verify_audit()"
ROLES = (*SERVICE_ROLES, "chartloom_operator", "service_role", "authenticated", "anon", "authenticator")


async def test_every_table_with_a_patient_is_audited(owner: asyncpg.Connection) -> None:
    """A new table that forgets its triggers fails here."""
    unaudited = await owner.fetch(
        """
        select c.relname from pg_class as c
        join pg_attribute as a on a.attrelid = c.oid and a.attname = 'patient_id' and not a.attisdropped
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
            and c.relname not in ('audit_log', 'failed_audit_events')
            and 4 <> (
                select count(*) from pg_trigger as t
                where t.tgrelid = c.oid and t.tgenabled = 'O'
                    and t.tgname in ('audit_insert', 'audit_update', 'audit_delete', 'no_truncate')
            )
        """
    )
    assert unaudited == []


async def test_a_change_whose_audit_fails_does_not_happen(owner: asyncpg.Connection, patient: Patient) -> None:
    await owner.execute("alter table audit_log add constraint broken check (action <> 'update') not valid")
    document = await upload_started(owner, patient)
    with pytest.raises(asyncpg.CheckViolationError, match="broken"):
        await owner.execute("update shell_files set file_name = 'other' where id = $1", document)
    with pytest.raises(asyncpg.CheckViolationError, match="broken"):
        await as_user(owner, patient.user_id, "select complete_upload($1)", document)
    assert await owner.fetchval("select (file_name, status)::text from shell_files") == "(letter.pdf,uploading)"
    assert await owner.fetchval("select count(*) from chartloom.job_queue") == 0


async def upload_started(owner: asyncpg.Connection, patient: Patient) -> UUID:
    created = await as_user(
        owner, patient.user_id, "select create_upload($1, 'letter.pdf', $2, 5)", patient.profile_id, "0" * 64
    )
    return UUID(created["shell_file_id"])


async def test_no_write_to_any_audited_table_happens_without_its_audit(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    await fill(owner, patient, {name: uuid4() for name in ("reader", "writer", "expired", "revoked")})
    for row in await owner.fetch(FOREIGN_KEYS):
        await owner.execute(f"alter table {row['name']} drop constraint {row['conname']}")
    for table in await audited_tables(owner):
        async with owner.transaction():
            await owner.execute(f"create temp table kept on commit drop as select * from {table}")
            rows = await owner.fetchval("select count(*) from kept")
            assert rows > 0, table
            column, change = await owner.fetchrow(CHANGE, table)
            columns = ", ".join(row["attname"] for row in await owner.fetch(COLUMNS, table))
            await assert_refused_without_audit(owner, f"update {table} set {column} = {change}")
            await assert_refused_without_audit(owner, f"delete from {table}")
            await owner.execute(f"delete from {table}")
            again = f"insert into {table} ({columns}) overriding system value select {columns} from kept"
            await assert_refused_without_audit(owner, again)
            # It was the audit alone that was in the way.
            await owner.execute(again)
            await owner.execute(f"update {table} set {column} = {change}")
            assert await owner.fetchval(f"select count(*) from {table}") == rows
    assert await owner.fetch(VERIFY) == []


async def assert_refused_without_audit(owner: asyncpg.Connection, statement: str) -> None:
    savepoint = owner.transaction()
    await savepoint.start()
    await owner.execute("alter table audit_log add constraint broken check (false) not valid")
    with pytest.raises(asyncpg.CheckViolationError, match="broken"):
        await owner.execute(statement)
    await savepoint.rollback()


async def audited_tables(owner: asyncpg.Connection) -> list[str]:
    rows = await owner.fetch("select tgrelid::regclass::text as name from pg_trigger where tgname = 'audit_insert'")
    return sorted(row["name"] for row in rows)


# They would refuse some changes before the audit does.
FOREIGN_KEYS = "select conrelid::regclass::text as name, conname from pg_constraint where contype = 'f'"
COLUMNS = """
select attname from pg_attribute
where attrelid = $1::regclass and attnum > 0 and not attisdropped and attgenerated = ''
"""
# Of a column whose change is an event and hurts no constraint: its name, a new value.
CHANGE = """
select a.attname,
    case a.atttypid when 'text'::regtype then format('concat(%I, ''x'')', a.attname) else 'clock_timestamp()' end
from pg_attribute as a
where a.attrelid = $1::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    and a.atttypid in ('text'::regtype, 'timestamptz'::regtype) and a.attname not in ('status', 'completed_at')
    and not exists (select from pg_constraint where conrelid = a.attrelid and contype <> 'n' and a.attnum = any(conkey))
order by a.attnum limit 1
"""


@pytest.mark.parametrize("role", ROLES)
async def test_no_role_gets_round_the_audit(
    role: str, database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    """Of the roles that a service or a user has. The owner, who made the triggers, could take them away."""
    await upload(owner, patient.user_id, patient.profile_id)
    before = await owner.fetch("select * from audit_log")
    connection = await (database.connect(role) if role in SERVICE_ROLES else database.connect_as_superuser())
    if role not in SERVICE_ROLES:
        await connection.execute(f"set role {role}")
    tables = await audited_tables(owner)
    for statement in (
        *(
            f"alter table {table} disable trigger {which}"
            for table in tables
            for which in ("all", "user", "audit_insert")
        ),
        *(f"drop trigger audit_delete on {table}" for table in tables),
        *(f"truncate {table} cascade" for table in tables),
        "alter table public.audit_log disable trigger append_only",
        "truncate public.audit_log",
        "insert into public.audit_log select * from public.audit_log",
        "update public.audit_log set row_ids = '{}'",
        "delete from public.audit_log",
        "insert into chartloom.audit_chains values (gen_random_uuid(), 1, '')",
        "update chartloom.audit_chains set length = 0",
        "delete from chartloom.audit_chains",
        "select chartloom.log_audit_event('read', 'x', gen_random_uuid(), '{}')",
        "select chartloom.log_access('read', 'x', gen_random_uuid(), '{}')",
        "insert into public.failed_audit_events default values",
        "create or replace function chartloom.log_audit_event() returns void language sql as ''",
        "create or replace function chartloom.audit_statement() returns trigger language plpgsql as 'begin end'",
        "alter function chartloom.audit_statement() rename to other",
        "set session_replication_role = replica",
        "select set_config('session_replication_role', 'replica', false)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()
    assert await owner.fetch("select * from audit_log") == before
    assert await owner.fetch(VERIFY) == []


async def test_the_owner_has_to_take_triggers_away_to_get_round_the_audit(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    await upload(owner, patient.user_id, patient.profile_id)
    for statement in (
        *(f"truncate {table} cascade" for table in await audited_tables(owner)),
        "truncate audit_log",
        "update audit_log set row_ids = '{}'",
        "delete from audit_log",
        "set session_replication_role = replica",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await owner.execute(statement)
    assert await owner.fetch(VERIFY) == []


@pytest.mark.parametrize(
    ("tampering", "problem"),
    [
        ("update audit_log set table_name = 'other' where seq = 3", "it was changed"),
        ("update audit_log set row_ids = '{}' where seq = 3", "it was changed"),
        ("delete from audit_log where seq = 3", "events before it are missing"),
        ("delete from audit_log where seq = (select max(seq) from audit_log)", "the last events are missing"),
        ("delete from audit_log", "the last events are missing"),
        (
            # Two events change places, each with a hash that fits its content.
            "update audit_log set seq = -seq where seq in (2, 3); "
            "update audit_log set seq = case seq when -2 then 3 else 2 end where seq < 0; "
            "update audit_log as a set hash = chartloom.audit_hash(a) where seq in (2, 3)",
            "it does not follow the one before",
        ),
        (
            "insert into audit_log select (jsonb_populate_record(a, jsonb_build_object('seq', a.seq + 1))).* "
            "from audit_log as a where seq = (select max(seq) from audit_log)",
            "were added to",
        ),
        ("update chartloom.audit_chains set length = length - 1", "the last events are missing or were added to"),
        ("delete from chartloom.audit_chains", "the chain has no end"),
    ],
)
async def test_what_was_bent_is_found(
    owner: asyncpg.Connection, patient: Patient, tampering: str, problem: str
) -> None:
    await upload(owner, patient.user_id, patient.profile_id)
    await upload(owner, patient.user_id, patient.profile_id, b"another")
    assert await owner.fetch(VERIFY) == []
    if tampering.startswith(("update audit_log", "delete from audit_log")):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await owner.execute(tampering)
    await owner.execute("alter table audit_log disable trigger append_only")
    await owner.execute(tampering)
    found = await owner.fetch(VERIFY)
    assert any(problem in row["problem"] for row in found), [dict(row) for row in found]
    assert {row["patient_id"] for row in found} == {patient.profile_id}


async def test_a_patients_chain_holds_under_many_writers(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    async def write(worker: int) -> None:
        connection = await connect(database.url("chartloom_owner"), application_name="test")
        for number in range(10):
            await upload(connection, patient.user_id, patient.profile_id, f"{worker}-{number}".encode())
        await connection.close()

    await asyncio.gather(*(write(worker) for worker in range(6)))
    assert await owner.fetch(VERIFY) == []
    assert await owner.fetchval("select max(seq) from audit_log") == 1 + 6 * 10 * 2


async def test_a_denial_leaves_an_event(owner: asyncpg.Connection, patient: Patient) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    stranger = uuid4()
    with pytest.raises(RefusedError):
        await upload(owner, stranger, patient.profile_id, b"not theirs")
    await as_user(owner, stranger, "select complete_upload($1)", document)
    denied = await owner.fetch("select * from audit_log where action = 'denied' order by seq")
    assert [(row["actor_user_id"], row["row_ids"]) for row in denied] == [(stranger, []), (stranger, [str(document)])]


async def test_a_denial_whose_event_fails_is_tried_again(owner: asyncpg.Connection, patient: Patient) -> None:
    await owner.execute("alter table audit_log add constraint broken check (action <> 'denied') not valid")
    stranger = uuid4()
    with pytest.raises(RefusedError):
        await upload(owner, stranger, patient.profile_id)
    assert await owner.fetchval("select chartloom.retry_audit_events()") == 0
    await owner.execute("alter table audit_log drop constraint broken")
    assert await owner.fetchval("select chartloom.retry_audit_events()") == 1
    event = await owner.fetchrow("select * from audit_log where action = 'denied'")
    assert (event["actor_user_id"], event["actor_role"]) == (stranger, "authenticated")
    assert await owner.fetchval("select count(*) from failed_audit_events") == 0
    assert await owner.fetch(VERIFY) == []


async def test_the_audit_holds_no_value(owner: asyncpg.Connection, patient: Patient) -> None:
    await owner.execute(
        "update user_profiles set display_name = 'Zebra Canary', birth_date = '1957-03-09' where id = $1",
        patient.profile_id,
    )
    event: Any = await owner.fetchrow("select * from audit_log order by seq desc limit 1")
    assert event["column_names"] == ["birth_date", "display_name"]
    assert "Zebra" not in str(dict(event))
    assert "1957" not in str(dict(event))
