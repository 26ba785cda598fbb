"""All of a patient can be taken along, and erased: also while work is under way, and never anybody else's."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from cli.documents import ensure_patient, submit
from cli.patients import erase, write_export
from shared.errors import TerminalError
from shared.storage import LocalStorage, StoredFile
from tests.conftest import Database, Patient
from tests.pipeline import claim, page, persist_document
from tests.users import RefusedError, as_user, become_user, upload
from tests.waiting import until

CANARY = "zqcanary"
NO_SUCH_PATIENT = {"error": {"code": "CL007", "message": "patient_id: no such patient"}}

NOT_OF_PATIENTS = {
    "chartloom.job_types",
    "chartloom.pipeline_steps",
    "chartloom.queue_heads",
    "chartloom.rate_limits",
    "chartloom.rate_grants",
    "chartloom.rate_slots",
    "chartloom.scaled_services",
    "chartloom.sleepers",
    "chartloom.workers",
}
KEPT = {"public.audit_log", "public.failed_audit_events", "chartloom.audit_chains", "chartloom.erasures"}
"""Ids and times only."""


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "storage")


@pytest.fixture
async def other(owner: asyncpg.Connection) -> Patient:
    found = Patient(uuid4(), uuid4())
    await owner.execute(
        "insert into user_profiles (id, owner_user_id, display_name) values ($1, $2, 'Somebody else')",
        found.profile_id,
        found.user_id,
    )
    return found


def rows(_: UUID, canary: str = CANARY) -> dict[str, list[dict[str, Any]]]:
    """A row for every clinical table, a canary in every text."""
    event_id = str(uuid4())
    engine = {"provider": "local", "model": "rules", "prompt_version": "2"}

    def event(number: int, kind: str, label: str, attributes: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": event_id if number == 1 else str(uuid4()), "entity_id": f"e{number}", "finding_key": str(uuid4()),
            "kind": kind, "label": label, "text": f"{canary} text", "assertion": "affirmed", "subject": "patient",
            "attributes": attributes, "codes": [{"system": "LOINC", "code": "1-1", "display": f"{canary} code"}],
            "page": 1, "char_start": 0, "char_end": len(canary), "quote": canary, "boxes": [[1, 2, 3, 4]],
            "alignment": "exact", "schema_version": "findings.v1", **engine,
        }  # fmt: skip

    return {
        "patient_clinical_events": [
            event(1, "observation", "test", {"value": {"text": f"{canary} value"}, "flag": {"text": canary}}),
            event(2, "intervention", "medication", {"dose": {"text": f"{canary} dose"}}),
        ],
        "clinical_narratives": [
            {
                "narrative": f"{canary} story",
                "sentences": [{"text": f"{canary} story", "event_ids": [event_id]}],
                **engine,
            }
        ],
        "healthcare_timeline_events": [
            {
                "id": str(uuid4()), "position": 1, "event_date": "2024", "title": f"{canary} title",
                "fact_key": f"test/{canary}", "event_ids": [event_id],
            }
        ],
        "finding_reviews": [
            {"finding_key": str(uuid4()), "reason": "quote_not_found", "claim": {"quote": f"{canary} claim"}}
        ],
    }  # fmt: skip


async def fill(database: Database, owner: asyncpg.Connection, storage: LocalStorage, patient: Patient) -> list[UUID]:
    """Documents of one patient in every state: completed, dead letter, failed, waiting, and two in hand."""
    await owner.execute(
        "update user_profiles set display_name = $2 where id = $1", patient.profile_id, f"{CANARY} name"
    )
    await owner.execute(
        "insert into profile_access (grantee_user_id, profile_id, access_level) values ($1, $2, 'read')",
        uuid4(),
        patient.profile_id,
    )
    documents = [await persist_document(database, owner, patient, rows, text=f"{CANARY} page")]
    worker = await database.connect("chartloom_ocr")
    for is_transient in (False, True):
        documents.append(await upload(owner, patient.user_id, patient.profile_id, f"{patient} {is_transient}".encode()))
        job = await claim(worker, "ocr")
        await worker.execute(
            "select chartloom.fail_job($1, $2, 'code', $3, $4)",
            job["job_id"],
            job["lease_token"],
            f"{CANARY} error",
            is_transient,
        )
    documents.append(await upload(owner, patient.user_id, patient.profile_id, f"{patient} waiting".encode()))
    await worker.close()
    await owner.execute("update shell_files set file_name = $2 where patient_id = $1", patient.profile_id, CANARY)
    await owner.fetch("select * from chartloom.settle_stored_documents($1, '{}', 3600)", documents[:1])
    for document in documents:
        path = await owner.fetchval("select storage_path from shell_files where id = $1", document)
        await storage.put(path, chunks(f"{CANARY} {document}".encode()))
    pass_result = {"engine": {"provider": "p", "model": "m", "prompt_version": "1", "schema_version": "1"}, "x": CANARY}
    await owner.execute(
        "insert into ai_pass_results (run_id, pass, shell_file_id, patient_id, provider, model, prompt_version, "
        "schema_version, result) values ($1, 'detect', $2, $3, 'p', 'm', '1', '1', $4)",
        uuid4(),
        documents[0],
        patient.profile_id,
        pass_result,
    )
    await owner.execute(
        "insert into ai_checkpoints (run_id, pass, question, shell_file_id, patient_id, attempt, outcome, usage, "
        "answer) values ($1, 'detect', repeat('0', 64), $2, $3, 1, 'answered', '{}', $4)",
        uuid4(),
        documents[0],
        patient.profile_id,
        {"canary": CANARY},
    )
    await owner.execute(
        "update chartloom.job_archive set result = $2 where patient_id = $1 and job_type = 'ai_detect'",
        patient.profile_id,
        {"canary": CANARY},
    )
    await owner.execute(
        "insert into chartloom.job_groups (parent_job_id, join_job_type, join_payload, remaining, created_at) "
        "select min(id), 'persist', $2, 1, now() from chartloom.job_archive where patient_id = $1",
        patient.profile_id,
        {"canary": CANARY},
    )
    return documents


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def tables(owner: asyncpg.Connection) -> list[str]:
    found = await owner.fetch(
        "select format('%I.%I', relnamespace::regnamespace, relname) as name from pg_class "
        "where relkind in ('r', 'p', 'm') and not relispartition "
        "and relnamespace::regnamespace::text not in ('pg_catalog', 'information_schema', 'pg_toast')"
    )
    return [row["name"] for row in found]


async def holding(owner: asyncpg.Connection, *needles: str) -> dict[str, int]:
    """Rows of each table that hold one of the needles, in whichever column, of whichever type."""
    found = {}
    for table in await tables(owner):
        count = await owner.fetchval(
            f"select count(*) from {table} as t where exists ("
            "select from unnest($1::text[]) as needle where strpos(t::text, needle) > 0)",
            list(needles),
        )
        if count:
            found[table] = count
    return found


async def everything_of(owner: asyncpg.Connection, patient: Patient) -> set[tuple[str, str]]:
    found = await owner.fetch("select table_name, contents::text from chartloom.export_rows($1)", patient.profile_id)
    return {
        (row["table_name"], row["contents"]) for row in found if row["table_name"] not in ("audit_log", "audit_chains")
    }


def stored(tmp_path: Path) -> dict[str, bytes]:
    root = tmp_path / "storage"
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


async def test_every_table_is_known_to_be_of_patients_or_not(owner: asyncpg.Connection) -> None:
    """A new table without a patient's column fails here: give it one, or say that it holds nothing of theirs."""
    of_patients = {
        row["name"]
        for row in await owner.fetch(
            "select format('%I.%I', c.relnamespace::regnamespace, c.relname) as name "
            "from chartloom.patient_tables() as t join pg_class as c on c.oid = t.relation"
        )
    }
    ours = {name for name in await tables(owner) if name.startswith(("public.", "chartloom."))}
    assert ours - of_patients == NOT_OF_PATIENTS
    assert of_patients >= KEPT


