"""The console without a browser: who gets in, whose rows are seen, what a form has to show, what moves live."""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from services.console.pages.documents import MOST_STREAMS
from services.console.settings import ConsoleSettings
from shared.errors import ConfigurationError
from shared.settings import load_settings
from tests.conftest import Database, Patient
from tests.console_app import CSRF, ConsoleApp, console_app, token
from tests.fakes.storage_server import FakeStorage, Fault, Stored
from tests.pipeline import claim, page, persist_document
from tests.users import become_user, upload

OPERATOR = {"app_metadata": {"chartloom_role": "operator"}}
ENGINE = {"provider": "openai", "model": "m", "prompt_version": "1", "schema_version": "1"}
TEXT = "Potassium 5.9 mmol/L (3.5 - 5.1) on 2024-03-09."


@pytest.fixture
async def console(database: Database, tmp_path: Path) -> AsyncIterator[ConsoleApp]:
    async with console_app(database, tmp_path) as started:
        yield started


def finding(key: UUID, **changes: Any) -> dict[str, Any]:
    source = {"page": 1, "start": 0, "end": 9, "quote": "Potassium", "boxes": [[1, 2, 3, 4]]}
    return {
        "id": str(uuid4()), "entity_id": "e1", "finding_key": str(key), "kind": "observation", "label": "lab",
        "text": "Potassium", "assertion": "affirmed", "subject": "patient",
        "attributes": {
            "value": {"text": "5.9", "normalised": 5.9, "source": source},
            "unit": {"text": "mmol/L", "normalised": "mmol/L", "source": source},
            "range": {"text": "3.5 - 5.1", "normalised": "3.5 - 5.1", "source": source},
            "time": {"text": "2024-03-09", "normalised": "2024-03-09", "source": source},
        },
        "codes": [], "page": 1, "char_start": 0, "char_end": 9, "quote": "Potassium", "boxes": [[1, 2, 3, 4]],
        "alignment": "exact", "provider": "local", "model": "rules", "prompt_version": "1", "schema_version": "1",
        **changes,
    }  # fmt: skip


async def filled(database: Database, owner: asyncpg.Connection, patient: Patient) -> tuple[UUID, UUID]:
    """A completed document with a finding that waits for review; returns the document and the finding's key."""
    key = uuid4()

    def rows(run_id: UUID) -> dict[str, list[dict[str, Any]]]:
        found = finding(key)
        return {
            "patient_clinical_events": [found],
            "clinical_narratives": [
                {"narrative": "High.", "sentences": [{"text": "High.", "event_ids": [found["id"]]}],
                 "provider": "local", "model": "rules", "prompt_version": "1"}
            ],
            "healthcare_timeline_events": [
                {"id": str(uuid4()), "position": 1, "event_date": "2024-03-09", "title": "Potassium 5.9 mmol/L",
                 "fact_key": None, "event_ids": [found["id"]]}
            ],
            "finding_reviews": [{"finding_key": str(key), "reason": "words_differ", "claim": None}],
        }  # fmt: skip

    return await persist_document(database, owner, patient, rows, text=TEXT), key


async def with_reviews(
    database: Database, owner: asyncpg.Connection, patient: Patient, *reviews: dict[str, Any]
) -> UUID:
    """A completed document with a finding of potassium, and these reviews: those without a key are the finding's."""
    key = uuid4()
    found = finding(key)
    found["attributes"]["value"]["uncertain"] = True
    rows: dict[str, list[dict[str, Any]]] = {
        "patient_clinical_events": [found],
        "clinical_narratives": [],
        "healthcare_timeline_events": [
            {"id": str(uuid4()), "position": 1, "event_date": "2024-03-09", "title": "Potassium 5.9 mmol/L",
             "fact_key": None, "event_ids": [found["id"]]}
        ],
        "finding_reviews": [{"finding_key": str(key), **review} for review in reviews],
    }  # fmt: skip
    return await persist_document(database, owner, patient, lambda _: rows, text=TEXT)


async def every_address(owner: asyncpg.Connection, patient: Patient, document: UUID) -> list[str]:
    assert await owner.fetchval("select exists (select from shell_files where id = $1)", document)
    record = f"/records/{patient.profile_id}"
    return [
        record, f"{record}/results", f"{record}/documents", f"{record}/review", f"{record}/events",
        f"/documents/{document}", f"/documents/{document}/pages/1", f"/documents/{document}/pages/1/image",
        f"/documents/{document}/way",
    ]  # fmt: skip


