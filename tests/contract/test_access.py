"""Who may do what: users see their own, services reach only what they hold, nobody writes the queue."""

from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.conftest import SERVICE_ROLES, WORKER_ROLES, Database, Patient
from tests.users import RefusedError, as_user, upload

PATIENT_TABLES = [
    "user_profiles",
    "shell_files",
    "ocr_pages",
    "ai_pass_results",
    "patient_clinical_events",
    "patient_observations",
    "patient_interventions",
    "clinical_narratives",
    "healthcare_timeline_events",
    "finding_reviews",
    "patient_timeline",
    "audit_log",
]


@pytest.mark.parametrize("role", SERVICE_ROLES)
async def test_a_service_role_holds_no_grant_on_any_table(owner: asyncpg.Connection, role: str) -> None:
    held = await owner.fetch(
        """
        select c.oid::regclass::text as relation, privilege
        from pg_class as c, unnest(array['select', 'insert', 'update', 'delete', 'truncate']) as privilege
        where c.relkind in ('r', 'p', 'v') and c.relnamespace in ('public'::regnamespace, 'chartloom'::regnamespace)
            and has_table_privilege($1, c.oid, privilege)
        """,
        role,
    )
    assert held == []


async def test_no_function_of_the_contract_is_open_to_everybody(owner: asyncpg.Connection) -> None:
    open_to_anon = await owner.fetch(
        """
        select p.oid::regprocedure::text from pg_proc as p
        where p.pronamespace in ('chartloom'::regnamespace, 'public'::regnamespace)
            and has_function_privilege('anon', p.oid, 'execute')
        """
    )
    assert open_to_anon == []


async def test_every_function_pins_its_search_path(owner: asyncpg.Connection) -> None:
    loose = await owner.fetch(
        """
        select p.oid::regprocedure::text from pg_proc as p
        where p.pronamespace in ('chartloom'::regnamespace, 'public'::regnamespace)
            and not coalesce('search_path=""' = any(p.proconfig), false)
        """
    )
    assert loose == []


