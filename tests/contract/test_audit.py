"""The audit of a patient's rows: nobody can write past it, and nobody can bend it unseen."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from shared.database import connect
from tests.conftest import Database, Patient
from tests.users import RefusedError, as_user, upload

VERIFY = "select * from chartloom.verify_audit()"


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


async def test_a_truncate_would_escape_the_audit_and_is_refused(owner: asyncpg.Connection, patient: Patient) -> None:
    for table in ("shell_files", "ocr_pages", "patient_clinical_events", "audit_log"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await owner.execute(f"truncate {table} cascade")


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
    ],
)
async def test_what_was_bent_is_found(
    owner: asyncpg.Connection, patient: Patient, tampering: str, problem: str
) -> None:
    await upload(owner, patient.user_id, patient.profile_id)
    await upload(owner, patient.user_id, patient.profile_id, b"another")
    assert await owner.fetch(VERIFY) == []
    if not tampering.startswith("insert"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await owner.execute(tampering)
    await owner.execute("alter table audit_log disable trigger append_only")
    await owner.execute(tampering)
    found = await owner.fetch(VERIFY)
    assert any(problem in row["problem"] for row in found), [dict(row) for row in found]
    assert {row["patient_id"] for row in found} == {patient.profile_id}


async def test_no_service_and_no_user_writes_the_audit(database: Database, patient: Patient) -> None:
    for role in ("chartloom_ocr", "chartloom_ai", "chartloom_persister", "chartloom_sweeper"):
        connection = await connect(database.url(role), application_name="test")
        for statement in (
            "insert into public.audit_log default values",
            "delete from public.audit_log",
            "update chartloom.audit_chains set length = 0",
            "select chartloom.log_audit_event('read', 'x', gen_random_uuid(), '{}')",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        await connection.close()


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