async def test_after_an_erasure_nothing_holds_anything_of_the_patient(
    database: Database,
    owner: asyncpg.Connection,
    storage: LocalStorage,
    patient: Patient,
    other: Patient,
    tmp_path: Path,
) -> None:
    await persist_document(database, owner, other, lambda run_id: rows(run_id, "another's"))
    await storage.put("other/file", chunks(b"theirs"))
    documents = await fill(database, owner, storage, patient)
    needles = [CANARY, f"{patient.profile_id}/"]
    before = await holding(owner, *needles)
    for table in (
        "public.user_profiles", "public.shell_files", "public.ocr_pages", "public.ai_pass_results",
        "public.patient_clinical_events", "public.patient_observations", "public.patient_interventions",
        "public.clinical_narratives", "public.healthcare_timeline_events", "public.finding_reviews",
        "chartloom.job_queue",
        "chartloom.job_archive", "chartloom.job_groups", "chartloom.processing_errors", "chartloom.storage_findings",
    ):  # fmt: skip
        assert before[table], f"{table}: the scan would not see what is left there"
    (tmp_path / "storage" / str(patient.profile_id) / ".partial-killed").write_text(CANARY)
    theirs = await everything_of(owner, other)
    assert len(theirs) > 10

    await erase(connection=owner, storage=storage, patient_id=patient.profile_id)

    assert await holding(owner, *needles) == {}
    # Documents and runs are ids: the audit has them, and nothing else has.
    assert set(await holding(owner, str(patient.profile_id), *map(str, documents))) == {
        "public.audit_log",
        "chartloom.audit_chains",
        "chartloom.erasures",
    }
    assert stored(tmp_path) == {"other/file": b"theirs"}
    assert await everything_of(owner, other) == theirs
    actions = await owner.fetch(
        "select table_name from audit_log where patient_id = $1 and action = 'erase' order by seq", patient.profile_id
    )
    assert [row["table_name"] for row in actions] == ["user_profiles", "storage"]
    assert await owner.fetch("select * from chartloom.verify_audit()") == []