async def test_the_owner_sees_every_page_and_a_second_user_nothing_of_it(
    database: Database, owner: asyncpg.Connection, patient: Patient, console: ConsoleApp
) -> None:
    document, key = await filled(database, owner, patient)
    addresses = await every_address(owner, patient, document)
    mine, theirs = console.visitor(patient.user_id), console.visitor(uuid4())
    for address in addresses:
        if not address.endswith("/events"):
            assert (await mine.get(address)).status in (200, 303), address
        refused = await theirs.get(address)
        missing = await theirs.get(
            address.replace(str(patient.profile_id), str(uuid4())).replace(str(document), str(uuid4()))
        )
        # What is somebody else's and what does not exist get one answer.
        assert refused.status == missing.status == 404, address
        assert refused.text == missing.text
    assert "Potassium" not in (await theirs.get("/")).text
    form = {"csrf": CSRF, "decision": "accept"}
    assert (await theirs.post(f"/findings/{key}", form)).status == 404
    assert (await theirs.upload(patient.profile_id, b"theirs")).status == 404
    assert await owner.fetchval("select count(*) from shell_files") == 1
    assert await owner.fetchval("select status from finding_reviews where finding_key = $1", key) == "waiting"


async def test_the_page_shows_the_finding_in_its_box_and_the_plot_its_range(
    database: Database, owner: asyncpg.Connection, patient: Patient, console: ConsoleApp
) -> None:
    document, _ = await filled(database, owner, patient)
    mine = console.visitor(patient.user_id)
    source = (await mine.get(f"/documents/{document}/pages/1")).text
    assert 'viewBox="0 0 100 100"' in source
    assert '<rect x="0.8" y="1.8" width="2.3" height="2.3"/>' in source
    results = (await mine.get(f"/records/{patient.profile_id}/results")).text
    assert "Expected 3.5 - 5.1" in results
    assert 'class="point outside"' in results
    image = await mine.get(f"/documents/{document}/pages/1/image")
    assert image.headers["Content-Type"] == "image/svg+xml"
    assert "Potassium" in image.text


async def test_operations_are_for_operators_who_see_no_patients_row(
    database: Database, owner: asyncpg.Connection, patient: Patient, console: ConsoleApp
) -> None:
    document, _ = await filled(database, owner, patient)
    await upload(owner, patient.user_id, patient.profile_id, b"unreadable")
    job = await claim(owner, "ocr")
    await owner.execute(
        "select chartloom.fail_job($1, $2, 'file_empty', 'Empty.', false)", job["job_id"], job["lease_token"]
    )
    user, operator = console.visitor(patient.user_id), console.visitor(uuid4(), **OPERATOR)
    pages = ["/operations", "/operations/dead-letters", f"/operations/jobs/{job['job_id']}"]
    for address in pages:
        assert (await user.get(address)).status == 404
        shown = await operator.get(address)
        assert shown.status == 200
        assert "letter.pdf" not in shown.text
    assert (await operator.get(f"/documents/{document}")).status == 404
    form = {"csrf": CSRF, "job": str(job["job_id"])}
    assert (await user.post("/operations/dead-letters", form)).status == 404
    dry = await operator.post("/operations/dead-letters", form | {"dry_run": "1"})
    assert "1 job would run again" in dry.text
    of_all = {"csrf": CSRF, "type": "ocr", "code": "file_empty", "dry_run": "everything"}
    assert "1 job would run again" in (await operator.post("/operations/dead-letters", of_all)).text
    assert "0 jobs would run again" in (await operator.post("/operations/dead-letters", {**of_all, "code": "x"})).text
    assert (
        await owner.fetchval("select status from chartloom.job_history where id = $1", job["job_id"]) == "dead_letter"
    )
    assert "1 job is queued again" in (await operator.post("/operations/dead-letters", form)).text
    assert await owner.fetchval("select status from chartloom.job_history where id = $1", job["job_id"]) == "pending"


