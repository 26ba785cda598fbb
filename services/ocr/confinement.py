"""What a child takes from itself before it touches a document, for good: nothing here can be undone by who comes after.

``sandbox`` decides it in the parent; where bubblewrap starts, this is the second wall and not the only one.
"""

import contextlib
import ctypes
import os
import resource
import signal
import struct

from shared.contract.base import Row

from . import landlock, seccomp

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63

_DESCRIPTORS = 64
_MAPPINGS_BYTES = 512 * 2**20
"""Of address space beyond what may hold data: libraries and models that are mapped (140 MB), and what is reserved."""


class Restrictions(Row):
    """What is left to a child."""

    parent: int | None
    """Whose death is its own; None where that process can't be seen, and bubblewrap watches."""
    memory_bytes: int
    """Of data, whether on the heap or mapped (RLIMIT_DATA)."""
    largest_file: int
    """0 where it writes none (RLIMIT_FSIZE)."""
    allow_programs: bool
    """Whether it starts programs, which pdf2image and pytesseract do."""
    tasks: int
    """How many processes and threads its account may have, those of others included (RLIMIT_NPROC)."""
    readable: tuple[str, ...]
    writable: tuple[str, ...]
    has_landlock: bool
    has_seccomp: bool


def protect_from_children() -> None:
    """Lets no process of the same account read this one's memory and environment, where the keys are, or trace it."""
    _prctl(_PR_SET_DUMPABLE, 0)


def confine(restrictions: Restrictions) -> None:
    """Confines this process. Raises ``OSError`` where something that was found to be there can't be had after all."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if restrictions.parent not in (None, os.getppid()):  # it died before the line above
        os._exit(1)
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),  # a core dump would be a copy of the record
        (resource.RLIMIT_DATA, restrictions.memory_bytes),
        (resource.RLIMIT_AS, restrictions.memory_bytes + _MAPPINGS_BYTES),
        (resource.RLIMIT_FSIZE, restrictions.largest_file),
        (resource.RLIMIT_NPROC, restrictions.tasks),
        (resource.RLIMIT_NOFILE, _DESCRIPTORS),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        lowered = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (lowered, lowered))
    _drop_capabilities()
    if restrictions.has_landlock:
        landlock.restrict(readable=restrictions.readable, writable=restrictions.writable)
    if restrictions.has_seccomp:
        seccomp.install(allow_programs=restrictions.allow_programs)


def name_process(name: str) -> None:
    """15 characters of it. By a call: the files in /proc of one who can't be dumped are root's."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()), 0, 0, 0)


def _drop_capabilities() -> None:
    """Of a service that runs as root, in development: its child is no more than an account that owns root's files."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_LAST_CAPABILITY + 1):
        # Refused where there was none, or the number is beyond this kernel's.
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("<Ii", _CAPABILITY_VERSION_3, 0)
    if libc.capset(header, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def limit_processor_time(seconds: float) -> None:
    """For what comes next. A program started for the page inherits it, and ends even if nobody is left to kill it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    with contextlib.suppress(ValueError):  # the hard limit that it came with is lower
        resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 1, hard))