async def test_what_a_worker_holds_is_cancelled_and_it_writes_nothing_more(
    database: Database, owner: asyncpg.Connection, storage: LocalStorage, patient: Patient
) -> None:
    worker = await database.connect("chartloom_ocr")
    await upload(owner, patient.user_id, patient.profile_id)
    job = await claim(worker, "ocr")
    lease = (job["job_id"], job["lease_token"])
    writes = (
        ("select chartloom.save_ocr_pages($1, $2, $3)", *lease, [page("late")]),
        ("select chartloom.complete_job($1, $2)", *lease),
        ("select chartloom.fail_job($1, $2, 'code', 'message', true)", *lease),
        ("select chartloom.release_job($1, $2)", *lease),
    )

    async def refusals() -> list[str | None]:
        states = []
        for query, *arguments in writes:
            with pytest.raises(asyncpg.PostgresError) as refused:
                await worker.fetchval(query, *arguments)
            states.append(refused.value.sqlstate)
        return states

    assert (await owner.fetchval("select chartloom.begin_erasure($1)", patient.profile_id)) == {"jobs_cancelled": 1}
    assert await refusals() == ["CL002"] * 4
    for content in (b"record", b"another"):
        with pytest.raises(asyncpg.PostgresError, match="is being erased"):
            await upload(owner, patient.user_id, patient.profile_id, content)
    await erase(owner, storage, patient.profile_id)
    assert await refusals() == ["CL001"] * 4
    beat = "select state from chartloom.heartbeat_jobs('w', 'ocr', '0', array[$1::bigint], array[$2::uuid])"
    assert await worker.fetchval(beat, *lease) == "lost"
    assert set(await holding(owner, str(patient.profile_id))) <= KEPT
    await worker.close()


async def test_uploads_that_race_with_an_erasure_leave_nothing(
    database: Database, owner: asyncpg.Connection, storage: LocalStorage, patient: Patient
) -> None:
    """Users upload and workers work until the patient is gone; each is refused or was early enough to be erased."""
    gone = asyncio.Event()
    refused = []

    async def keep_uploading(name: str) -> None:
        connection = await database.connect()
        for number in range(10_000):
            try:
                await upload(connection, patient.user_id, patient.profile_id, f"{name} {number}".encode())
            except (RefusedError, asyncpg.PostgresError) as error:
                refused.append(error)
                if gone.is_set():
                    break
        await connection.close()

    async def keep_working() -> None:
        connection = await database.connect("chartloom_ocr")
        while not gone.is_set():
            for job in await connection.fetch("select * from chartloom.claim_jobs('w', array['ocr'], 3)"):
                lease = (job["job_id"], job["lease_token"])
                try:
                    await connection.execute("select chartloom.save_ocr_pages($1, $2, $3)", *lease, [page(CANARY)])
                    await connection.execute("select chartloom.complete_job($1, $2)", *lease)
                except asyncpg.PostgresError as error:
                    refused.append(error)
        await connection.close()

    busy = [asyncio.create_task(keep_uploading(name)) for name in "ab"] + [asyncio.create_task(keep_working())]
    await until(owner, "count(*) > 5 from ocr_pages")
    await erase(owner, storage, patient.profile_id)
    gone.set()
    await asyncio.gather(*busy)
    assert set(await holding(owner, str(patient.profile_id))) <= KEPT
    assert await holding(owner, CANARY) == {}
    assert {getattr(error, "sqlstate", "") for error in refused} <= {"", "23503", "CL001", "CL002", "CL007", "40P01"}


