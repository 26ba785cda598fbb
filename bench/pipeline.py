"""The whole way of a document: the services as processes, uploads as users make them, and what came of them."""

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from uuid import UUID, uuid4

import asyncpg

from .queue.ground import Ground
from .queue.program import Program, running

STARTED_SECONDS = 60.0
LOOK_EVERY_SECONDS = 0.5
MODEL = "bench"
FINAL = "('completed', 'failed', 'quarantined', 'cancelled')"


@dataclass(frozen=True)
class Upload:
    """A document that was announced, and whose file is in the storage: all but ``complete_upload``."""

    patient_id: UUID
    shell_file_id: UUID


@asynccontextmanager
async def model_endpoint(seconds: float) -> AsyncIterator[str]:
    """The base URL of an endpoint that answers after so many seconds."""
    async with running([sys.executable, "-m", "bench.model_endpoint", str(seconds)], {}) as program:
        (port,) = await program.hear("port")
        yield f"http://127.0.0.1:{port}/v1"


@asynccontextmanager
async def services(
    ground: Ground,
    database: str,
    instances: Mapping[str, int],
    settings: Mapping[str, Mapping[str, str]],
    *,
    niceness: int = 0,
) -> AsyncIterator[dict[str, list[Program]]]:
    """So many processes of each service, all of them started and known to the database; drained at the end."""
    async with AsyncExitStack() as started, ground.owner(database) as owner:
        programs: dict[str, list[Program]] = {}
        for service, count in instances.items():
            environment = {
                "DATABASE_URL": ground.service_url_of(service, database),
                "STORAGE_URL": ground.storage_url,
                "LOG_LEVEL": "warning",
                "HEALTH_HOST": "127.0.0.1",
                "PORT": "0",
                "DRAIN_SECONDS": "5",
                **settings.get(service, {}),
            }
            command = ["nice", "-n", str(niceness), sys.executable, "-m", f"services.{service}"]
            programs[service] = [
                await started.enter_async_context(
                    running(command, {**environment, "WORKER_ID": f"{service}-{number}"}, is_heard=False)
                )
                for number in range(count)
            ]
        async with asyncio.timeout(STARTED_SECONDS):
            while await owner.fetchval("select count(*) from chartloom.workers") < sum(instances.values()):
                await asyncio.sleep(0.1)
        yield programs


def endpoint_settings(base_url: str) -> dict[str, str]:
    return {"AI_PROVIDER": "openai", "AI_MODEL": MODEL, "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": base_url}


# -- in ---------------------------------------------------------------------------------------------------------------


async def announce(ground: Ground, database: str, documents: Sequence[tuple[UUID, bytes]]) -> list[Upload]:
    """Creates the patients and the uploads, with the patients' own rights, and puts the files where they belong."""
    storage = Path(unquote(urlsplit(ground.storage_url).path))
    uploads = []
    async with ground.owner(database) as owner:
        patients = list({patient for patient, _ in documents})
        await owner.execute(
            "insert into public.user_profiles (id, owner_user_id) select id, id from unnest($1::uuid[]) as id", patients
        )
        await owner.execute("set role authenticated")
        for patient, content in documents:
            answer = json.loads(
                await owner.fetchval(
                    "select create_upload($2, 'letter.pdf', $3, $4) "
                    "where set_config('request.jwt.claims', $1, false) <> ''",
                    _claims(patient), patient, hashlib.sha256(content).hexdigest(), len(content),
                )
            )  # fmt: skip
            path = storage / answer["storage_path"]
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            uploads.append(Upload(patient, UUID(answer["shell_file_id"])))
        await owner.execute("reset role")
    return uploads


class Users:
    """Patients who complete their uploads, over connections that they share as an API gateway's clients do."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def complete(self, upload: Upload, due: float) -> float:
        """``complete_upload``; how long it took in ms, from when it was due: waiting for a turn counts, too."""
        # One statement, so one transaction and one round trip.
        answer = await self._pool.fetchval(
            "select complete_upload($2) where set_config('request.jwt.claims', $1, true) <> ''",
            _claims(upload.patient_id),
            upload.shell_file_id,
        )
        took = time.perf_counter() - due
        assert json.loads(answer)["status"] == "queued", answer
        return took * 1000

    async def complete_within(self, uploads: Sequence[Upload], seconds: float) -> list[float]:
        """All of them, evenly spread, each when it is due, whatever has become of those before."""
        began = time.perf_counter()

        async def one(place: int, upload: Upload) -> float:
            due = began + seconds * place / len(uploads)
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            return await self.complete(upload, due)

        return await asyncio.gather(*(one(place, upload) for place, upload in enumerate(uploads)))

    async def complete_in_turn(self, uploads: Sequence[Upload]) -> list[float]:
        """One after another, as one patient's app does."""
        return [await self.complete(upload, time.perf_counter()) for upload in uploads]


@asynccontextmanager
async def users(ground: Ground, database: str, *, connections: int) -> AsyncIterator[Users]:
    async def sign_in(connection: asyncpg.Connection) -> None:
        await connection.execute("set role authenticated")

    pool = await asyncpg.create_pool(
        ground.owner_url_of(database), min_size=connections, max_size=connections, init=sign_in, reset=_leave_as_is
    )
    try:
        yield Users(pool)
    finally:
        await pool.close()


async def until_completed(owner: asyncpg.Connection, count: int, seconds: float) -> None:
    """Until so many documents are completed."""
    async with asyncio.timeout(seconds):
        while await owner.fetchval("select count(*) from shell_files where status = 'completed'") < count:
            await asyncio.sleep(LOOK_EVERY_SECONDS)


async def until_final(owner: asyncpg.Connection, seconds: float) -> None:
    """Until no document is on its way any more."""
    async with asyncio.timeout(seconds):
        while await owner.fetchval(f"select exists (select from shell_files where status not in {FINAL})"):
            await asyncio.sleep(LOOK_EVERY_SECONDS)


def patients(count: int) -> list[UUID]:
    return [uuid4() for _ in range(count)]


def _claims(patient: UUID) -> str:
    return json.dumps({"sub": str(patient), "role": "authenticated"})


async def _leave_as_is(_: asyncpg.Connection) -> None:
    """A reset would forget the role."""
