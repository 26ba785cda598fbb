"""Documents flow through the four services, two processes each, while everything fails that can.

``make chaos SECONDS=3600 SEED=1`` draws another hour. The same seed is the same documents, the same faults at the same
times and the same wrong clocks; which job is in hand at that moment, the machine decides.
"""

import asyncio
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from cli.embedded_postgres import EmbeddedPostgres
from shared.database import connect
from shared.storage import open_storage
from tests.chaos.faults import Disturbance, schedule, small_disk
from tests.chaos.model import Model
from tests.conftest import OWNER, SERVICE_ROLES, TEMPLATE, Database
from tests.fakes.openai_server import FakeOpenAI
from tests.fleet import SERVICES, find_faketime, fleet
from tests.letters import FINAL, Owner, announce, make_letters, upload
from tests.records import record
from tests.waiting import until

SECONDS = float(os.environ.get("CHAOS_SECONDS") or 300)
SEED = int(os.environ.get("CHAOS_SEED") or 20261124)
LETTERS_PER_SECOND = 1.0
INSTANCES = 2
QUIET_SECONDS = 300
"""From the last fault to the last document: a statement on a dead line hangs for two minutes."""

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3 * SECONDS + 1200)]

UUID_TEXT = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


async def create(database: Database, template: str) -> None:
    admin = await connect(database.admin_url, application_name="test")
    await admin.execute(f"create database {database.name} template {template} owner {OWNER}")
    # Else a crash makes the copy's sequences give out again what they gave out (tests/slow/test_exactly_once.py).
    await admin.execute("checkpoint")
    await admin.close()


async def end_idle_transactions(database: Database) -> None:
    """As the server does of itself after a minute, only sooner."""
    admin = await database.connect_as_superuser()
    for role in SERVICE_ROLES:
        await admin.execute(
            f"alter role {role} in database {database.name} set idle_in_transaction_session_timeout = '5s'"
        )
    await admin.close()


async def left_by(database: Database, kept: set[str]) -> dict[str, list[str]]:
    """The record, with every id that a run makes replaced by a word."""

    def without_ids(row: str) -> str:
        return UUID_TEXT.sub(lambda found: found[0] if found[0] in kept else "id", row)

    owner = await database.connect()
    try:
        return {table: sorted(map(without_ids, rows)) for table, rows in (await record(owner)).items()}
    finally:
        await owner.close()


async def jobs_of(owner: asyncpg.Connection) -> dict[tuple[str, str, str | None], int]:
    rows = await owner.fetch(
        "select job_type, status, error ->> 'code' as code, count(*) from chartloom.job_history group by 1, 2, 3"
    )
    return {(row["job_type"], row["status"], row["code"]): row["count"] for row in rows}


async def figures_of(owner: asyncpg.Connection) -> Counter[str]:
    """What the queue kept of it all."""
    figures = Counter(
        {
            f"{row['kind']}, {row['code']}": row["count"]
            for row in await owner.fetch(
                "select kind, code, count(*) from chartloom.processing_errors group by 1, 2 order by 1, 2"
            )
        }
    )
    row = await owner.fetchrow(
        "select sum(retry_count) as retries, max(retry_count) as most_retries, "
        "sum(lease_losses) as losses, max(lease_losses) as most_losses from chartloom.job_history"
    )
    return figures + Counter(
        {
            "retries": row["retries"],
            "most retries of one job": row["most_retries"],
            "lost leases": row["losses"],
            "most lost leases of one job": row["most_losses"],
        }
    )