@pytest.mark.parametrize("call", ["create_upload", "complete_upload"])
async def test_an_upload_that_is_under_way_is_waited_for(
    call: str, database: Database, owner: asyncpg.Connection, storage: LocalStorage, patient: Patient
) -> None:
    create = "select create_upload($1, 'letter.pdf', $2, 5)"
    created = await as_user(owner, patient.user_id, create, patient.profile_id, "0" * 64)
    uploader = await database.connect()
    under_way = uploader.transaction()
    await under_way.start()
    await become_user(uploader, patient.user_id)
    if call == "create_upload":
        await uploader.fetchval(create, patient.profile_id, "1" * 64)
    else:
        await uploader.fetchval("select complete_upload($1)", UUID(created["shell_file_id"]))

    await owner.fetchval("select chartloom.begin_erasure($1)", patient.profile_id)
    erasing = asyncio.create_task(owner.fetchval("select chartloom.erase_rows($1)", patient.profile_id))
    async with asyncio.timeout(10):
        while not await uploader.fetchval("select exists (select from pg_locks where not granted)"):
            await asyncio.sleep(0.01)
    await under_way.commit()
    assert await erasing is (call == "create_upload"), "a new job: nothing was erased, begin again"
    await erase(owner, storage, patient.profile_id)
    assert set(await holding(owner, str(patient.profile_id))) <= KEPT
    await uploader.close()


async def test_an_erasure_that_broke_off_goes_on_where_it_stood(
    database: Database, owner: asyncpg.Connection, storage: LocalStorage, patient: Patient, tmp_path: Path
) -> None:
    class Broken(LocalStorage):
        async def delete(self, path: str) -> None:
            raise ConnectionResetError

    await fill(database, owner, storage, patient)
    with pytest.raises(ConnectionResetError):
        await erase(owner, Broken(tmp_path / "storage"), patient.profile_id)
    assert len(stored(tmp_path)) == 4
    assert len(await owner.fetchval("select chartloom.files_to_erase($1)", patient.profile_id)) == 4
    for _ in range(2):
        await erase(owner, storage, patient.profile_id)
        assert stored(tmp_path) == {}
        assert await holding(owner, f"{patient.profile_id}/", CANARY) == {}
    done = await owner.fetchrow("select * from chartloom.erasures")
    assert done["rows_erased_at"] <= done["files_erased_at"]
    count = "select count(*) from audit_log where action = 'erase' and patient_id = $1"
    assert await owner.fetchval(count, patient.profile_id) == 2, "once for the rows, once for the files"


async def test_a_file_that_comes_after_the_erasure_does_not_stay(owner: asyncpg.Connection, tmp_path: Path) -> None:
    class Late(LocalStorage):
        async def put(self, path: str, chunks: AsyncIterator[bytes]) -> StoredFile:
            await erase(owner, self, patient_id)
            return await super().put(path, chunks)

    patient_id = await ensure_patient(owner, None)
    letter = tmp_path / "letter.txt"
    letter.write_text(CANARY)
    with pytest.raises(TerminalError, match="no such upload"):
        await submit(owner, Late(tmp_path / "storage"), letter, patient_id)
    assert stored(tmp_path) == {}
    assert set(await holding(owner, str(patient_id))) <= KEPT


async def test_an_erased_id_stays_closed(owner: asyncpg.Connection, storage: LocalStorage, patient: Patient) -> None:
    await erase(owner, storage, patient.profile_id)
    with pytest.raises(asyncpg.PostgresError, match="it was erased") as refused:
        await owner.execute(
            "insert into user_profiles (id, owner_user_id) values ($1, $2)", patient.profile_id, patient.user_id
        )
    assert refused.value.sqlstate == "CL007"


