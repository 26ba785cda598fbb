"""``chartloom process``: submit files, watch them move, show what was found."""

import asyncio
import contextlib
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from rich.console import Console
from rich.live import Live

from shared.errors import ConfigurationError
from shared.service import VERSION
from shared.telemetry import configure_telemetry, flush_telemetry

from . import display, documents
from .command import command
from .deployment import Deployment, open_deployment
from .supervisor import Supervisor

PROGRESS_SECONDS = 0.25


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    files: list[Path]
    json_out: Path | None
    patient: UUID | None
    timeout_seconds: float


async def process(request: Request, out: Console, err: Console) -> list[dict[str, Any]]:
    """Processes the files; returns what ``--json`` writes of each. What it had to start, it stops again."""
    # Looking on is no part of a document's trace; its upload is, by spans of its own.
    configure_telemetry(service="cli", version=VERSION, instance="cli", trace_statements=False)
    interrupted = interruptible()
    if request.json_out and not os.access(request.json_out.absolute().parent, os.W_OK):
        raise ConfigurationError("json_not_writable", f"--json {request.json_out}: its folder can't be written.")
    try:
        async with open_deployment("apply") as deployment:
            described, finished = await _submit_and_watch(deployment, request, err, interrupted)
    finally:
        flush_telemetry()
    for document in described:
        out.print(display.findings(document))
    if request.json_out:
        request.json_out.write_text(json.dumps({"documents": described}, ensure_ascii=False, indent=1))
        out.print(f"Written: {request.json_out}\n", highlight=False, markup=False)
    if not finished:
        why = "Interrupted" if interrupted.is_set() else "Not every document was done in time"
        err.print(f"{why}. Nothing is lost: {command()} up goes on with them.", style="red", highlight=False)
    display.print_next_steps(out, deployment.home, request.json_out)
    return described


async def _submit_and_watch(
    deployment: Deployment, request: Request, err: Console, interrupted: asyncio.Event
) -> tuple[list[dict[str, Any]], bool]:
    supervisor = Supervisor(deployment)
    storage = deployment.storage()
    async with deployment.owner() as connection:
        if supervisor.acquire():
            supervisor.start(deployment.services)
            if supervisor.console_address:
                err.print(
                    f"The console, while this runs: {supervisor.console_address}", highlight=False, soft_wrap=True
                )
        try:
            patient_id = await documents.ensure_patient(connection, request.patient)
            submitted = [await documents.submit(connection, storage, path, patient_id) for path in request.files]
            watch = _Watch(connection, supervisor, deployment, submitted, err)
            finished = await watch.until_final(request.timeout_seconds, interrupted)
            return [await documents.describe(connection, document) for document in submitted], finished
        finally:
            await supervisor.stop()


class _Watch:
    """Shows progress: a table that moves in a terminal, a line a change elsewhere."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        supervisor: Supervisor,
        deployment: Deployment,
        submitted: list[documents.Submitted],
        err: Console,
    ) -> None:
        self._connection = connection
        self._supervisor = supervisor
        self._deployment = deployment
        self._submitted = submitted
        self._ids = [document.shell_file_id for document in submitted]
        self._err = err
        self._told: set[tuple[int, str]] = set()

    async def until_final(self, seconds: float, interrupted: asyncio.Event) -> bool:
        """False where time ran out or ctrl-C came first."""
        deadline = asyncio.get_running_loop().time() + seconds
        moving = Live(console=self._err, refresh_per_second=8) if self._err.is_terminal else contextlib.nullcontext()
        with moving as live:
            while True:
                self._supervisor.check()
                statuses = await documents.statuses(self._connection, self._ids)
                stages = await documents.stages(self._connection, self._ids)
                if live:
                    live.update(display.progress(self._submitted, statuses, stages))
                else:
                    self._tell_changes(stages)
                if all(statuses.get(file) in documents.FINAL for file in self._ids):
                    return True
                if interrupted.is_set() or asyncio.get_running_loop().time() > deadline:
                    return False
                # Whoever ran the services may have left: somebody has to go on.
                if not self._supervisor.started and self._supervisor.acquire():
                    self._supervisor.start(self._deployment.services)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PROGRESS_SECONDS):
                        await interrupted.wait()

    def _tell_changes(self, stages: dict[UUID, list[dict[str, Any]]]) -> None:
        for document in self._submitted:
            for stage in stages[document.shell_file_id]:
                change = (stage["job_id"], stage["status"])
                is_news = stage["error_code"] if stage["job_type"] in display.PARTS_OF else stage["status"] != "pending"
                if change not in self._told and is_news:
                    self._told.add(change)
                    self._err.print(display.stage_line(document, stage), highlight=False, markup=False)


def interruptible() -> asyncio.Event:
    """Set by ctrl-C or SIGTERM, in place of an exception in the middle of something."""
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    return interrupted
