"""A seccomp filter as classic BPF: what a process that parses foreign bytes may no longer ask of the kernel.

A list of what is refused, not of what is allowed: the interpreters of documents use over a hundred calls, which differ
between machines, while the ways out of a process are few and known. libseccomp itself comes in no well-kept wheel.
"""

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Iterable
from typing import NamedTuple

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_TSYNC = 1
_RET_ALLOW = 0x7FFF0000
_RET_ERRNO = 0x00050000
_RET_KILL_PROCESS = 0x80000000

# struct seccomp_data: int nr; u32 arch; u64 instruction_pointer; u64 args[6], all little-endian on both architectures.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06

_X32 = 0x40000000
_CLONE_THREAD = 0x00010000
_CLONE_NEW_NAMESPACES = 0x7E020000


class _Machine(NamedTuple):
    architecture: int
    seccomp: int
    """The number of seccomp(2)."""
    column: int
    """Of the tables below."""


_MACHINES = {"x86_64": _Machine(0xC000003E, 317, 0), "aarch64": _Machine(0xC00000B7, 277, 1)}

# (x86-64, aarch64); None where the architecture has no such call.
Numbers = tuple[int | None, int | None]

_OUT_OF_THE_PROCESS: dict[str, Numbers] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "io_uring_setup": (425, 425),  # can open sockets past this filter
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "tkill": (200, 130),
    "setsid": (112, 157),  # out of the group that is killed
    "setpgid": (109, 154),
    "setns": (308, 268),
    "unshare": (272, 97),  # user namespaces give capabilities, and with them most of the kernel
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "memfd_create": (319, 279),  # memory that no limit of an address space counts
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "personality": (135, 92),
}

_NEW_PROCESSES: dict[str, Numbers] = {
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
}

# Opening for writing is not among them: Tesseract opens /dev/null so. Landlock sees which file it is.
_CHANGES_OF_FILES: dict[str, Numbers] = {
    "creat": (85, None),
    "truncate": (76, 45),
    "ftruncate": (77, 46),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "openat2": (437, 437),
}
_CLONE: Numbers = (56, 220)
_CLONE3: Numbers = (435, 435)
_SIGNALS: dict[str, Numbers] = {"kill": (62, 129), "tgkill": (234, 131)}
_OF_ANOTHER: dict[str, Numbers] = {"prlimit64": (302, 261), "sched_setaffinity": (203, 122)}
"""Calls whose first argument is a process, 0 for one's own."""


def is_available() -> bool:
    """Whether this kernel takes a filter, on a machine whose numbers are known here."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Without a program there is nothing to install: a kernel that could says "bad address", another "invalid".
    libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, None, 0, 0)
    return ctypes.get_errno() == errno.EFAULT and platform.machine() in _MACHINES


def install(*, allow_programs: bool) -> None:
    """Refuses, for all threads: sockets, looking into or signalling other processes, other namespaces.

    Without ``allow_programs`` also each new process and each change of the file system. Needs no_new_privs. Raises
    ``OSError``.
    """
    machine = _MACHINES[platform.machine()]
    program = _program(machine, allow_programs=allow_programs)
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *step) for step in program))
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(machine.seccomp, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, header) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


_Step = tuple[int, int, int, int]
"""Operation; how many steps to pass over if its test holds, and if not; operand."""

_ALLOW: _Step = (_RETURN, 0, 0, _RET_ALLOW)
_REFUSE: _Step = (_RETURN, 0, 0, _RET_ERRNO | errno.EPERM)


def _program(machine: _Machine, *, allow_programs: bool) -> list[_Step]:
    def numbers(*tables: dict[str, Numbers]) -> Iterable[int]:
        return (n for table in tables for row in table.values() if (n := row[machine.column]) is not None)

    refused = [_OUT_OF_THE_PROCESS] if allow_programs else [_OUT_OF_THE_PROCESS, _NEW_PROCESSES, _CHANGES_OF_FILES]
    steps: list[_Step] = [
        _load(_ARCHITECTURE),
        (_EQUAL, 1, 0, machine.architecture),
        (_RETURN, 0, 0, _RET_KILL_PROCESS),
        _load(_NUMBER),
        # The same calls by other numbers, on x86-64 only; numbers elsewhere don't reach so far.
        (_AT_LEAST, 0, 1, _X32),
        _REFUSE,
    ]
    for number in numbers(*refused):
        steps += [(_EQUAL, 0, 1, number), _REFUSE]
    # Its flags are behind a pointer, which no filter follows: libc takes clone instead where there is none.
    steps += [(_EQUAL, 0, 1, _of(_CLONE3, machine)), (_RETURN, 0, 0, _RET_ERRNO | errno.ENOSYS)]
    clone = [(_ANY_BIT, 0, 1, _CLONE_NEW_NAMESPACES), _REFUSE]
    if not allow_programs:
        clone += [(_ANY_BIT, 1, 0, _CLONE_THREAD), _REFUSE]
    steps += _if_called(_of(_CLONE, machine), 0, clone)
    own = os.getpid()
    for number in numbers(_SIGNALS):
        steps += _if_called(number, 0, [(_EQUAL, 1, 0, own), _REFUSE])
    for number in numbers(_OF_ANOTHER):
        steps += _if_called(number, 0, [(_EQUAL, 2, 0, 0), (_EQUAL, 1, 0, own), _REFUSE])
    return [*steps, _ALLOW]


def _of(row: Numbers, machine: _Machine) -> int:
    number = row[machine.column]
    assert number is not None
    return number


def _if_called(number: int, argument: int, steps: list[_Step]) -> list[_Step]:
    """The steps, with the low half of that argument at hand; what they don't refuse is allowed."""
    body = [_load(_ARGUMENTS + 8 * argument), *steps, _ALLOW]
    return [(_EQUAL, 0, len(body), number), *body]


def _load(offset: int) -> _Step:
    return (_LOAD, 0, 0, offset)
