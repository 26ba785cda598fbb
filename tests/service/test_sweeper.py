"""The sweeper's rounds, against real files, a real Postgres and a server that speaks Render's endpoints."""

import asyncio
import hashlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from services.sweeper.scaling import Scaling
from services.sweeper.settings import ScaledService, SweeperSettings
from services.sweeper.stored_files import MissingFiles, UnknownFiles
from services.sweeper.uploads import StaleUploads
from shared.database import open_pool
from shared.errors import ConfigurationError, TransientError
from shared.settings import load_settings
from shared.storage import LocalStorage
from tests.conftest import REPOSITORY, Database, Patient
from tests.users import as_user, upload

LONG_AGO = "now() - interval '2 days'"
GRACE_SECONDS = 3600.0


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[asyncpg.Pool]:
    async with await open_pool(database.url("chartloom_sweeper"), size=4, application_name="sweeper") as opened:
        yield opened


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "storage")


async def chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def announce(owner: asyncpg.Connection, patient: Patient, content: bytes) -> tuple[UUID, str]:
    """An upload that nobody completes. Returns the document and where its file belongs."""
    created = await as_user(
        owner,
        patient.user_id,
        "select create_upload($1, 'letter.pdf', $2, $3)",
        patient.profile_id,
        hashlib.sha256(content).hexdigest(),
        len(content),
    )
    await owner.execute(f"update shell_files set created_at = {LONG_AGO}")
    return UUID(created["shell_file_id"]), created["storage_path"]


async def completed(owner: asyncpg.Connection, patient: Patient, storage: LocalStorage, content: bytes) -> UUID:
    """A document that has been through it all, with its file."""
    file = await upload(owner, patient.user_id, patient.profile_id, content)
    await owner.execute("delete from chartloom.job_queue")
    await owner.execute("update shell_files set status = 'completed', completed_at = now()")
    await storage.put(f"{patient.profile_id}/{hashlib.sha256(content).hexdigest()}", chunks(content))
    return file


async def statuses(owner: asyncpg.Connection) -> dict[UUID, str]:
    return {row["id"]: row["status"] for row in await owner.fetch("select id, status from shell_files")}


# -- uploads -----------------------------------------------------------------------------------------------------------


async def test_a_stale_upload_ends_by_what_is_in_storage(
    owner: asyncpg.Connection, pool: asyncpg.Pool, storage: LocalStorage, patient: Patient
) -> None:
    whole, path = await announce(owner, patient, b"arrived")
    await storage.put(path, chunks(b"arrived"))
    bent, path = await announce(owner, patient, b"announced")
    await storage.put(path, chunks(b"somewhat!"))
    short, path = await announce(owner, patient, b"all of it")
    await storage.put(path, chunks(b"all"))
    absent, _ = await announce(owner, patient, b"never sent")
    sweeps = [StaleUploads(pool=pool, storage=storage, grace_seconds=GRACE_SECONDS) for _ in range(2)]
    done = sum(await asyncio.gather(*(sweep.run() for sweep in sweeps)), Counter[str]())
    assert done == {"completed": 1, "failed_different": 2, "failed_nothing": 1}
    assert await statuses(owner) == {whole: "queued", bent: "failed", short: "failed", absent: "failed"}
    assert await owner.fetchval("select array_agg(shell_file_id) from chartloom.job_queue") == [whole]
    assert await owner.fetchval("select count(*) from audit_log where actor_role = 'chartloom_sweeper'") == 1


# -- files and rows ----------------------------------------------------------------------------------------------------


async def test_a_lost_file_is_told_after_the_grace_and_untold_when_it_is_back(
    owner: asyncpg.Connection, pool: asyncpg.Pool, storage: LocalStorage, patient: Patient
) -> None:
    kept = await completed(owner, patient, storage, b"kept")
    lost = await completed(owner, patient, storage, b"lost")
    path = f"{patient.profile_id}/{hashlib.sha256(b'lost').hexdigest()}"
    await storage.delete(path)
    sweep = MissingFiles(pool=pool, storage=storage, grace_seconds=GRACE_SECONDS)
    assert await sweep.run() == {"missing": 1}
    assert await statuses(owner) == {kept: "completed", lost: "completed"}
    await owner.execute(f"update chartloom.storage_findings set found_at = {LONG_AGO}")
    assert await sweep.run() == {"missing": 1, "failed": 1}
    told = await owner.fetchval("select processing_error from shell_files where id = $1", lost)
    assert (told["code"], told["stage"]) == ("stored_file_missing", "storage")
    assert await statuses(owner) == {kept: "completed", lost: "failed"}
    assert await sweep.run() == {"missing": 1}
    await storage.put(path, chunks(b"lost"))
    assert (await sweep.run())["found_again"] == 1
    assert await statuses(owner) == {kept: "completed", lost: "completed"}
    assert await owner.fetchval("select count(*) from chartloom.storage_findings") == 0


