"""The parent's end of the fork server: children are asked for, spoken to over pipes, and ended by a handle."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

from .confinement import Restrictions
from .fork_server import MAX_MESSAGE_BYTES, READY


class ForkedProcess:
    """What ``asyncio.subprocess.Process`` is for a child that somebody else forked."""

    def __init__(self, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        loop = asyncio.get_running_loop()
        self.stdin = stdin
        self.stdout = stdout
        self.handle: asyncio.Future[int] = loop.create_future()
        self._status: asyncio.Future[int] = loop.create_future()

    async def wait(self) -> int:
        """Its exit status, negative where a signal ended it."""
        return await asyncio.shield(self._status)

    def kill(self) -> None:
        """It alone: a child that is to start programs is not forked."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.handle.result(), signal.SIGKILL)

    def has_ended(self, status: int) -> None:
        if not self._status.done():
            self._status.set_result(status)

    def abandon(self) -> None:
        """Nothing is asked of it any more."""
        if not self.stdin.is_closing():
            self.stdin.transport.abort()

    def close(self) -> None:
        self.abandon()
        os.close(self.handle.result())


class ForkServer:
    """Started with the first child at the latest, and again where it died. Its children die with it."""

    def __init__(self, command: list[str], *, documents: Path, folder: Path, environment: dict[str, str]) -> None:
        """``documents``: the folder of those that its children may be for."""
        self.documents = documents
        self._command = command
        self._folder = folder
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._starting = asyncio.Lock()
        self._ready = asyncio.Event()
        self._number = 0
        self._children: dict[int, ForkedProcess] = {}

    async def start(self) -> None:
        """Does what the first child would wait for. Where that fails, the first child tells."""
        async with self._starting:
            if self._control is None:
                self._ready.clear()
                await self._start()
        await self._ready.wait()

    async def fork(self, module: str, restrictions: Restrictions) -> ForkedProcess:
        """A child that runs ``module``. Raises OSError where no server can be had."""
        try:
            return await self._ask(module, restrictions)
        except ConnectionError:  # it died with the question in hand
            return await self._ask(module, restrictions)

    async def _ask(self, module: str, restrictions: Restrictions) -> ForkedProcess:
        async with self._starting:
            control = self._control or await self._start()
        self._number += 1
        number = self._number
        asked = {"number": number, "module": module, "restrictions": restrictions.model_dump(mode="json")}
        (its_stdin, questions), (answers, its_stdout) = os.pipe(), os.pipe()
        child = self._children[number] = ForkedProcess(*await _streams(questions, answers))
        try:
            socket.send_fds(control, [json.dumps(asked).encode()], [its_stdin, its_stdout])
            await asyncio.shield(child.handle)
        except BaseException as error:
            child.abandon()
            # Where it comes after all, nobody wants it any more.
            child.handle.add_done_callback(_end)
            if isinstance(error, ConnectionError) and self._control is control:  # not heard yet that it died
                self._lose()
            raise
        finally:
            os.close(its_stdin)
            os.close(its_stdout)
        return child

    async def close(self) -> None:
        """Ends it, and all children with it."""
        self._lose()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    async def _start(self) -> socket.socket:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=its.fileno(),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
            )
        ours.setblocking(False)
        self._control = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._hear)
        return ours

    def _hear(self) -> None:
        assert self._control is not None
        try:
            message, handles, _, _ = socket.recv_fds(self._control, MAX_MESSAGE_BYTES, 1)
        except BlockingIOError:
            return
        except OSError:
            message, handles = b"", []
        if not message:
            self._lose()
            return
        said: dict[str, Any] = json.loads(message)
        if said["number"] == READY:
            self._ready.set()
        elif handles:
            self._children[said["number"]].handle.set_result(handles[0])
        else:
            self._children.pop(said["number"]).has_ended(said["status"])

    def _lose(self) -> None:
        """The server is gone, and its children are: the kernel kills them with it."""
        if self._control is None:
            return
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        self._control.close()
        self._control = None
        self._ready.set()  # nobody is to wait for it
        for child in self._children.values():
            if not child.handle.done():
                child.handle.set_exception(ConnectionResetError("the fork server ended"))
            child.has_ended(-signal.SIGKILL)
        self._children.clear()


def _end(handle: asyncio.Future[int]) -> None:
    if handle.exception() is None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle.result(), signal.SIGKILL)
        os.close(handle.result())


async def _streams(questions: int, answers: int) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(answers, "rb", 0))
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(questions, "wb", 0))
    return asyncio.StreamWriter(transport, protocol, None, loop), reader