async def test_a_finding_is_accepted_corrected_and_dismissed_by_form(
    database: Database, owner: asyncpg.Connection, patient: Patient, console: ConsoleApp
) -> None:
    _, key = await filled(database, owner, patient)
    mine = console.visitor(patient.user_id)
    assert (await mine.post(f"/findings/{key}", {"csrf": CSRF, "decision": "accept"})).status == 303
    row = "select review, attributes -> 'value' ->> 'normalised' as value, attributes ? 'time' as has_time, "
    row += "attributes -> 'unit' ->> 'text' as unit from patient_clinical_events where finding_key = $1"
    assert (await owner.fetchrow(row, key))["review"] == "accepted"
    form = {"csrf": CSRF, "decision": "correct", "text": "Potassium", "value": "4.9", "unit": "mmol/L", "time": ""}
    assert (await mine.post(f"/findings/{key}", form)).status == 303
    assert dict(await owner.fetchrow(row, key)) == {
        "review": "corrected", "value": "4.9", "has_time": False, "unit": "mmol/L",
    }  # fmt: skip
    nothing = {"csrf": CSRF, "decision": "correct", "text": "Potassium", "value": "4.9"}
    assert "Nothing was changed" in (await mine.post(f"/findings/{key}", nothing)).text
    away = {"csrf": CSRF, "decision": "dismiss", "back": "https://evil.example/"}
    assert (await mine.post(f"/findings/{key}", away)).headers["Location"] == f"/records/{patient.profile_id}/review"
    assert (await owner.fetchrow(row, key))["review"] == "dismissed"
    audited = await owner.fetch("select actor_user_id from audit_log where table_name = 'finding_reviews'")
    assert audited[-1]["actor_user_id"] == patient.user_id


async def test_a_review_says_what_is_doubted_and_shows_where(
    database: Database, owner: asyncpg.Connection, patient: Patient, console: ConsoleApp
) -> None:
    claimed = {"kind": "observation", "label": "lab", "page": 1, **ENGINE}
    passed_over = str(uuid4())
    document = await with_reviews(
        database, owner, patient,
        {"reason": "number_uncertain", "claim": {"attributes": [{"name": "value", "quote": "5.9"}]}},
        {"finding_key": passed_over, "reason": "missed", "claim": {
            **claimed, "quote": "mmol/L", "place": {"page": 1, "start": 14, "end": 20, "quote": "mmol/L"}}},
        {"finding_key": str(uuid4()), "reason": "quote_not_found", "claim": {**claimed, "quote": "Sodium 140"}},
        {"finding_key": str(uuid4()), "reason": "prompt_text", "claim": {**claimed, "quote": ""}},
    )  # fmt: skip
    mine = console.visitor(patient.user_id)
    cards = (await mine.get(f"/records/{patient.profile_id}/review")).text.split('<li class="card review"')[1:]
    assert len(cards) == 4
    (doubted,) = [card for card in cards if "hard to read" in card]
    assert "Value “5.9”" in doubted
    assert '<span class="doubted">5.9</span>' in doubted
    assert 'class="crop"' in doubted
    (missed,) = [card for card in cards if "passed over" in card]
    assert 'class="crop"' in missed
    assert 'value="accept"' in missed
    (unfounded,) = [card for card in cards if "Sodium 140" in card]
    assert 'value="accept"' not in unfounded
    (empty,) = [card for card in cards if "its own instructions" in card]
    assert "“”" not in empty
    source = (await mine.get(f"/documents/{document}/pages/1")).text
    assert "Hard to read" in source
    assert "compare what was read" in source
    assert "Hard to read" in (await mine.get(f"/records/{patient.profile_id}")).text
    assert (await mine.post(f"/findings/{passed_over}", {"csrf": CSRF, "decision": "accept"})).status == 303
    assert await owner.fetchval("select quote from patient_clinical_events where finding_key = $1", UUID(passed_over))


