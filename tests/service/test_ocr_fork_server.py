"""Children of the fork server end as children that start by themselves do, and so does the server."""

import asyncio
import os
import select
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.ocr.forked import ForkedProcess, ForkServer
from services.ocr.open_documents import KeptDocument
from services.ocr.reader import ReaderLimits
from services.ocr.sandbox import Confinement, Sandbox
from shared.errors import TerminalError
from tests.waiting import until_true

from .ocr_documents import SAMPLES, endless_pdf
from .ocr_service import make_reader


@pytest.fixture(params=["builtin", "auto"])
async def fork_server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ForkServer]:
    confinement: Confinement = request.param
    server = Sandbox(confinement).fork_server(tmp_path, engine="tesserocr")
    assert server is not None
    yield server
    await server.close()


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> list[ForkedProcess]:
    """The children, in order."""
    children: list[ForkedProcess] = []
    fork = ForkServer.fork

    async def spy(self: ForkServer, *arguments: object) -> ForkedProcess:
        children.append(await fork(self, *arguments))  # type: ignore[arg-type]
        return children[-1]

    monkeypatch.setattr(ForkServer, "fork", spy)
    return children


@pytest.fixture
def letter(tmp_path: Path) -> Path:
    return Path(shutil.copy(SAMPLES / "discharge-letter.pdf", tmp_path / "upload"))


def pid_of(server: ForkServer) -> int:
    assert server._process is not None
    return server._process.pid


async def test_a_document_is_read_by_a_child_of_its_own(
    fork_server: ForkServer, forked: list[ForkedProcess], letter: Path
) -> None:
    for _ in range(2):
        document = KeptDocument(make_reader(fork_server=fork_server), letter)
        assert (await document.inspect()).pages == 2
        assert "Discharge" in (await document.read(1)).page.text
        await document.close()
    assert len(forked) == 2
    assert [await child.wait() for child in forked] == [-signal.SIGKILL] * 2


async def test_a_child_that_is_killed_is_replaced(
    fork_server: ForkServer, forked: list[ForkedProcess], letter: Path
) -> None:
    document = KeptDocument(make_reader(fork_server=fork_server), letter)
    await document.read(1)
    forked[0].kill()
    assert (await document.read(2)).page.page == 2
    assert len(forked) == 2
    await document.close()


async def test_a_server_that_is_killed_takes_its_children_along_and_is_replaced(
    fork_server: ForkServer, forked: list[ForkedProcess], letter: Path
) -> None:
    document = KeptDocument(make_reader(fork_server=fork_server), letter)
    await document.read(1)
    os.killpg(pid_of(fork_server), signal.SIGKILL)
    assert (await document.read(2)).page.page == 2
    assert await forked[0].wait() == -signal.SIGKILL
    await document.close()


async def test_a_server_that_dies_while_it_is_asked_costs_the_document_an_attempt(
    fork_server: ForkServer, letter: Path
) -> None:
    reader = make_reader(fork_server=fork_server)
    document = KeptDocument(reader, letter)
    await document.read(1)
    await document.close()
    os.killpg(pid_of(fork_server), signal.SIGSTOP)
    reading = asyncio.create_task(document.read(1))
    await until_true(lambda: bool(fork_server._children), what="the question")
    os.killpg(pid_of(fork_server), signal.SIGKILL)
    assert (await reading).page.page == 1
    await document.close()


async def test_a_server_whose_death_was_not_heard_of_yet_is_replaced(fork_server: ForkServer, letter: Path) -> None:
    await fork_server.start()
    assert fork_server._control is not None
    # It hears of the death in its place: bubblewrap, whose end can be waited for, may be gone before what it started.
    control, is_dead = fork_server._control.fileno(), asyncio.Event()
    asyncio.get_running_loop().add_reader(control, is_dead.set)
    os.killpg(pid_of(fork_server), signal.SIGKILL)
    await is_dead.wait()
    asyncio.get_running_loop().remove_reader(control)
    document = KeptDocument(make_reader(fork_server=fork_server), letter)
    assert (await document.read(1)).page.page == 1
    await document.close()


async def test_its_start_ends_when_it_has_imported_all_there_is_to_import(fork_server: ForkServer) -> None:
    starting = asyncio.create_task(fork_server.start())
    await until_true(lambda: fork_server._control is not None, what="the server")
    os.killpg(pid_of(fork_server), signal.SIGSTOP)
    await asyncio.wait([starting], timeout=0.1)
    assert not starting.done()
    os.killpg(pid_of(fork_server), signal.SIGCONT)
    await starting


async def test_its_start_ends_with_its_death(fork_server: ForkServer, letter: Path) -> None:
    starting = asyncio.create_task(fork_server.start())
    await until_true(lambda: fork_server._control is not None, what="the server")
    os.killpg(pid_of(fork_server), signal.SIGKILL)
    await starting
    assert len(await make_reader(fork_server=fork_server).read(letter)) == 2


async def test_a_page_that_takes_too_long_ends_its_child_alone(
    fork_server: ForkServer, forked: list[ForkedProcess], tmp_path: Path, letter: Path
) -> None:
    endless = tmp_path / "endless"
    endless.write_bytes(endless_pdf())
    with pytest.raises(TerminalError) as caught:
        await make_reader(ReaderLimits(page_seconds=2), fork_server=fork_server).read(endless)
    assert caught.value.code == "page_timed_out"
    assert await forked[0].wait() in (-signal.SIGKILL, -signal.SIGXCPU)
    assert len(await make_reader(fork_server=fork_server).read(letter)) == 2


async def test_a_document_elsewhere_has_a_process_of_its_own(
    fork_server: ForkServer, forked: list[ForkedProcess]
) -> None:
    assert len(await make_reader(fork_server=fork_server).read(SAMPLES / "discharge-letter.pdf")) == 2
    assert forked == []


async def test_nothing_is_left_of_a_server_that_was_closed(
    fork_server: ForkServer, forked: list[ForkedProcess], letter: Path
) -> None:
    document = KeptDocument(make_reader(fork_server=fork_server), letter)
    await document.open()
    pid = pid_of(fork_server)
    await fork_server.close()
    assert await forked[0].wait() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)
    ended = forked[0].handle.result()  # readable once it has ended
    await until_true(lambda: bool(select.select([ended], [], [], 0)[0]), what="the child's end")
    await document.close()
