"""What the pages of the alerts tell an operator to type works, on a database with a dead letter in it."""

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

from tests.conftest import REPOSITORY, Database, Patient
from tests.end_to_end.conftest import chartloom
from tests.pipeline import claim
from tests.users import upload

PAGES = sorted((REPOSITORY / "docs" / "alerts").glob("*.md"))
COMMAND = re.compile(r"`chartloom ([^`]+)`")
SQL = re.compile(r"```sql\n(.+?)```|`((?:select|show) [^`]+)`", re.DOTALL)


def typed(pattern: re.Pattern[str]) -> list[str]:
    """Each command of any page once."""
    found = [next(filter(None, match.groups())) for page in PAGES for match in pattern.finditer(page.read_text())]
    return sorted({part.strip() for text in found for part in text.split(";\n") if part.strip()})


async def dead_letter(owner: asyncpg.Connection, patient: Patient) -> tuple[str, str]:
    """The ids of a document and of its job that ended in error."""
    document = await upload(owner, patient.user_id, patient.profile_id)
    job = await claim(owner, "ocr")
    await owner.execute(
        "select chartloom.fail_job($1, $2, 'file_corrupt', 'advice', false)", job["job_id"], job["lease_token"]
    )
    return str(document), str(job["job_id"])


async def test_every_statement_runs(owner: asyncpg.Connection, patient: Patient) -> None:
    document, _ = await dead_letter(owner, patient)
    statements = typed(SQL)
    assert len(statements) >= 8
    for statement in statements:
        await owner.fetch(statement.replace("DOCUMENT", document))


async def test_every_command_runs(
    database: Database, owner: asyncpg.Connection, patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document, job = await dead_letter(owner, patient)
    monkeypatch.setenv("DATABASE_URL", database.url())
    monkeypatch.setenv("CHARTLOOM_HOME", str(tmp_path))
    commands = typed(COMMAND)
    assert len(commands) >= 8
    for command in commands:
        words = command.replace("DOCUMENT", document).replace("JOB", job).replace("TYPE", "ocr")
        done = await asyncio.to_thread(chartloom, *words.replace("CODE", "file_corrupt").split())
        # doctor exits 1 where it finds something.
        assert done.returncode == 0 or (command == "doctor" and done.returncode == 1), command + done.stderr