async def test_a_storage_that_is_away_fails_no_document(
    owner: asyncpg.Connection, pool: asyncpg.Pool, storage: LocalStorage, patient: Patient, tmp_path: Path
) -> None:
    for number in range(3):
        await completed(owner, patient, storage, str(number).encode())
    sweep = MissingFiles(pool=pool, storage=LocalStorage(tmp_path / "not mounted"), grace_seconds=0)
    with pytest.raises(TransientError, match="STORAGE_URL"):
        await sweep.run()
    assert set((await statuses(owner)).values()) == {"completed"}
    assert await owner.fetchval("select count(*) from chartloom.storage_findings") == 0


async def test_a_file_of_no_document_is_reported_and_goes_only_where_that_is_wanted(
    owner: asyncpg.Connection, pool: asyncpg.Pool, storage: LocalStorage, patient: Patient, tmp_path: Path
) -> None:
    await completed(owner, patient, storage, b"known")
    unknown = f"{patient.profile_id}/{'0' * 64}"
    young = f"{patient.profile_id}/{'1' * 64}"
    for path in (unknown, young, "somebody/else.txt"):
        await storage.put(path, chunks(b"x"))
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.name != young.split("/")[1]:
            os.utime(path, (time.time() - 7200,) * 2)
    reporting, deleting = (
        UnknownFiles(pool=pool, storage=storage, grace_seconds=GRACE_SECONDS, may_delete=may_delete)
        for may_delete in (False, True)
    )
    assert await reporting.run() == {"unknown": 1}
    assert await deleting.run() == {"unknown": 1}, "it was seen a moment ago for the first time"
    await owner.execute(f"update chartloom.storage_findings set found_at = {LONG_AGO}")
    assert await reporting.run() == {"unknown": 1}
    assert await storage.stat(unknown)
    assert await deleting.run() == {"deleted": 1}
    assert await storage.stat(unknown) is None
    assert await storage.stat(young)
    assert await storage.stat("somebody/else.txt")
    assert await owner.fetchval("select count(*) from chartloom.storage_findings") == 0
    assert (
        await owner.fetchval("select count(*) from audit_log where action = 'delete' and table_name = 'storage'") == 1
    )


async def test_a_file_that_cannot_be_deleted_is_still_known(
    owner: asyncpg.Connection, pool: asyncpg.Pool, storage: LocalStorage, patient: Patient, tmp_path: Path
) -> None:
    class Broken(LocalStorage):
        async def delete(self, path: str) -> None:
            raise ConnectionResetError

    path = f"{patient.profile_id}/{'0' * 64}"
    await storage.put(path, chunks(b"x"))
    sweep = UnknownFiles(pool=pool, storage=Broken(tmp_path / "storage"), grace_seconds=0, may_delete=True)
    with pytest.raises(ConnectionResetError):
        await sweep.run()
    assert await owner.fetchval("select storage_path from chartloom.storage_findings") == path
    assert await storage.stat(path)


# -- Render ------------------------------------------------------------------------------------------------------------