async def test_a_document_of_somebody_elses_is_decided_on_before_what_it_says(
    database: Database, owner: asyncpg.Connection, patient: Patient, console: ConsoleApp
) -> None:
    identity = str(uuid4())
    document = await with_reviews(
        database, owner, patient,
        {"reason": "number_uncertain", "claim": {"attributes": []}},
        {"finding_key": identity, "reason": "other_person", "claim": {"contradictions": [
            {"field": "name", "page": 1, "start": 0, "end": 9, "quote": "Ann Lee"}]}},
    )  # fmt: skip
    mine = console.visitor(patient.user_id)
    record, source = f"/records/{patient.profile_id}", f"/documents/{document}/pages/1"

    async def shown() -> tuple[bool, int, bool]:
        """Whether the timeline has it, how many reviews there are, and whether the page still shows its findings."""
        review = (await mine.get(f"{record}/review")).text
        there = 'id="fact-' in (await mine.get(source)).text
        return "Potassium" in (await mine.get(record)).text, review.count('<li class="card review"'), there

    assert "may be somebody else’s" in (await mine.get(record)).text
    assert "nothing of it counts" in (await mine.get(f"{record}/documents")).text
    assert "Name on it: “Ann Lee”" in (await mine.get(source)).text
    assert await shown() == (False, 1, True)
    await mine.post(f"/findings/{identity}", {"csrf": CSRF, "decision": "dismiss"})
    assert await shown() == (False, 0, True)
    await mine.post(f"/findings/{identity}", {"csrf": CSRF, "decision": "accept"})
    assert await shown() == (True, 1, True)


async def test_what_was_found_in_a_file_is_said_beside_how_it_was_read(
    database: Database, owner: asyncpg.Connection, patient: Patient, console: ConsoleApp
) -> None:
    document = await upload(owner, patient.user_id, patient.profile_id)
    ocr = await database.connect("chartloom_ocr")
    job = await claim(ocr, "ocr")
    lease = (job["job_id"], job["lease_token"])
    verdict = {
        "decision": "quarantine", "reason": "file_has_active_content", "file_kind": "pdf", "pages": 1,
        "is_encrypted": False, "findings": [{"kind": "launch", "count": 2, "action": "quarantine"}],
        "antivirus": {"status": "not_scanned", "signature": None, "engine": None},
    }  # fmt: skip
    await ocr.execute("select chartloom.save_scan_verdict($1, $2, $3)", *lease, verdict)
    await ocr.execute("select chartloom.fail_job($1, $2, 'file_has_active_content', 'Print it anew.', false)", *lease)
    mine = console.visitor(patient.user_id)
    way = (await mine.get(f"/documents/{document}/way")).text
    assert "a command that starts a program" in way
    assert "No virus scanner is set up" in way
    listed = (await mine.get(f"/records/{patient.profile_id}/documents")).text
    assert "Print it anew." in listed
    assert "Quarantined" in listed
    # What has ended waits for no further step.
    assert "not yet" not in listed


async def test_a_form_of_another_site_changes_nothing(
    database: Database, owner: asyncpg.Connection, patient: Patient, console: ConsoleApp
) -> None:
    _, key = await filled(database, owner, patient)
    mine = console.visitor(patient.user_id)
    for form in ({"decision": "dismiss"}, {"decision": "dismiss", "csrf": "guessed"}):
        assert (await mine.post(f"/findings/{key}", form)).status == 403
    without_cookie = console.visitor(patient.user_id)
    del without_cookie.cookies["__Host-chartloom-csrf"]
    assert (await without_cookie.post(f"/findings/{key}", {"decision": "dismiss", "csrf": ""})).status == 403
    assert await owner.fetchval("select status from finding_reviews") == "waiting"


async def test_a_stranger_is_sent_to_sign_in_and_a_forged_token_is_nobodys(
    patient: Patient, console: ConsoleApp
) -> None:
    nobody = console.stranger()
    for visitor in (
        nobody,
        console.visitor(patient.user_id, exp=1),
        console.visitor(patient.user_id, role="service_role"),
    ):
        answer = await visitor.get("/")
        assert (answer.status, answer.headers["Location"]) == (303, "/sign-in")
        assert (await visitor.get(f"/records/{patient.profile_id}/events", Accept="text/event-stream")).status == 401
    assert (await nobody.get("/sign-in")).status == 200
    # There is no local user where Supabase's sign in.
    assert (await nobody.get("/sign-in/local?key=anything")).status == 404


