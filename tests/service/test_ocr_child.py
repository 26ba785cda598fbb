"""The process that touches the document: knows no secret, holds to its limits, and never outlives its reader."""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from services.ocr.limits import MIB
from services.ocr.open_documents import KeptDocument
from services.ocr.page_protocol import PageRead
from services.ocr.reader import DocumentReader, OpenDocument, ReaderKilledError, ReaderLimits
from services.ocr.refusal import as_error
from services.ocr.sandbox import Sandbox
from shared.errors import ChartloomError, TerminalError

from .ocr_documents import ROOT, SAMPLES, endless_pdf

Spawn = Callable[..., Any]


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.subprocess.Process]:
    """The processes that the reader started, in order."""
    started: list[asyncio.subprocess.Process] = []
    spawn: Spawn = asyncio.create_subprocess_exec

    async def spy(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        started.append(await spawn(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spy)
    return started


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    path = tmp_path / "endless.pdf"
    path.write_bytes(endless_pdf())
    return path


def reader(limits: ReaderLimits | None = None) -> DocumentReader:
    # Without bubblewrap the process that is started is the one that reads.
    return DocumentReader(
        renderer="pypdfium2",
        engine="tesserocr",
        limits=limits or ReaderLimits(),
        tesseract_command=None,
        sandbox=Sandbox("builtin"),
    )


def assert_group_is_gone(process: asyncio.subprocess.Process) -> None:
    assert process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


async def test_a_page_that_takes_too_long_ends_the_child(
    endless: Path, children: list[asyncio.subprocess.Process]
) -> None:
    with pytest.raises(TerminalError) as caught:
        await reader(ReaderLimits(page_seconds=3)).read(endless)
    assert caught.value.code == "page_timed_out"
    assert_group_is_gone(children[0])


async def test_cancelling_the_read_ends_the_child(endless: Path, children: list[asyncio.subprocess.Process]) -> None:
    first_page = asyncio.Event()
    task = asyncio.create_task(reader().read(endless, on_page=lambda done, total: first_page.set()))
    await asyncio.wait_for(first_page.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_group_is_gone(children[0])


async def test_a_finished_read_leaves_no_child(children: list[asyncio.subprocess.Process]) -> None:
    progress: list[tuple[int, int]] = []
    await reader().read(SAMPLES / "discharge-letter.pdf", on_page=lambda done, total: progress.append((done, total)))
    assert progress == [(1, 2), (2, 2)]
    assert len(children) == 1
    assert_group_is_gone(children[0])


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (signal.SIGSEGV, TerminalError, "page_reader_died"),
        # The document did not do that: out of memory, or somebody's hand.
        (signal.SIGKILL, ReaderKilledError, "page_reader_killed"),
    ],
)
async def test_the_death_of_the_child_is_a_typed_error(
    endless: Path,
    children: list[asyncio.subprocess.Process],
    number: signal.Signals,
    kind: type[ChartloomError],
    code: str,
) -> None:
    with pytest.raises(kind) as caught:
        await reader().read(endless, on_page=lambda done, total: children[0].send_signal(number))
    assert caught.value.code == code


async def test_a_child_that_is_killed_is_replaced_and_no_page_is_read_twice(
    children: list[asyncio.subprocess.Process],
) -> None:
    document = KeptDocument(reader(), SAMPLES / "discharge-letter.pdf")
    assert await document.open() == 2
    first = await document.read(1)
    children[0].kill()
    second = await document.read(2)
    await document.close()
    assert [first.page.page, second.page.page] == [1, 2]
    assert len(children) == 2
    for child in children:
        assert_group_is_gone(child)


async def test_one_child_looks_through_a_document_and_reads_it(children: list[asyncio.subprocess.Process]) -> None:
    document = KeptDocument(reader(), SAMPLES / "discharge-letter.pdf")
    assert (await document.inspect()).pages == 2
    assert await document.open() == 2
    assert (await document.read(1)).page.page == 1
    await document.close()
    assert len(children) == 1


async def test_a_page_without_room_in_a_used_child_has_all_the_room_of_a_fresh_one(
    children: list[asyncio.subprocess.Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = OpenDocument.read
    full = 1

    async def as_if_full(self: OpenDocument, number: int) -> PageRead:
        if len(children) <= full:
            raise as_error("page_out_of_memory")
        return await read(self, number)

    monkeypatch.setattr(OpenDocument, "read", as_if_full)
    document = KeptDocument(reader(), SAMPLES / "discharge-letter.pdf")
    await document.inspect()
    assert (await document.read(1)).page.page == 1
    await document.close()
    assert len(children) == 2
    full = 3
    with pytest.raises(TerminalError) as caught:
        await document.read(1)
    assert (caught.value.code, len(children)) == ("page_out_of_memory", 3)
    await document.close()


async def test_a_page_on_which_children_are_killed_again_and_again_is_a_typed_error(
    endless: Path, children: list[asyncio.subprocess.Process]
) -> None:
    document = KeptDocument(reader(), endless)
    await document.open()
    reading = asyncio.create_task(document.read(1))
    children[0].kill()
    async with asyncio.timeout(30):
        while len(children) < 2:
            await asyncio.sleep(0.01)
    children[1].kill()
    with pytest.raises(TerminalError) as caught:
        await reading
    assert caught.value.code == "page_reader_died"
    assert len(children) == 2
    await document.close()


async def test_a_page_that_needs_too_much_memory_is_a_typed_error(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (9000, 9000), 255).save(path)
    # Enough for the interpreter and an A4 page, not for 81 Mpx in two copies.
    with pytest.raises(TerminalError) as caught:
        await reader(ReaderLimits(memory_bytes=240 * MIB)).read(path)
    assert caught.value.code == "page_out_of_memory"


async def test_the_child_holds_to_its_limits(children: list[asyncio.subprocess.Process]) -> None:
    seen: list[str] = []
    await reader(ReaderLimits(memory_bytes=400 * MIB)).read(
        SAMPLES / "discharge-letter.pdf",
        on_page=lambda *_: seen.append(Path(f"/proc/{children[0].pid}/limits").read_text()),
    )
    limits = {line[:26].strip(): line[26:].split()[:2] for line in seen[0].splitlines()}
    assert limits["Max data size"] == [str(400 * MIB)] * 2
    assert limits["Max address space"] == [str(912 * MIB)] * 2
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max file size"] == ["0", "0"]
    assert limits["Max open files"] == ["64", "64"]
    assert int(limits["Max cpu time"][0]) <= ReaderLimits().page_seconds + 5


def test_killing_the_service_leaves_no_child(endless: Path) -> None:
    service = """
import asyncio, pathlib, sys
from services.ocr.reader import DocumentReader, ReaderLimits
def first_page(done, total):
    children = pathlib.Path("/proc/self/task/%d/children" % __import__("os").getpid()).read_text()
    print(children, flush=True)
reader = DocumentReader(renderer="pypdfium2", engine="tesserocr", limits=ReaderLimits(), tesseract_command=None)
asyncio.run(reader.read(pathlib.Path(sys.argv[1]), on_page=first_page))
"""
    with subprocess.Popen([sys.executable, "-c", service, str(endless)], cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        (child,) = map(int, parent.stdout.readline().split())
        watched = os.pidfd_open(child)
        parent.kill()
        try:
            readable, _, _ = select.select([watched], [], [], 10)
            assert readable, "the child lives on"
        finally:
            if not readable:
                os.kill(child, signal.SIGKILL)
            os.close(watched)


def page_reply(image: bytes = b"\xff\xd8\xff", **changes: Any) -> bytes:
    word = {"text": "no", "box": [10, 10, 30, 20], "confidence": 0.9, "start": 0, "end": 2} | changes.pop("word", {})
    page = {
        "page": 1,
        "width": 100,
        "height": 100,
        "text": "no fever",
        "words": [word],
        "text_source": "ocr",
        "engine": "e",
        "engine_version": "1",
    } | changes
    return frame({"kind": "page", "page": page}, image)


def frame(message: dict[str, Any], image: bytes = b"") -> bytes:
    body = json.dumps(message).encode()
    return len(body).to_bytes(4) + len(image).to_bytes(4) + body + image


OPENED = frame({"kind": "opened", "pages": 1})


@pytest.mark.parametrize(
    ("code", "replies"),
    [
        (None, OPENED + page_reply()),
        ("page_invalid", OPENED + page_reply(page=2)),
        ("page_invalid", OPENED + page_reply(width=10**6, height=10**6)),
        ("page_invalid", OPENED + page_reply(text="fever, no")),
        ("page_invalid", OPENED + page_reply(word={"box": [10, 10, 30, 200]})),
        ("page_invalid", OPENED + page_reply(word={"confidence": 7})),
        ("page_invalid", OPENED + page_reply(text="no \0")),
        ("page_invalid", OPENED + OPENED),
        ("page_invalid", OPENED + page_reply(image=b"<svg>")),
        ("page_invalid", OPENED + b"\xff\xff\xff\xff\0\0\0\0"),
        ("page_invalid", OPENED + b"\0\0\0\2\xff\xff\xff\xff{]"),
        ("page_invalid", OPENED + b"\0\0\0\2\0\0\0\0{]"),
        ("file_too_long", frame({"kind": "opened", "pages": 10**6})),
        ("page_reader_died", OPENED + b"\0\0"),
    ],
)
async def test_a_child_that_lies_is_not_believed(
    monkeypatch: pytest.MonkeyPatch, code: str | None, replies: bytes
) -> None:
    spawn: Spawn = asyncio.create_subprocess_exec
    waits_for = 10 if code == "page_reader_died" else 10_000
    liar = f"import sys; sys.stdout.buffer.write({replies!r}); sys.stdout.flush(); sys.stdin.buffer.read({waits_for})"

    async def spawn_liar(*_: str, **options: Any) -> asyncio.subprocess.Process:
        process: asyncio.subprocess.Process = await spawn(sys.executable, "-c", liar, **options)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", spawn_liar)
    if code is None:
        (page,) = await reader().read(SAMPLES / "discharge-letter.pdf")
        assert page.text == "no fever"
        return
    with pytest.raises(TerminalError) as caught:
        await reader().read(SAMPLES / "discharge-letter.pdf")
    assert caught.value.code == code
    assert "fever" not in repr(caught.value)
