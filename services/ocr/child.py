"""The parent's end of a child process that reads foreign bytes: questions go in, checked answers come out."""

import asyncio
import contextlib
import functools
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, Union

import pydantic

from shared.contract.base import Row

from .confinement import protect_from_children
from .forked import ForkedProcess, ForkServer
from .page_protocol import HEADER, MAX_FRAME_BYTES, Refused, from_frame, to_frame
from .refusal import Refusal, RefusalCode
from .sandbox import Sandbox, Wanted

R = TypeVar("R", bound=Row)

_SHELL_OFFSET = 128
"""bubblewrap says of a child that a signal ended: exit status 128 and the signal's number."""


class ChildKilledError(Exception):
    """Somebody else than its parent killed the child: the kernel in want of memory, or an operator.

    It says nothing about the document.
    """


class Child:
    """One process. Each way in which it can fail is a code, or ``ChildKilledError``; none fails its parent."""

    def __init__(self, process: asyncio.subprocess.Process | ForkedProcess) -> None:
        self._process = process

    async def ask(
        self,
        question: Row,
        *answers: type[R],
        seconds: float,
        timed_out: RefusalCode = "page_timed_out",
        died: RefusalCode = "page_reader_died",
    ) -> R:
        """One of these answers, within so many seconds, by the wall clock.

        ``timed_out``, ``died``: what it is where it takes longer, and where the question ends the child. Raises
        ``Refusal``, the child's own or one about it, without a cause: a validation error quotes what it read.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                self._process.stdin.write(to_frame(question))
                await self._process.stdin.drain()
                of_body, of_image = HEADER.unpack(await self._process.stdout.readexactly(HEADER.size))
                if of_body + of_image > MAX_FRAME_BYTES:
                    raise Refusal("page_invalid") from None
                body = await self._process.stdout.readexactly(of_body)
                image = await self._process.stdout.readexactly(of_image)
        except TimeoutError:
            raise Refusal(timed_out) from None
        except (asyncio.IncompleteReadError, ConnectionError):
            await self._tell_how_it_died(timed_out, died)
        try:
            reply = from_frame(_adapter(answers), body, image)
        except pydantic.ValidationError:
            raise Refusal("page_invalid") from None
        if isinstance(reply, Refused):
            raise Refusal(reply.code)
        assert isinstance(reply, answers)
        return reply

    async def _tell_how_it_died(self, timed_out: RefusalCode, died: RefusalCode) -> NoReturn:
        status = await self._process.wait()
        number = -status if status < 0 else status - _SHELL_OFFSET
        if number == signal.SIGXCPU:
            raise Refusal(timed_out) from None
        if number == signal.SIGKILL:
            raise ChildKilledError
        raise Refusal(died)


@contextlib.asynccontextmanager
async def confined_child(
    sandbox: Sandbox,
    module: str,
    document: Path,
    *,
    memory_bytes: int,
    largest_file: int = 0,
    programs: Sequence[str] = (),
    fork_server: ForkServer | None = None,
) -> AsyncIterator[Child]:
    """``python -m module`` confined to one document; with the block it ends, and whatever it started.

    ``fork_server``: who starts it in no time, where the document is in its folder and no programs are.
    """
    protect_from_children()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(sandbox.room)
        if fork_server is not None and not programs and document.absolute().is_relative_to(fork_server.documents):
            wanted = Wanted(module, document.absolute(), fork_server.documents, memory_bytes, largest_file, programs)
            forked = await fork_server.fork(module, sandbox.restrictions(wanted))
            try:
                yield Child(forked)
            finally:
                forked.kill()
                await forked.wait()
                forked.close()
            return
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chartloom-page-")))
        process = await asyncio.create_subprocess_exec(
            *sandbox.command(Wanted(module, document.absolute(), scratch, memory_bytes, largest_file, programs)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # a library's complaint may quote the document
            cwd=sandbox.folder,
            env=sandbox.environment(scratch),
            start_new_session=True,
        )
        try:
            yield Child(process)
        finally:
            # Always the group, and never a farewell: the child holds nothing that is worth waiting for.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


@functools.cache
def _adapter(answers: tuple[type[Row], ...]) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(Union[*answers, Refused])  # type: ignore[arg-type]
