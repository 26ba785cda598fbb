"""Landlock: which files a process may still open, whoever they belong to. Where the kernel has it (5.13 and later).

The same account owns the service's files, other patients' uploads among them, so permissions alone would not keep a
page's child from reading them.
"""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""The same numbers on every architecture."""
_VERSION = 1
_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_BITS_OF_VERSION = {1: 13, 2: 14, 3: 15, 4: 15}
"""How many kinds of access a version knows; later ones 16."""
_BIND_TCP_AND_CONNECT_TCP = 3
_ABSTRACT_SOCKETS_AND_SIGNALS = 3


def version() -> int:
    """0 where the kernel has none, or it is switched off."""
    return max(0, int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, 0, _VERSION)))


def restrict(*, readable: Iterable[str], writable: Iterable[str]) -> None:
    """Leaves this process only what is beneath these paths; those that don't exist are passed over. Raises ``OSError``.

    Needs no_new_privs. On newer kernels also no TCP and no signals to processes outside.
    """
    known = version()
    handled = (1 << _BITS_OF_VERSION.get(known, 16)) - 1
    rules = struct.pack("<Q", handled)
    if known >= 4:
        rules += struct.pack("<Q", _BIND_TCP_AND_CONNECT_TCP)
    if known >= 6:
        rules += struct.pack("<Q", _ABSTRACT_SOCKETS_AND_SIGNALS)
    ruleset = _call(_CREATE_RULESET, ctypes.create_string_buffer(rules, len(rules)), len(rules), 0)
    try:
        for access, paths in ((_READ, readable), (handled, writable)):
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    _allow(ruleset, path, access & handled)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not Path(path).is_dir():
            access &= _OF_FILES
        rule = struct.pack("<Qi", access, descriptor)
        _call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.create_string_buffer(rule, len(rule)), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "landlock")
    return result