async def test_every_answer_is_kept_nowhere_and_runs_no_foreign_script(patient: Patient, console: ConsoleApp) -> None:
    mine = console.visitor(patient.user_id)
    for address in ("/", f"/records/{patient.profile_id}", "/sign-in", "/nowhere"):
        headers = (await mine.get(address)).headers
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
    style = re.search(r'href="(/static/console\.css\?v=\w+)"', (await mine.get("/")).text)
    assert style is not None
    assert "immutable" in (await mine.get(style[1])).headers["Cache-Control"]


async def test_what_a_record_says_is_shown_as_text(
    owner: asyncpg.Connection, patient: Patient, console: ConsoleApp
) -> None:
    name = "<script>alert(1)</script>"
    await owner.execute("update user_profiles set display_name = $2 where id = $1", patient.profile_id, name)
    shown = (await console.visitor(patient.user_id).get("/")).text
    assert name not in shown
    assert "&lt;script&gt;" in shown


# -- uploads -----------------------------------------------------------------------------------------------------------


async def test_an_upload_is_stored_and_queued_once(
    owner: asyncpg.Connection, patient: Patient, console: ConsoleApp
) -> None:
    mine = console.visitor(patient.user_id)
    answer = await mine.upload(patient.profile_id, TEXT.encode(), "scan%20of%20%C3%A4%20letter.txt")
    assert answer.status == 200
    row = await owner.fetchrow("select * from shell_files")
    assert (row["file_name"], row["status"], row["size_bytes"]) == ("scan of ä letter.txt", "queued", len(TEXT))
    stored = await console.storage.stat(f"{patient.profile_id}/{hashlib.sha256(TEXT.encode()).hexdigest()}")
    assert stored is not None
    assert '"known": true' in (await mine.upload(patient.profile_id, TEXT.encode())).text
    assert await owner.fetchval("select count(*) from chartloom.job_queue") == 1


async def test_an_upload_that_is_refused_says_what_to_do(
    database: Database, owner: asyncpg.Connection, patient: Patient, tmp_path: Path
) -> None:
    reader = uuid4()
    await owner.execute(
        "insert into profile_access (grantee_user_id, profile_id, access_level) values ($1, $2, 'read')",
        reader,
        patient.profile_id,
    )
    async with console_app(database, tmp_path, console_max_megabytes=1, console_uploads_per_minute=1) as console:
        mine = console.visitor(patient.user_id)
        large = await mine.upload(patient.profile_id, b"x" * 1_000_001)
        assert (large.status, "larger than 1 MB" in large.text) == (413, True)
        empty = await mine.upload(patient.profile_id, b"")
        assert (empty.status, "empty" in empty.text) == (400, True)
        assert (await mine.upload(patient.profile_id, b"a")).status == 200
        busy = await mine.upload(patient.profile_id, b"b")
        assert (busy.status, "wait a minute" in busy.text) == (429, True)
        assert (await console.visitor(reader).upload(patient.profile_id, b"c")).status == 403
    assert await owner.fetchval("select count(*) from shell_files") == 1


# -- live --------------------------------------------------------------------------------------------------------------


async def next_event(response: aiohttp.ClientResponse) -> tuple[str, str]:
    """The kind and the data of the next event; the id, too, of a position."""
    kind, data = "", []
    while True:
        line = (await response.content.readline()).decode().rstrip("\n")
        if line.startswith("event: "):
            kind = line[7:]
        elif line.startswith(("data: ", "id: ")):
            data.append(line.split(": ", 1)[1])
        elif not line and kind:
            return kind, "\n".join(data)


async def until_shown(response: aiohttp.ClientResponse, text: str) -> None:
    async with asyncio.timeout(10):
        while text not in (await next_event(response))[1]:
            pass


async def test_a_document_that_moves_is_told_to_its_owner_and_to_nobody_else(
    database: Database, owner: asyncpg.Connection, patient: Patient, console: ConsoleApp
) -> None:
    other = Patient(uuid4(), uuid4())
    await owner.execute(
        "insert into user_profiles (id, owner_user_id) values ($1, $2)", other.profile_id, other.user_id
    )
    mine, theirs = console.visitor(patient.user_id), console.visitor(other.user_id)
    async with mine.events(patient.profile_id) as here, theirs.events(other.profile_id) as there:
        await mine.upload(patient.profile_id, TEXT.encode(), "mine.txt")
        await until_shown(here, 'data-status="queued"')
        job = await claim(owner, "ocr")
        await until_shown(here, "stage info working")
        await owner.execute(
            "select chartloom.fail_job($1, $2, 'file_empty', 'Send another.', false)", job["job_id"], job["lease_token"]
        )
        await until_shown(here, "Send another.")
        await theirs.upload(other.profile_id, b"theirs", "theirs.txt")
        async with asyncio.timeout(10):
            kind, data = await next_event(there)
        assert (kind, "theirs.txt" in data, "mine.txt" in data) == ("document", True, False)


