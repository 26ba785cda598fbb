"""A worker as a process, for tests that kill and freeze it: ``python -m tests.worker_process``, with DATABASE_URL.

It works ``ocr`` jobs. In its work, and again in the transaction that completes the job, it stops before an advisory
lock of its own name, which the test holds as long as it wants it to stand there.
"""

from typing import Any

from shared.contract.payloads import DocumentPayload
from shared.database import Connection
from shared.jobs import ClaimedJob
from shared.service import Runtime, run_worker
from shared.settings import ServiceSettings, load_settings
from shared.worker import Handler

GATE = "select pg_advisory_xact_lock_shared(hashtext($1))"


def gate(worker_id: str, place: str) -> str:
    """The name of the lock: ``work`` or ``store``."""
    return f"{worker_id} in its {place}"


def main() -> None:
    settings = load_settings(ServiceSettings)

    def build(runtime: Runtime) -> list[Handler[Any, Any]]:
        async def work(_: ClaimedJob, __: DocumentPayload) -> dict[str, Any]:
            await runtime.pool.execute(GATE, gate(settings.worker_id, "work"))
            return {"by": settings.worker_id}

        async def store(connection: Connection, job: ClaimedJob, result: dict[str, Any]) -> dict[str, Any]:
            # First what nothing but the transaction protects, then what names the lease.
            await connection.execute("insert into effects values ($1, $2)", job.job_id, settings.worker_id)
            await connection.execute("select chartloom.save_ocr_pages($1, $2, '[]')", job.job_id, job.lease_token)
            await connection.execute(GATE, gate(settings.worker_id, "store"))
            return result

        return [Handler(job_type="ocr", payload=DocumentPayload, work=work, store=store)]

    run_worker("test", settings, ["ocr"], build, details={})


if __name__ == "__main__":
    main()