@pytest.mark.parametrize("provider", ["openai", "local"])
async def test_every_document_ends_as_if_nothing_had_happened(
    provider: str,
    own_server: EmbeddedPostgres,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    seconds = SECONDS / 2  # the other half is the other provider's
    letters = make_letters(
        random.Random(f"{SEED} {provider}"), int(LETTERS_PER_SECOND * seconds), per_second=LETTERS_PER_SECOND
    )
    admin_url = own_server.ensure_started().admin_url
    began, undisturbed, disturbed = (
        Database(admin_url, f"{name}_{provider}") for name in ("began", "undisturbed", "disturbed")
    )
    await create(began, TEMPLATE)
    documents = await announce(began, letters)
    for database in (undisturbed, disturbed):
        await create(database, began.name)
    await end_idle_transactions(disturbed)

    async with AsyncExitStack() as stack:
        disk = stack.enter_context(small_disk(tmp_path / "disk", letters=len(letters)))
        endpoint = await stack.enter_async_context(FakeOpenAI().serving())
        settings = {
            "STORAGE_URL": disk.folder.as_uri(),
            "TMPDIR": str(disk.folder),
            "AI_PROVIDER": provider,
            "AI_MODEL": "invented",
            "OPENAI_API_KEY": "key",
            "OPENAI_BASE_URL": endpoint.url,
            "AI_TIMEOUT_SECONDS": "4",
        }
        storage = open_storage(settings["STORAGE_URL"])

        endpoint.script = Model(None)
        owner = Owner(undisturbed)
        async with fleet(undisturbed, tmp_path, settings) as services:
            for letter in letters:
                await upload(owner, storage, letter, documents[letter.sha256])
            watcher = await undisturbed.connect()
            await until(watcher, FINAL, seconds=60 + 2 * len(letters))
            assert set((await services.stop()).values()) == {0}
        expected_jobs = await jobs_of(watcher)
        await watcher.close()

        endpoint.script = model = Model(SEED)
        owner = Owner(disturbed)
        faults = schedule(SEED if provider == "openai" else SEED + 1, seconds, INSTANCES * len(SERVICES))
        started_at = time.monotonic()
        async with fleet(
            disturbed,
            tmp_path,
            settings,
            instances=INSTANCES,
            clocks=random.Random(f"{SEED} clocks"),
            through_proxies=True,
        ) as services:
            disturbance = Disturbance(own_server, services, disk, owner)
            disturbing = asyncio.create_task(disturbance.run(faults))
            client = Owner(disturbed)
            refused = 0
            for letter in letters:
                await asyncio.sleep(started_at + letter.at - time.monotonic())
                refused += await upload(client, storage, letter, documents[letter.sha256])
            await disturbing
            disturbed_seconds = time.monotonic() - started_at
            watcher = await disturbed.connect()
            await until(watcher, FINAL, seconds=QUIET_SECONDS)
            await services.look_after()
            codes = await services.stop()
        images = [row["image_path"] for row in await watcher.fetch("select image_path from ocr_pages")]
        lost_images = [path for path in images if path and await storage.stat(path) is None]

    figures = Counter(
        {
            "documents": len(letters),
            "seconds with faults": round(disturbed_seconds),
            "seconds from the last fault to the last document": round(
                time.monotonic() - started_at - disturbed_seconds
            ),
            "faults": sum(count for kind, count in disturbance.faults.items() if not kind.startswith("left out")),
            **disturbance.faults,
            **{f"model: {kind}": count for kind, count in model.faults.items()},
            "uploads put off by the full disk": refused,
            **services.figures,
            **await figures_of(watcher),
        }
    )
    for name, value in figures.items():
        record_property(name, value)
    with capsys.disabled():
        print(f"\n  {provider}, seed {SEED}" + ("" if find_faketime() else ", no libfaketime: every clock was right"))
        print("\n".join(f"  {value:6} {name}" for name, value in figures.items()))

    assert services.ended_by_itself == []
    assert set(codes.values()) == {0}, codes
    # Dead letters are those of the undisturbed run, each with its reason.
    assert await jobs_of(watcher) == expected_jobs
    assert all(code for _, status, code in expected_jobs if status == "dead_letter")
    assert await watcher.fetchval("select count(*) from failed_audit_events") == 0
    assert await watcher.fetch("select * from chartloom.verify_audit()") == []
    kept = {str(found) for letter in letters for found in (letter.patient.profile_id, documents[letter.sha256])}
    expected, found = await left_by(undisturbed, kept), await left_by(disturbed, kept)
    assert found.keys() == expected.keys()
    assert [table for table in expected if found[table] != expected[table]] == []
    assert len(found["patient_clinical_events"]) > len(letters)
    assert lost_images == []
    await watcher.close()