async def test_a_client_goes_on_where_it_left_off(
    owner: asyncpg.Connection, patient: Patient, console: ConsoleApp
) -> None:
    mine = console.visitor(patient.user_id)
    await mine.upload(patient.profile_id, b"first", "first.txt")
    async with mine.events(patient.profile_id) as stream:
        await until_shown(stream, "first.txt")
        async with asyncio.timeout(10):
            while (event := await next_event(stream))[0] != "position":
                pass
    position = event[1].split("\n")[0]
    await mine.upload(patient.profile_id, b"second", "second.txt")
    async with mine.events(patient.profile_id, **{"Last-Event-ID": position}) as stream:
        async with asyncio.timeout(10):
            kind, data = await next_event(stream)
        assert (kind, "second.txt" in data) == ("document", True)
    # A position of another process is none: everything is told anew.
    async with mine.events(patient.profile_id, **{"Last-Event-ID": "0000-99"}) as stream:
        await until_shown(stream, "first.txt")


async def test_a_stream_lasts_no_longer_than_the_token_and_a_user_has_so_many(
    patient: Patient, console: ConsoleApp
) -> None:
    short = console.visitor(patient.user_id, exp=time.time() + 1)
    async with short.events(patient.profile_id) as stream, asyncio.timeout(15):
        assert stream.status == 200
        while await stream.content.readline():
            pass
    mine = console.visitor(patient.user_id)
    async with AsyncExitStack() as streams:
        for _ in range(MOST_STREAMS):
            await streams.enter_async_context(mine.events(patient.profile_id))
        assert (await mine.get(f"/records/{patient.profile_id}/events")).status == 429


async def test_whoever_loses_access_is_told_no_more(
    owner: asyncpg.Connection, patient: Patient, console: ConsoleApp
) -> None:
    reader = uuid4()
    grant = "insert into profile_access (grantee_user_id, profile_id, access_level) values ($1, $2, 'read')"
    await owner.execute(grant, reader, patient.profile_id)
    mine, theirs = console.visitor(patient.user_id), console.visitor(reader)
    await mine.upload(patient.profile_id, b"first", "first.txt")
    async with theirs.events(patient.profile_id) as stream:
        await until_shown(stream, "first.txt")
        await owner.execute("update profile_access set revoked_at = now()")
        job = await claim(owner, "ocr")
        await owner.execute(
            "select chartloom.fail_job($1, $2, 'file_empty', 'Secret.', false)", job["job_id"], job["lease_token"]
        )
        # The row goes, and with it everything that it said.
        document = await owner.fetchval("select id from shell_files")
        async with asyncio.timeout(10):
            while (event := await next_event(stream)) != ("document", str(document)):
                assert "Secret" not in event[1]
    assert (await theirs.get(f"/records/{patient.profile_id}/events")).status == 404


# -- uploading ---------------------------------------------------------------------------------------------------------


def part_headers(name: str, offset: int, size: int) -> dict[str, str]:
    return {
        "X-CSRF-Token": CSRF, "Content-Type": "text/plain", "X-File-Name": "letter.txt", "X-Upload": name,
        "X-Upload-Offset": str(offset), "X-Upload-Size": str(size),
    }  # fmt: skip


