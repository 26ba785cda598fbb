"""A child that tries what a hostile document would, once it has taken over its reader."""

import ctypes
import errno
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.ocr.confinement import Restrictions, confine
from services.ocr.page_process import replies_only
from services.ocr.page_protocol import HEADER, to_frame
from shared.contract.base import Row

SYSCALLS = {"x86_64": {"io_uring_setup": 425, "unshare": 272}, "aarch64": {"io_uring_setup": 425, "unshare": 97}}
libc = ctypes.CDLL(None, use_errno=True)


class Try(Row):
    what: str
    argument: str = ""


class Tried(Row):
    """``allowed``, the name of the error, or what was to be looked up."""

    outcome: str


def ptrace(pid: str) -> None:
    checked(libc.ptrace(16, int(pid), None, None))  # PTRACE_ATTACH


def read(path: str) -> None:
    with Path(path).open("rb") as file:
        file.read(16)


def write(path: str) -> None:
    with Path(path).open("wb") as file:
        file.write(b"x" * 10_000_000)


def fork(_: str) -> None:
    if os.fork() == 0:
        os._exit(0)


def fork_bomb(_: str) -> None:
    for _ in range(1000):
        fork("")


def thread(_: str) -> None:
    started = threading.Thread(target=lambda: None)
    started.start()
    started.join()


def raise_limit(_: str) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def call(name: str) -> None:
    checked(libc.syscall(SYSCALLS[os.uname().machine][name], 0x10000000, None))


def checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")


def status(field: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(field))


ATTEMPTS: dict[str, Callable[[str], Any]] = {
    "internet socket": lambda _: socket.socket(),
    "unix socket": lambda _: socket.socket(socket.AF_UNIX),
    "socket pair": lambda _: socket.socketpair(),
    "netlink socket": lambda _: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "ptrace": ptrace,
    "read": read,
    "write": write,
    "delete": os.unlink,
    "signal": lambda pid: os.kill(int(pid), signal.SIGKILL),
    "own signal": lambda _: os.kill(os.getpid(), 0),
    "limit of another": lambda pid: resource.prlimit(int(pid), resource.RLIMIT_CPU, (1, 1)),
    "fork": fork,
    "fork bomb": fork_bomb,
    "program": lambda _: os.execv("/bin/true", ["true"]),
    "thread": thread,
    "own session": lambda _: os.setsid(),
    "memory": lambda size: bytearray(int(size)),
    "raise limit": raise_limit,
    "call": call,
    "status": status,
    "environment": lambda _: " ".join(sorted(os.environ)),
    "descriptors": lambda _: " ".join(sorted(path.name for path in Path("/proc/self/fd").iterdir())),
}


def main() -> None:
    replies = replies_only()
    confine(Restrictions.model_validate_json(sys.argv[1]))
    while header := sys.stdin.buffer.read(HEADER.size):
        asked = Try.model_validate_json(sys.stdin.buffer.read(HEADER.unpack(header)[0]))
        try:
            outcome = ATTEMPTS[asked.what](asked.argument)
            answer = outcome if isinstance(outcome, str) else "allowed"
        except OSError as error:
            answer = errno.errorcode[error.errno or 0]
        except (ValueError, MemoryError) as error:
            answer = type(error).__name__
        replies.write(to_frame(Tried(outcome=answer)))
        replies.flush()


if __name__ == "__main__":
    main()
