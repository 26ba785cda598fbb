"""What an antivirus says of a file, and what is not its word."""

import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.ocr.antivirus import Antivirus
from services.ocr.scan.policy import DEFAULT_POLICY
from services.ocr.scan.scanner import Announced, Scanner, objection
from services.ocr.scan.verdict import Verdict
from services.ocr.settings import OcrSettings
from shared.errors import BusyError, ConfigurationError
from tests.fakes.clamd import EICAR, running_clamd
from tests.hostile.pdfs import PDFS
from tests.service.ocr_service import inspectable
from tests.waiting import until_true

CLEAN = b"Diagnosis: gout. Allopurinol 100 mg oral once daily."
NOTHING = Announced(None, None)


def antivirus(address: str, *, is_required: bool = False, seconds: float = 10) -> Antivirus:
    return Antivirus(address, is_required=is_required, seconds=seconds)


async def verdict_on(path: Path, antivirus: Antivirus | None) -> Verdict:
    async with inspectable(path) as document:
        return await Scanner(policy=DEFAULT_POLICY, antivirus=antivirus).scan(document, NOTHING)


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    path = tmp_path / "clean"
    path.write_bytes(CLEAN)
    return path


async def test_an_infected_file_is_quarantined_and_a_clean_one_is_said_to_be(clean: Path, tmp_path: Path) -> None:
    infected = tmp_path / "infected"
    infected.write_bytes(EICAR)
    async with running_clamd(tmp_path) as address:
        verdict = await verdict_on(infected, antivirus(address))
        assert (verdict.decision, verdict.reason) == ("quarantine", "file_infected")
        assert verdict.antivirus.signature == "Win.Test.EICAR_HDB-1"
        assert (verdict.antivirus.engine or "").startswith("ClamAV 1.4.6")
        ended = objection(verdict)
        assert ended is not None
        assert ended.code == "file_infected"
        assert (await verdict_on(clean, antivirus(address))).antivirus.status == "clean"


async def test_what_nobody_scanned_is_not_clean(clean: Path) -> None:
    verdict = await verdict_on(clean, None)
    assert (verdict.decision, verdict.antivirus.status) == ("allow", "not_scanned")


async def test_a_file_that_cannot_be_read_is_quarantined_all_the_same_where_it_is_infected(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"%PDF-1.7 and nothing that follows " + EICAR)
    async with running_clamd(tmp_path) as address:
        assert (await verdict_on(damaged, antivirus(address))).reason == "file_infected"


@pytest.mark.parametrize("trouble", ["away", "too large for it", "silent"])
async def test_without_a_verdict_a_file_waits_where_one_is_required(clean: Path, tmp_path: Path, trouble: str) -> None:
    async with running_clamd(
        tmp_path, most=10 if trouble == "too large for it" else 2**20, is_silent=trouble == "silent"
    ) as there:
        address = f"unix://{tmp_path}/nobody" if trouble == "away" else there
        assert (await antivirus(address, seconds=1).scan(clean)).status == "unavailable"
        with pytest.raises(BusyError) as busy:
            await antivirus(address, is_required=True, seconds=1).scan(clean)
        assert busy.value.code == "antivirus_unavailable"


@pytest.mark.parametrize("address", ["", "/run/clamd.ctl", "tcp://host", "unix://", "http://host:3310"])
def test_an_address_that_is_none_is_refused_at_the_start(address: str) -> None:
    with pytest.raises(ConfigurationError):
        antivirus(address)


def test_a_required_antivirus_that_is_not_named_is_refused_at_the_start() -> None:
    settings = OcrSettings(database_url="postgresql://x", storage_url="file:///x", antivirus_required=True)
    with pytest.raises(ConfigurationError) as refused:
        _ = settings.antivirus
    assert "CLAMD_ADDRESS" in refused.value.message


@asynccontextmanager
async def real_clamd(folder: Path) -> AsyncIterator[str]:
    """ClamAV's own daemon, with a database of one signature."""
    program = shutil.which("clamd")
    if program is None:
        pytest.skip("clamd is not installed: apt install clamav-daemon")
    database = folder / "signatures"
    database.mkdir()
    (database / "eicar.ndb").write_text(f"Eicar-Test:0:*:{EICAR.hex()}\n")
    socket = folder / "real.ctl"
    settings = folder / "clamd.conf"
    settings.write_text(f"LocalSocket {socket}\nDatabaseDirectory {database}\nForeground yes\nMaxThreads 2\n")
    with subprocess.Popen([program, "-c", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as daemon:
        try:
            await until_true(socket.exists, what="clamd listens", seconds=60)
            yield f"unix://{socket}"
        finally:
            daemon.terminate()


async def test_the_real_clamd_finds_a_virus_inside_an_attachment(clean: Path, tmp_path: Path) -> None:
    attached = tmp_path / "attached"
    attached.write_bytes(PDFS["an embedded EICAR"]())
    async with real_clamd(tmp_path) as address:
        assert (await antivirus(address).scan(clean)).status == "clean"
        found = await antivirus(address).scan(attached)
        assert (found.status, found.signature) == ("infected", "Eicar-Test.UNOFFICIAL")
