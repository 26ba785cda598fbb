"""A worker as a process, for tests that kill and freeze it: ``python -m tests.worker_process``, with DATABASE_URL.

It works ``ocr`` jobs. In its work, and again in the statement that completes the job, it stops before an advisory
lock of its own name, which the test holds as long as it wants it to stand there. The test has run ``EFFECTS``.
"""

from typing import Any

from shared.contract.payloads import DocumentPayload
from shared.handler import Handler
from shared.jobs import ClaimedJob, Write
from shared.service import Runtime, run_worker
from shared.settings import ServiceSettings, load_settings

# First what nothing but the transaction protects, then what names the lease.
EFFECTS = """
create table effects (job_id bigint, worker_id text);
create function stand_in_store(p_job_id bigint, p_lease_token uuid, p_gate text, p_result jsonb) returns jsonb
language plpgsql security definer as $$
begin
    insert into effects values (p_job_id, p_result ->> 'by');
    perform chartloom.save_ocr_pages(p_job_id, p_lease_token, '[]');
    perform pg_advisory_xact_lock_shared(hashtext(p_gate));
    return p_result;
end
$$;
"""
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

        def store(_: ClaimedJob, result: dict[str, Any]) -> Write:
            return Write("stand_in_store", (gate(settings.worker_id, "store"), result))

        return [Handler(job_type="ocr", payload=DocumentPayload, work=work, store=store)]

    run_worker("test", settings, ["ocr"], build, details={})


if __name__ == "__main__":
    main()