async def test_an_upload_that_was_cut_off_goes_on_where_it_stopped(
    owner: asyncpg.Connection, patient: Patient, console: ConsoleApp
) -> None:
    content = TEXT.encode() * 100
    mine, theirs = console.visitor(patient.user_id), console.visitor(uuid4())
    to = f"/records/{patient.profile_id}/documents"
    first = await mine.post(to, content[:1000], **part_headers("a", 0, len(content)))
    assert (first.status, first.text) == (200, '{"offset": 1000}')
    # Whoever does not know how much came is told; another upload, and anybody else's, starts anew.
    again = await mine.post(to, content[:1000], **part_headers("a", 0, len(content)))
    assert (again.status, again.text) == (409, '{"offset": 1000}')
    assert (await mine.post(to, content[1000:], **part_headers("b", 1000, len(content)))).text == '{"offset": 0}'
    assert (await theirs.post(to, content[1000:], **part_headers("a", 1000, len(content)))).status == 404
    more = await mine.post(to, content[1000:] + b"more than was said", **part_headers("a", 1000, len(content)))
    assert (more.status, more.text) == (409, '{"offset": 1000}')
    last = await mine.post(to, content[1000:], **part_headers("a", 1000, len(content)))
    assert last.status == 200
    row = await owner.fetchrow("select storage_path, sha256, status from shell_files")
    assert row["status"] == "queued"
    assert row["sha256"] == hashlib.sha256(content).hexdigest()
    assert b"".join([chunk async for chunk in console.storage.stream(row["storage_path"])]) == content


@pytest.mark.parametrize(("offset", "size"), [("-1", "10"), ("0", "ten"), ("0", "9" * 30), ("0", "0")])
async def test_a_part_that_makes_no_sense_is_refused(
    patient: Patient, console: ConsoleApp, offset: str, size: str
) -> None:
    headers = {**part_headers("a", 0, 0), "X-Upload-Offset": offset, "X-Upload-Size": size}
    mine = console.visitor(patient.user_id)
    assert (await mine.post(f"/records/{patient.profile_id}/documents", b"x", **headers)).status == 400


async def test_files_go_to_supabase_storage_with_the_users_own_token(
    database: Database, owner: asyncpg.Connection, patient: Patient, tmp_path: Path
) -> None:
    mine = token(patient.user_id)
    async with FakeStorage().serving() as storage:
        storage.users = {mine: "anon"}
        async with console_app(database, tmp_path, storage_url=storage.url) as console:
            visitor = console.stranger()
            visitor.cookies.update({"__Host-chartloom-session": mine, "__Host-chartloom-csrf": CSRF})
            storage.faults = [Fault(status=503)]
            to = f"/records/{patient.profile_id}/documents"
            content = TEXT.encode()
            away = await visitor.post(to, content, **part_headers("a", 0, len(content)))
            assert (away.status, "try again" in away.text) == (503, True)
            # All of it had come: the file itself is not sent again.
            again = await visitor.post(to, b"", **part_headers("a", len(content), len(content)))
            assert again.status == 200
            (path,) = storage.files
            assert storage.files[path].content == content
            assert await owner.fetchval("select storage_path from shell_files") == path
            # The image of a page, by the same rights; without one, the page is drawn from its words.
            worker = await database.connect("chartloom_ocr")
            job = await claim(worker, "ocr")
            image = f"{patient.profile_id}/pages/{job['payload']['run_id']}/1.jpg"
            await worker.fetchval(
                "select chartloom.save_ocr_pages($1, $2, $3)", job["job_id"], job["lease_token"],
                [{**page(TEXT), "image_path": image}],
            )  # fmt: skip
            shown = f"/documents/{job['payload']['shell_file_id']}/pages/1/image"
            assert (await visitor.get(shown)).headers["Content-Type"] == "image/svg+xml"
            storage.files[image] = Stored(b"\xff\xd8\xff picture", "image/jpeg")
            assert (await visitor.get(shown)).headers["Content-Type"] == "image/jpeg"


# -- signing in --------------------------------------------------------------------------------------------------------