async def test_users_reach_only_what_is_made_for_them(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch(
        """
        select p.pronamespace::regnamespace::text || '.' || p.proname as name from pg_proc as p
        where p.pronamespace in ('chartloom'::regnamespace, 'public'::regnamespace)
            and has_function_privilege('authenticated', p.oid, 'execute')
        """
    )
    assert {row["name"] for row in rows} == {
        "public.create_upload",
        "public.complete_upload",
        "public.fhir_bundle",
        "public.review_finding",
        "chartloom.create_upload",
        "chartloom.complete_upload",
        "chartloom.fhir_bundle",
        "chartloom.review_finding",
        "chartloom.export_rows",
        "chartloom.begin_erasure",
        "chartloom.erase_rows",
        "chartloom.files_to_erase",
        "chartloom.finish_erasure",
        "chartloom.answer",
        "chartloom.document_jobs",
        "chartloom.document_stages",
        "chartloom.accessible_profiles",
        "chartloom.has_profile_access",
        "chartloom.is_page_image",
    }


@pytest.mark.parametrize(
    ("role", "foreign_type"),
    [
        ("chartloom_ocr", "persist"),
        ("chartloom_ai", "ocr"),
        ("chartloom_persister", "ai_detect"),
        ("chartloom_sweeper", "ocr"),
    ],
)
async def test_a_service_claims_only_its_own_types(database: Database, role: str, foreign_type: str) -> None:
    connection = await database.connect(role)
    try:
        with pytest.raises(asyncpg.PostgresError, match=foreign_type) as refused:
            await connection.fetch("select * from chartloom.claim_jobs('w', array[$1], 1)", foreign_type)
        assert refused.value.sqlstate == "CL006"
    finally:
        await connection.close()


@pytest.mark.parametrize("role", SERVICE_ROLES)
async def test_a_service_may_not_enqueue_or_redrive(database: Database, role: str) -> None:
    connection = await database.connect(role)
    try:
        for query in (
            "select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}')",
            "select chartloom.redrive_jobs(array[1]::bigint[])",
            "update chartloom.job_queue set status = 'completed'",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(query)
    finally:
        await connection.close()


@pytest.mark.parametrize("table", PATIENT_TABLES)
async def test_a_stranger_and_an_anonymous_see_no_row(owner: asyncpg.Connection, patient: Patient, table: str) -> None:
    await upload(owner, patient.user_id, patient.profile_id)
    count = f"select count(*) from {table}"
    assert await as_user(owner, uuid4(), count) == 0
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_user(owner, None, count)


async def test_the_owner_and_a_delegate_see_the_document_until_the_grant_ends(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    delegate = uuid4()
    see = "select id from shell_files"
    assert await as_user(owner, patient.user_id, see) == document
    assert await as_user(owner, delegate, see) is None
    grant = "insert into profile_access (grantee_user_id, profile_id, access_level) values ($1, $2, 'read')"
    await owner.execute(grant, delegate, patient.profile_id)
    assert await as_user(owner, delegate, see) == document
    with pytest.raises(RefusedError, match="patient_id"):
        await upload(owner, delegate, patient.profile_id, b"by a reader")
    await owner.execute("update profile_access set access_level = 'write'")
    await upload(owner, delegate, patient.profile_id, b"by a writer")
    await owner.execute("update profile_access set expires_at = now() - interval '1 second'")
    assert await as_user(owner, delegate, see) is None
    await owner.execute("update profile_access set expires_at = null, revoked_at = now()")
    assert await as_user(owner, delegate, see) is None


async def test_a_strangers_upload_id_and_a_missing_one_get_the_same_answer(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    theirs: UUID = await upload(owner, patient.user_id, patient.profile_id)
    answers = [await as_user(owner, uuid4(), "select complete_upload($1)", document) for document in (theirs, uuid4())]
    assert answers[0] == answers[1] == {"error": {"code": "CL007", "message": "shell_file_id: no such upload"}}


async def test_each_upload_is_audited_with_the_user_and_no_value(owner: asyncpg.Connection, patient: Patient) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    rows = await owner.fetch("select * from audit_log where table_name = 'shell_files' order by seq")
    assert [(row["action"], row["row_ids"], row["column_names"]) for row in rows] == [
        ("insert", [str(document)], None),
        ("update", [str(document)], ["current_run_id", "uploaded_at"]),
    ]
    for row in rows:
        assert row["actor_user_id"] == patient.user_id
        assert row["patient_id"] == patient.profile_id
        assert "letter" not in str(dict(row))


API_ROLES = ("anon", "authenticated", "service_role")


async def test_an_api_role_holds_only_what_a_migration_granted(owner: asyncpg.Connection) -> None:
    """The test database has Supabase's default privileges: everything on every new table to every API role."""
    held = await owner.fetch(
        """
        select c.relname, role, privilege
        from pg_class as c, unnest($1::text[]) as role,
            unnest(array['insert', 'update', 'delete', 'truncate']) as privilege
        where c.relkind in ('r', 'p', 'v') and c.relnamespace in ('public'::regnamespace, 'chartloom'::regnamespace)
            and has_table_privilege(role, c.oid, privilege)
        """,
        list(API_ROLES),
    )
    assert {(row["relname"], row["role"], row["privilege"]) for row in held} == {
        (table, "service_role", privilege)
        for table in ("user_profiles", "profile_access")
        for privilege in ("insert", "update")
    }


async def test_nobody_chooses_the_id_of_a_profile(owner: asyncpg.Connection) -> None:
    user = uuid4()
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await as_user(owner, user, "insert into user_profiles (id, owner_user_id) values ($1, $2)", uuid4(), user)
    made = "insert into user_profiles (owner_user_id, display_name) values ($1, 'Me') returning owner_user_id"
    assert await as_user(owner, user, made, user) == user


async def test_a_user_cannot_turn_back_the_clock_that_ends_a_grant(owner: asyncpg.Connection, patient: Patient) -> None:
    delegate = uuid4()
    await owner.execute(
        "insert into profile_access (grantee_user_id, profile_id, access_level, expires_at) "
        "values ($1, $2, 'read', now() - interval '1 day')",
        delegate,
        patient.profile_id,
    )
    async with owner.transaction():
        await owner.execute("select set_config('chartloom.clock', '2000-01-01', true)")
        assert await as_user(owner, delegate, "select count(*) from user_profiles") == 0


@pytest.mark.parametrize("role", WORKER_ROLES)
async def test_a_service_cannot_set_the_clock(database: Database, role: str) -> None:
    connection = await database.connect(role)
    await connection.execute("select set_config('chartloom.clock', '2100-01-01', false)")
    await connection.execute("select chartloom.fall_asleep('chartloom_x', array['ocr'])")
    await connection.fetch("select * from chartloom.heartbeat_jobs('w', 'x', '0', '{}', '{}')")
    await connection.close()
    owner = await database.connect()
    assert await owner.fetchval("select heartbeat_at < now() + interval '1 hour' from chartloom.workers")
    await owner.close()


async def test_a_channel_that_would_break_every_enqueue_is_refused(database: Database) -> None:
    connection = await database.connect("chartloom_ocr")
    for channel in ("x" * 64, "", "someone_elses"):
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute("select chartloom.fall_asleep($1, array['changes'])", channel)
    await connection.close()


async def test_what_a_service_writes_is_audited_with_its_job_and_a_documents_way_is_not(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    await upload(owner, patient.user_id, patient.profile_id)
    job = await owner.fetchrow("select * from chartloom.claim_jobs('w', array['ocr'], 1)")
    page = {
        "page": 1, "width": 9, "height": 9, "text": "x", "words": [], "text_source": "ocr",
        "engine": "t", "engine_version": "1",
    }  # fmt: skip
    await owner.execute(
        "select chartloom.save_ocr_pages($1, $2, $3)", job["job_id"], job["lease_token"], [page, {**page, "page": 2}]
    )
    await owner.execute(
        "select chartloom.fail_job($1, $2, 'file_empty', 'Empty.', false)", job["job_id"], job["lease_token"]
    )
    rows = await owner.fetch("select * from audit_log order by seq")
    assert [(row["action"], row["table_name"]) for row in rows] == [
        ("insert", "user_profiles"),
        ("insert", "shell_files"),
        ("update", "shell_files"),
        ("insert", "ocr_pages"),
    ]
    assert [row["actor_user_id"] for row in rows[1:3]] == [patient.user_id] * 2
    assert (rows[3]["actor_role"], rows[3]["job_id"]) == ("chartloom_owner", job["job_id"])
    assert rows[3]["trace_id"] == job["traceparent"].split("-")[1]
    assert [row_id.split("/")[1] for row_id in rows[3]["row_ids"]] == ["1", "2"]