class Render:
    """Speaks what its API answers about one service: https://api-docs.render.com/reference/scale-service."""

    def __init__(self) -> None:
        self.instances = 2
        self.answers: list[tuple[int, dict[str, str]]] = []
        """Instead of 202, once each."""
        self.asked: list[int] = []

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/services/srv-1", self._describe)
        app.router.add_post("/v1/services/srv-1/scale", self._scale)
        return app

    async def _describe(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer key"
        return web.json_response({"id": "srv-1", "serviceDetails": {"numInstances": self.instances}})

    async def _scale(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer key"
        body = await request.json()
        assert body.keys() == {"numInstances"}
        self.asked.append(body["numInstances"])
        if self.answers:
            status, headers = self.answers.pop(0)
            return web.Response(status=status, headers=headers)
        self.instances = body["numInstances"]
        return web.Response(status=202)


@pytest.fixture
async def render() -> AsyncIterator[tuple[Render, str]]:
    speaking = Render()
    server = TestServer(speaking.app())
    await server.start_server()
    yield speaking, str(server.make_url("/v1"))
    await server.close()


def scaling(pool: asyncpg.Pool, url: str, **changes: Any) -> Scaling:
    limits = {"up_seconds": 60, "down_seconds": 5, "calm_seconds": 0, "cooldown_seconds": 0, **changes}
    service = ScaledService(job_types=["ocr"], minimum=1, maximum=5)
    return Scaling(pool=pool, api_url=url, api_key="key", services={"srv-1": service}, **limits)


async def make_wait(owner: asyncpg.Connection, seconds: int) -> None:
    await owner.execute("select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}')")
    await owner.execute("update chartloom.job_queue set scheduled_at = now() - make_interval(secs => $1)", seconds)


async def test_instances_follow_the_oldest_job_within_their_bounds(
    owner: asyncpg.Connection, pool: asyncpg.Pool, render: tuple[Render, str]
) -> None:
    speaking, url = render
    scale = scaling(pool, url)
    await make_wait(owner, 300)
    outcomes = [dict(await scale.run()) for _ in range(4)]
    assert speaking.asked == [3, 4, 5]
    assert outcomes == [{"up": 1}, {"up": 1}, {"up": 1}, {"at_its_bound": 1}]
    await owner.execute("delete from chartloom.job_queue")
    for _ in range(5):
        await scale.run()
    assert speaking.asked[3:] == [4, 3, 2, 1]


async def test_between_two_changes_there_is_a_cooldown(
    owner: asyncpg.Connection, pool: asyncpg.Pool, render: tuple[Render, str]
) -> None:
    speaking, url = render
    await make_wait(owner, 300)
    sweepers = [scaling(pool, url, cooldown_seconds=60) for _ in range(3)]
    await asyncio.gather(*(sweeper.run() for sweeper in sweepers))
    assert speaking.asked == [3]


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [(429, {"Retry-After": "7"}, 7), (429, {}, 60), (503, {}, 60), (500, {"Retry-After": "soon"}, 60)],
)
async def test_a_refusal_is_waited_out(
    owner: asyncpg.Connection,
    pool: asyncpg.Pool,
    render: tuple[Render, str],
    status: int,
    headers: dict[str, str],
    seconds: int,
) -> None:
    speaking, url = render
    speaking.answers = [(status, headers)]
    await make_wait(owner, 300)
    scale = scaling(pool, url, cooldown_seconds=3600)
    assert await scale.run() == {"refused": 1}
    wait = await owner.fetchval("select extract(epoch from not_before - now()) from chartloom.scaled_services")
    assert seconds - 5 < wait <= seconds
    assert await scale.run() == {}
    await owner.execute("update chartloom.scaled_services set not_before = now()")
    assert await scale.run() == {"up": 1}
    assert speaking.asked == [3, 3]


async def test_an_api_that_is_away_is_waited_out(owner: asyncpg.Connection, pool: asyncpg.Pool) -> None:
    await make_wait(owner, 300)
    assert await scaling(pool, "http://127.0.0.1:9/v1").run() == {"refused": 1}


def test_scaling_is_refused_without_its_key_or_with_bounds_that_cross(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://u@db/x")
    monkeypatch.setenv("RENDER_SCALING", json.dumps({"srv-1": {"job_types": ["ocr"], "minimum": 1, "maximum": 2}}))
    with pytest.raises(ConfigurationError, match="RENDER_API_KEY"):
        load_settings(SweeperSettings)
    monkeypatch.setenv("RENDER_API_KEY", "key")
    assert load_settings(SweeperSettings).render_scaling["srv-1"].maximum == 2
    monkeypatch.setenv("RENDER_SCALING", "srv-1")
    with pytest.raises(ConfigurationError, match="RENDER_SCALING"):
        load_settings(SweeperSettings)
    monkeypatch.setenv("RENDER_SCALING", json.dumps({"srv-1": {"job_types": ["ocr"], "minimum": 3, "maximum": 2}}))
    with pytest.raises(ConfigurationError, match="minimum is more than maximum"):
        load_settings(SweeperSettings)


# -- one pass ----------------------------------------------------------------------------------------------------------


async def sweep_once(database: Database, storage_url: str) -> tuple[int, list[dict[str, Any]]]:
    """Returns the exit code and the log."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.sweeper",
        "--once",
        cwd=REPOSITORY,
        env={
            **os.environ,
            "DATABASE_URL": database.url("chartloom_sweeper"),
            "STORAGE_URL": storage_url,
            "UPLOAD_GRACE_HOURS": "1",
        },
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, [json.loads(line) for line in output.splitlines()]


async def test_one_pass_does_it_all_says_so_and_exits(
    database: Database, owner: asyncpg.Connection, storage: LocalStorage, patient: Patient, tmp_path: Path
) -> None:
    await owner.execute("select chartloom.enqueue_job_v3('ocr', 'fast', '{\"noop\": true}')")
    await owner.fetch("select * from chartloom.claim_jobs('silent', array['ocr'], 1, 1)")
    await owner.execute("update chartloom.job_queue set lease_expires_at = now()")
    await announce(owner, patient, b"never sent")
    code, log = await sweep_once(database, (tmp_path / "storage").as_uri())
    said = {(line["event"], line.get("outcome"), line.get("count")) for line in log}
    assert code == 0
    assert said >= {
        ("queue", "expired", 1),
        ("stale_uploads", "failed_nothing", 1),
        ("archive", "attached", 3),
        ("pass_done", "done", None),
    }
    assert str(patient.profile_id) not in json.dumps(log)


async def test_a_pass_that_fails_in_part_does_the_rest_and_exits_1(
    database: Database, owner: asyncpg.Connection, storage: LocalStorage, patient: Patient, tmp_path: Path
) -> None:
    await completed(owner, patient, storage, b"known")
    code, log = await sweep_once(database, (tmp_path / "not mounted").as_uri())
    said = {(line["event"], line.get("outcome"), line.get("code")) for line in log}
    assert code == 1
    assert said >= {("missing_files", "failed", "storage_away"), ("pass_done", "failed", None)}
    assert await owner.fetchval("select count(*) from pg_class where relname ~ '^job_archive_[0-9]{6}$'") == 3


async def test_a_pass_without_a_database_exits_1() -> None:
    code, log = await sweep_once(Database("postgresql://u@127.0.0.1:9/x", "x"), "file:///nowhere")
    assert (code, log[-1]["event"]) == (1, "database_away")