async def test_supabase_users_sign_in_and_an_expired_token_is_renewed(
    database: Database, patient: Patient, tmp_path: Path
) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        asked.append(request.query["grant_type"])
        if body.get("password") == "right" or body.get("refresh_token") == "again":
            assert request.headers["apikey"] == "anon"
            signed = token(patient.user_id, iss=f"{address}/auth/v1")
            return web.json_response({"access_token": signed, "refresh_token": "again", "expires_in": 3600})
        return web.json_response({"code": "invalid_credentials"}, status=400)

    auth = web.Application()
    auth.router.add_post("/auth/v1/token", answer)
    async with TestServer(auth) as server:
        address = str(server.make_url("")).rstrip("/")
        async with console_app(database, tmp_path, supabase_url=address) as console:
            visitor = console.stranger()
            visitor.cookies["__Host-chartloom-csrf"] = CSRF
            wrong = await visitor.post("/sign-in", {"csrf": CSRF, "email": "a@b.example", "password": "wrong"})
            assert (wrong.status, "do not match" in wrong.text) == (401, True)
            right = await visitor.post("/sign-in", {"csrf": CSRF, "email": "a@b.example", "password": "right"})
            assert (right.status, right.headers["Location"]) == (303, "/")
            set_cookies = right.headers.getall("Set-Cookie")
            (session,) = [cookie for cookie in set_cookies if "chartloom-session" in cookie]
            assert all(word in session for word in ("HttpOnly", "SameSite=Lax", "Secure", "Path=/", "__Host-"))
            visitor.cookies["__Host-chartloom-refresh"] = "again"
            visitor.cookies["__Host-chartloom-session"] = token(patient.user_id, iss=f"{address}/auth/v1", exp=1)
            renewed = await visitor.get("/")
            assert renewed.status == 200
            assert any("chartloom-session" in cookie for cookie in renewed.headers.getall("Set-Cookie"))
            # With whatever the answer is: a refusal, or a stream, which is how a page that watches comes back.
            assert "Set-Cookie" in (await visitor.get("/nowhere")).headers
            async with visitor.events(patient.profile_id) as stream:
                assert "__Host-chartloom-session" in stream.headers["Set-Cookie"]
    assert asked == ["password", "password", "refresh_token", "refresh_token", "refresh_token"]


async def test_the_local_user_needs_the_key_and_a_local_name(database: Database, tmp_path: Path) -> None:
    key = "k" * 40
    local: dict[str, Any] = {
        "supabase_url": None, "supabase_anon_key": None, "supabase_jwt_secret": None, "console_development_key": key,
    }  # fmt: skip
    async with console_app(database, tmp_path, **local) as console:
        nobody = console.stranger()
        assert (await nobody.get("/sign-in/local?key=guessed")).status == 401
        right = await nobody.get(f"/sign-in/local?key={key}")
        assert (right.status, right.headers["Location"]) == (303, "/")
        assert (await nobody.get("/sign-in", Host="evil.example")).status == 421


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        (
            {"SUPABASE_URL": "https://p.supabase.co", "SUPABASE_ANON_KEY": "k", "CONSOLE_DEVELOPMENT_KEY": "k" * 40},
            "SUPABASE_URL",
        ),
        ({}, "SUPABASE_URL is missing"),
        ({"SUPABASE_URL": "https://p.supabase.co"}, "SUPABASE_ANON_KEY"),
        ({"CONSOLE_DEVELOPMENT_KEY": "k" * 40}, "HEALTH_HOST"),
        ({"CONSOLE_DEVELOPMENT_KEY": "short", "HEALTH_HOST": "127.0.0.1"}, "CONSOLE_DEVELOPMENT_KEY"),
    ],
)
def test_a_sign_in_that_would_let_anybody_in_is_refused_at_start(
    variables: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SUPABASE_URL", "SUPABASE_ANON_KEY", "CONSOLE_DEVELOPMENT_KEY", "HEALTH_HOST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"DATABASE_URL": "postgresql://x", "STORAGE_URL": "file:///x", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=named):
        load_settings(ConsoleSettings)


async def test_its_role_is_nobody_until_it_becomes_a_user(
    database: Database, owner: asyncpg.Connection, patient: Patient
) -> None:
    await upload(owner, patient.user_id, patient.profile_id)
    connection = await database.connect("chartloom_console")
    for query in (
        "select * from shell_files",
        "select * from chartloom.job_history",
        "select * from chartloom.claim_jobs('w', array['ocr'], 1)",
        "set role service_role",
        "set role chartloom_worker",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(query)
    async with connection.transaction():
        await become_user(connection, patient.user_id)
        assert await connection.fetchval("select count(*) from shell_files") == 1
    async with connection.transaction():
        await become_user(connection, uuid4())
        assert await connection.fetchval("select count(*) from shell_files") == 0
        assert (
            await connection.fetch("select * from chartloom.document_stages(array(select id from shell_files))") == []
        )
    await connection.close()