async def test_only_the_owner_of_a_profile_and_an_operator_may_erase_or_take_it_along(
    owner: asyncpg.Connection, patient: Patient
) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    delegate = uuid4()
    await owner.execute(
        "insert into profile_access (grantee_user_id, profile_id, access_level) values ($1, $2, 'write')",
        delegate,
        patient.profile_id,
    )
    begin = "select chartloom.begin_erasure($1)"
    rows_of = "select count(*) from chartloom.export_rows($1)"
    for user in (delegate, uuid4()):
        for patient_id in (patient.profile_id, uuid4()):
            assert await as_user(owner, user, begin, patient_id) == NO_SUCH_PATIENT
            assert await as_user(owner, user, rows_of, patient_id) == 0
            assert await as_user(owner, user, "select chartloom.files_to_erase($1)", patient_id) is None
            for step in ("erase_rows", "finish_erasure"):
                with pytest.raises(asyncpg.PostgresError) as refused:
                    await as_user(owner, user, f"select chartloom.{step}($1)", patient_id)
                assert refused.value.sqlstate in ("CL007", "CL005")
    assert await owner.fetchval("select id from shell_files") == document
    assert await owner.fetchval("select count(*) from audit_log where action = 'denied'") == 4
    assert await as_user(owner, patient.user_id, rows_of, patient.profile_id) > 5
    assert await as_user(owner, patient.user_id, begin, patient.profile_id) == {"jobs_cancelled": 1}
    assert await as_user(owner, patient.user_id, "select chartloom.erase_rows($1)", patient.profile_id)
    assert await as_user(owner, patient.user_id, begin, patient.profile_id) == {"jobs_cancelled": 0}, "again"
    assert await as_user(owner, delegate, begin, patient.profile_id) == NO_SUCH_PATIENT


async def test_an_export_holds_every_row_every_file_and_the_bundle(
    database: Database,
    owner: asyncpg.Connection,
    storage: LocalStorage,
    patient: Patient,
    other: Patient,
    tmp_path: Path,
) -> None:
    await persist_document(database, owner, other, rows)
    await fill(database, owner, storage, patient)
    folder = tmp_path / "export"
    folder.mkdir()
    counts = await write_export(owner, storage, patient.profile_id, folder)
    for table, expected in (await owner_counts(owner, patient)).items():
        lines = (folder / f"{table}.jsonl").read_text().splitlines()
        assert len(lines) == counts[table] == expected
        assert all(isinstance(json.loads(line), dict) for line in lines)
    everything = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    assert str(other.profile_id) not in everything
    assert "lease_token" not in everything
    assert sorted(path.read_bytes() for path in (folder / "files").iterdir()) == sorted(
        content for path, content in stored(tmp_path).items() if path.startswith(str(patient.profile_id))
    )
    assert json.loads((folder / "fhir.json").read_text())["resourceType"] == "Bundle"
    events = [json.loads(line) for line in (folder / "patient_clinical_events.jsonl").read_text().splitlines()]
    assert {event["quote"] for event in events} == {CANARY}
    assert await owner.fetchval("select count(*) from audit_log where action = 'export'") == 1
    (tmp_path / "nobody").mkdir()
    with pytest.raises(TerminalError, match="no such patient"):
        await write_export(owner, storage, uuid4(), tmp_path / "nobody")


async def owner_counts(owner: asyncpg.Connection, patient: Patient) -> dict[str, int]:
    """How many rows each table has of a patient, counted by hand."""
    documents = "select id from shell_files where patient_id = $1"
    jobs = "select id from chartloom.job_history where patient_id = $1"
    counted = {
        "user_profiles": "user_profiles where id = $1",
        "profile_access": "profile_access where profile_id = $1",
        "shell_files": "shell_files where patient_id = $1",
        "ocr_pages": "ocr_pages where patient_id = $1",
        "patient_observations": "patient_observations where patient_id = $1",
        "clinical_narratives": "clinical_narratives where patient_id = $1",
        "document_runs": f"chartloom.document_runs where shell_file_id in ({documents})",
        "job_queue": "chartloom.job_queue where patient_id = $1",
        "job_archive": "chartloom.job_archive where patient_id = $1",
        "idempotency_keys": f"chartloom.idempotency_keys where job_id in ({jobs})",
        "processing_errors": f"chartloom.processing_errors where job_id in ({jobs})",
        "job_groups": f"chartloom.job_groups where parent_job_id in ({jobs})",
    }
    found = {
        name: await owner.fetchval(f"select count(*) from {rest}", patient.profile_id) for name, rest in counted.items()
    }
    assert all(found.values()), found
    return found
