"""How children are confined on this machine: found out once, at start, and refused there where it is required."""

import asyncio
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from shared.errors import ConfigurationError

from . import landlock, seccomp
from .confinement import Restrictions
from .forked import ForkServer

Confinement = Literal["auto", "builtin", "required"]

_ROOT = Path(__file__).parents[2]
"""Where ``services`` and ``shared`` are importable from."""

_CODE = (str(_ROOT / "services"), str(_ROOT / "shared"), sys.prefix, sys.base_prefix)
_SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/alternatives", "/etc/fonts")
_OF_EVERY_PROCESS = ("/dev/null", "/dev/zero", "/dev/urandom", "/proc/self", "/proc/cpuinfo", "/proc/meminfo")

_SPARE_TASKS = 32
"""What a child may start: a decoder's threads, or the three programs of a page. More is a fork bomb."""

_PYTHON = (sys.executable, "-B", "-m")
"""-B: no compiled file is written."""

_ISOLATED = ("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL")
_OWN_KERNEL_FILES = ("--proc", "/proc", "--dev", "/dev")


class Wanted(NamedTuple):
    """What one child needs."""

    module: str
    document: Path
    scratch: Path
    """Of its own, and empty: the parent removes it, since a killed child can't."""
    memory_bytes: int
    largest_file: int
    """0 where it neither writes files nor starts programs."""
    programs: Sequence[str]
    """Those that it starts, wherever they are installed."""


class Sandbox:
    """Commands that start confined children.

    ``auto`` takes what this machine offers. ``builtin`` does without bubblewrap, and insists on the rest. ``required``
    insists on all of it. Raises ``ConfigurationError`` ``confinement_unavailable``.
    """

    def __init__(self, confinement: Confinement, *, children: int = 1_000) -> None:
        """No more than ``children`` at once: each may fill its share of the memory."""
        self.room = asyncio.Semaphore(children)
        self._bubblewrap = None if confinement == "builtin" else _bubblewrap()
        self._has_seccomp = seccomp.is_available()
        self._has_landlock = landlock.version() > 0
        missing = []
        if confinement == "required" and self._bubblewrap is None:
            missing.append("bubblewrap (bwrap is not installed, or may not make namespaces here)")
        if confinement != "auto" and not self._has_seccomp:
            missing.append("seccomp filters")
        if missing:
            raise ConfigurationError(
                "confinement_unavailable",
                f"OCR_CONFINEMENT={confinement}: this machine has no {' and no '.join(missing)}. "
                "Install or allow it, or let OCR_CONFINEMENT ask for less: builtin, then auto.",
            )

    @property
    def layers(self) -> dict[str, bool]:
        """What children are confined by, besides limits, an empty environment and no_new_privs, which all are."""
        return {
            "bubblewrap": self._bubblewrap is not None,
            "seccomp": self._has_seccomp,
            "landlock": self._has_landlock,
        }

    def command(self, wanted: Wanted) -> list[str]:
        """The child's command line; its last argument are the restrictions that it puts on itself."""
        python = [*_PYTHON, wanted.module, self.restrictions(wanted).model_dump_json()]
        bound = "--bind" if wanted.programs else "--ro-bind"
        return self._isolated(
            python,
            ("--ro-bind", str(wanted.document), str(wanted.document)),
            (bound, str(wanted.scratch), str(wanted.scratch)),
            programs=_folders(wanted.programs),
        )

    def restrictions(self, wanted: Wanted) -> Restrictions:
        """What a child puts on itself."""
        return Restrictions(
            parent=None if self._bubblewrap else os.getpid(),
            memory_bytes=wanted.memory_bytes,
            largest_file=wanted.largest_file,
            allow_programs=bool(wanted.programs),
            tasks=_tasks_of_this_account() + _SPARE_TASKS,
            readable=(*_CODE, *_SYSTEM, *_folders(wanted.programs), *_OF_EVERY_PROCESS, str(wanted.document)),
            writable=("/dev/null", str(wanted.scratch)) if wanted.programs else ("/dev/null",),
            has_landlock=self._has_landlock,
            has_seccomp=self._has_seccomp,
        )

    def fork_server(self, documents: Path, *, engine: str) -> ForkServer | None:
        """Who starts children for the documents of a folder, ``engine`` at hand.

        None where they would be confined less by it: bubblewrap shows them the whole folder, so that Landlock alone
        keeps a child to its own document.
        """
        if (self._bubblewrap is not None and not self._has_landlock) or not hasattr(os, "pidfd_open"):
            return None
        command = self._isolated(
            [*_PYTHON, "services.ocr.fork_server", engine], ("--ro-bind", str(documents), str(documents)), programs=[]
        )
        return ForkServer(command, documents=documents, folder=_ROOT, environment=self.environment(documents))

    def _isolated(self, python: list[str], *binds: tuple[str, str, str], programs: Sequence[str]) -> list[str]:
        """The command in namespaces of its own, where there are such."""
        if self._bubblewrap is None:
            return python
        seen = [word for path in dict.fromkeys((*_CODE, *_SYSTEM, *programs)) for word in ("--ro-bind-try", path, path)]
        return [
            self._bubblewrap,
            *_ISOLATED,
            *("--tmpfs", "/tmp"),  # noqa: S108 - the child's own, and empty
            *seen,
            *_OWN_KERNEL_FILES,
            *(word for bind in binds for word in bind),
            *("--chdir", str(_ROOT)),
            "--",
            *python,
        ]

    def environment(self, scratch: Path) -> dict[str, str]:
        """Only what reading needs: the service's own holds the database's address and keys."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),  # poppler's and tesseract's programs
            "LANG": "C.UTF-8",
            "TMPDIR": str(scratch),
            # One page, one core: OpenMP's threads made one page take over 18 CPU seconds instead of 2.
            "OMP_THREAD_LIMIT": "1",
            "OPENBLAS_NUM_THREADS": "1",
            # Freed pages go back to the system, and fewer arenas are begun: a page more or less of the limit counts.
            "MALLOC_ARENA_MAX": "2",
        }

    @property
    def folder(self) -> Path:
        """Where children start."""
        return _ROOT


def _folders(programs: Sequence[str]) -> list[str]:
    return [str(Path(found).resolve().parent) for name in programs if (found := shutil.which(name))]


@functools.cache
def _bubblewrap() -> str | None:
    """The program, where it can make namespaces: many containers forbid it."""
    found = shutil.which("bwrap")
    if found is None:
        return None
    trial = [found, *_ISOLATED, "--ro-bind", "/", "/", *_OWN_KERNEL_FILES, "--", "true"]
    try:
        done = subprocess.run(trial, check=False, capture_output=True, timeout=10, env={"PATH": os.defpath})
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found if done.returncode == 0 else None


def _tasks_of_this_account() -> int:
    """Processes and threads, as RLIMIT_NPROC counts them."""
    account = os.getuid()
    count = 0
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if process.stat().st_uid == account:
                    count += sum(1 for _ in (process / "task").iterdir())
            except OSError:  # it ended, or is not ours to look into
                continue
    return count
