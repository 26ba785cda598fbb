"""What a child can't do even when a document has taken it over: asked from within one."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from services.ocr import landlock, memory, sandbox, seccomp
from services.ocr.child import confined_child
from services.ocr.forked import ForkServer
from services.ocr.limits import MIB
from services.ocr.refusal import Refusal
from services.ocr.sandbox import Confinement, Sandbox
from shared.errors import ConfigurationError

from .confined_probe import Tried, Try
from .ocr_documents import ROOT

Attempt = Callable[..., Awaitable[str]]

MEMORY = 200 * MIB


@asynccontextmanager
async def probing(
    confinement: Confinement, document: Path, programs: tuple[str, ...] = (), *, is_forked: bool = False
) -> AsyncIterator[Attempt]:
    """Asks a confined child to try something."""
    document.write_bytes(b"of this patient")
    sandbox = Sandbox(confinement)
    async with AsyncExitStack() as stack:
        fork_server = sandbox.fork_server(document.parent, engine="tesserocr") if is_forked else None
        if fork_server is not None:
            stack.push_async_callback(fork_server.close)
        yield await stack.enter_async_context(_probing(sandbox, document, programs, fork_server))


@asynccontextmanager
async def _probing(
    sandbox: Sandbox, document: Path, programs: tuple[str, ...], fork_server: ForkServer | None
) -> AsyncIterator[Attempt]:
    async with confined_child(
        sandbox,
        "tests.service.confined_probe",
        document,
        memory_bytes=MEMORY,
        largest_file=MIB if programs else 0,
        programs=programs,
        fork_server=fork_server,
    ) as child:

        async def ask(what: str, argument: object = "") -> str:
            return (await child.ask(Try(what=what, argument=str(argument)), Tried, seconds=30)).outcome

        yield ask


@pytest.fixture(params=["builtin", "required"])
def confinement(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Confinement:
    if request.param == "required" and sandbox._bubblewrap() is None:
        pytest.skip("bubblewrap is not on this machine")
    monkeypatch.setattr(sandbox, "_CODE", (*sandbox._CODE, str(ROOT / "tests")))
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    found: Confinement = request.param
    return found


@pytest.fixture(params=[False, True], ids=["started", "forked"])
async def attempt(confinement: Confinement, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Attempt]:
    async with probing(confinement, tmp_path / "document", is_forked=request.param) as ask:
        yield ask


@pytest.mark.parametrize("what", ["internet socket", "unix socket", "socket pair", "netlink socket"])
async def test_a_child_has_no_network(attempt: Attempt, what: str) -> None:
    assert await attempt(what) == "EPERM"


async def test_a_child_reads_its_document_and_no_other(attempt: Attempt, tmp_path: Path) -> None:
    assert await attempt("read", tmp_path / "document") == "allowed"
    (tmp_path / "of-another-patient").write_bytes(b"secret")
    assert await attempt("read", tmp_path / "of-another-patient") in ("EACCES", "ENOENT")
    assert await attempt("read", "/etc/passwd") in ("EACCES", "ENOENT")


async def test_a_child_learns_nothing_from_its_parent_and_does_nothing_to_it(attempt: Attempt) -> None:
    parent = os.getpid()
    for name in ("mem", "environ", "maps", "cwd"):
        assert await attempt("read", f"/proc/{parent}/{name}") in ("EACCES", "ENOENT", "EPERM")
    assert await attempt("ptrace", parent) == "EPERM"
    assert await attempt("signal", parent) == "EPERM"
    assert await attempt("limit of another", parent) == "EPERM"
    assert await attempt("own signal") == "allowed"


async def test_a_child_starts_no_process_but_may_have_threads(attempt: Attempt) -> None:
    assert await attempt("fork") == "EPERM"
    assert await attempt("program") == "EPERM"
    assert await attempt("own session") == "EPERM"
    assert await attempt("call", "unshare") == "EPERM"
    assert await attempt("call", "io_uring_setup") == "EPERM"
    assert await attempt("thread") == "allowed"


async def test_a_child_that_starts_programs_starts_no_bomb_and_none_that_outlives_it(
    confinement: Confinement, tmp_path: Path
) -> None:
    async with probing(confinement, tmp_path / "document", ("true",)) as attempt:
        assert await attempt("fork") == "allowed"
        if os.getuid() != 0:  # Linux counts no processes of root's
            assert await attempt("fork bomb") == "EAGAIN"
        assert await attempt("own session") == "EPERM"
        assert await attempt("internet socket") == "EPERM"


async def test_a_child_changes_no_file(attempt: Attempt, tmp_path: Path) -> None:
    for path in (tmp_path / "new", tmp_path / "document", "/tmp/new"):
        assert await attempt("write", path) in ("EACCES", "EFBIG", "EROFS")
    assert await attempt("write", "/dev/null") == "allowed"
    assert await attempt("delete", tmp_path / "document") == "EPERM"


async def test_a_child_holds_no_more_than_its_memory_and_cannot_ask_for_more(attempt: Attempt) -> None:
    assert await attempt("memory", MEMORY // 4) == "allowed"
    assert await attempt("memory", MEMORY) == "MemoryError"
    assert await attempt("raise limit") in ("ValueError", "EPERM")


async def test_a_child_starts_with_nothing_and_can_gain_nothing(attempt: Attempt) -> None:
    names = "LANG MALLOC_ARENA_MAX OMP_THREAD_LIMIT OPENBLAS_NUM_THREADS PATH TMPDIR"
    assert (await attempt("environment")).replace(" PWD", "") == names  # bubblewrap says where it stands
    # 1 leads nowhere, 3 is where replies go, and the last is the listing's own.
    assert await attempt("descriptors") == "0 1 2 3 4"
    assert await attempt("status", "NoNewPrivs") == "1"
    assert await attempt("status", "Seccomp") == "2"
    for kind in ("CapPrm", "CapEff", "CapBnd"):
        assert int(await attempt("status", kind), 16) == 0


async def test_a_child_that_crashes_is_a_typed_error(attempt: Attempt) -> None:
    with pytest.raises(Refusal) as caught:
        await attempt("no such attempt")
    assert caught.value.code == "page_reader_died"


def test_what_is_required_and_missing_stops_the_service_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_bubblewrap", lambda: None)
    assert Sandbox("builtin").layers["seccomp"]
    with pytest.raises(ConfigurationError) as caught:
        Sandbox("required")
    assert caught.value.code == "confinement_unavailable"
    assert "bwrap" in caught.value.message
    monkeypatch.setattr(seccomp, "is_available", lambda: False)
    assert not Sandbox("auto").layers["seccomp"]
    with pytest.raises(ConfigurationError):
        Sandbox("builtin")


def test_the_service_ends_as_misconfigured_without_its_required_confinement(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.ocr"],
        cwd=ROOT,
        env={
            "PATH": str(tmp_path),
            "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
            "STORAGE_URL": f"file://{tmp_path}",
            "OCR_CONFINEMENT": "required",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert "OCR_CONFINEMENT=required" in done.stderr


def test_this_machine_is_one_that_the_tests_confine_on() -> None:
    assert seccomp.is_available()
    assert landlock.version() >= 0


@pytest.mark.parametrize(
    ("instance", "wanted", "children", "share"),
    [
        (512 * MIB, 1, 1, 288 * MIB),
        (512 * MIB, 2, 1, 288 * MIB),
        (1024 * MIB, 2, 2, 288 * MIB),
        (1024 * MIB, 8, 3, 274 * MIB),
        (64 * 1024 * MIB, 8, 8, 288 * MIB),
    ],
)
def test_children_share_what_the_instance_has(instance: int, wanted: int, children: int, share: int) -> None:
    fitting = min(wanted, memory.children_that_fit(instance))
    assert fitting == children
    assert memory.share_of_a_child(instance, fitting, 288 * MIB) // MIB == share // MIB
