"""The models of the protocol, checked exhaustively; those broken on purpose fail, so that a pass means something."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("spin") is None or shutil.which("gcc") is None, reason="spin and gcc are not installed"
    ),
]

MODELS = REPOSITORY / "models"


def errors(model: str, defines: list[str], folder: Path) -> int:
    subprocess.run(["spin", "-a", *defines, MODELS / model], cwd=folder, check=True, capture_output=True)
    subprocess.run(["gcc", "-w", "-O2", *defines, "-o", "pan", "pan.c"], cwd=folder, check=True)
    done = subprocess.run(["./pan", "-m100000"], cwd=folder, check=True, capture_output=True, text=True)
    assert "max search depth too small" not in done.stdout
    return int(done.stdout.split("errors: ")[1].split()[0])


@pytest.mark.parametrize(
    ("model", "defines"),
    [("job_lease.pml", []), ("wake_gate.pml", []), ("wake_gate.pml", ["-DNO_POLL", "-DATOMIC_ENQUEUE"])],
)
def test_the_protocol_holds(model: str, defines: list[str], tmp_path: Path) -> None:
    assert errors(model, defines, tmp_path) == 0


@pytest.mark.parametrize(
    ("model", "defines"),
    [
        ("job_lease.pml", ["-DNO_FENCE"]),
        ("job_lease.pml", ["-DATTEMPT_FENCE"]),
        ("job_lease.pml", ["-DSPLIT_COMMIT"]),
        ("wake_gate.pml", ["-DNO_POLL"]),
        ("wake_gate.pml", ["-DNO_POLL", "-DATOMIC_ENQUEUE", "-DNO_SECOND_LOOK"]),
    ],
)
def test_a_protocol_that_is_broken_on_purpose_does_not(model: str, defines: list[str], tmp_path: Path) -> None:
    assert errors(model, defines, tmp_path) > 0
