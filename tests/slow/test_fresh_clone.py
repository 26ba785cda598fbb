"""A newcomer's first command, from a fresh clone: new folder, empty home, no environment; as root and as anybody."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KEPT_VARIABLES = ("PATH", "PIP_CERT", "PIP_FIND_LINKS", "PIP_DEFAULT_TIMEOUT", "SSL_CERT_FILE")
"""How this machine reaches its package index; nothing else comes along."""


@pytest.fixture
def clone() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="chartloom-clone-"))
    folder.chmod(0o755)
    subprocess.run(["git", "clone", "-q", REPOSITORY, folder / "chartloom"], check=True)
    (folder / "home").mkdir()
    yield folder
    python = folder / "chartloom" / ".venv" / "bin" / "python"
    if python.exists():
        subprocess.run(
            [
                python,
                "-c",
                "from pathlib import Path; from cli.embedded_postgres import EmbeddedPostgres; "
                "EmbeddedPostgres(Path('.chartloom')).remove()",
            ],
            cwd=folder / "chartloom",
            check=False,
        )
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("who", ["the one who runs the tests", "an ordinary user"])
def test_make_run_on_a_fresh_clone(clone: Path, who: str) -> None:
    user: str | int = os.getuid()
    if who == "an ordinary user":
        if os.getuid() != 0:
            pytest.skip("the other case is the ordinary user")
        user = "nobody"
        account = pwd.getpwnam(user)
        for path in [clone, *clone.rglob("*")]:
            os.lchown(path, account.pw_uid, account.pw_gid)
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    done = subprocess.run(
        ["make", "run"],
        cwd=clone / "chartloom",
        env={**environment, "HOME": str(clone / "home")},
        user=user,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for sample in ("discharge-letter.pdf", "clinic-letter-scan.pdf", "lab-report-photo.jpg"):
        assert f"{sample}  completed" in done.stdout
    quotes = [line for line in done.stdout.splitlines() if "“" in line and line[:1].isdigit()]
    assert len(quotes) >= 20
