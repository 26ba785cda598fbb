"""What a process and everything that it started hold in memory, looked at again and again from outside."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

MIB = 2**20
LOOK_EVERY_SECONDS = 0.1


@dataclass
class MemoryWatch:
    """Peaks, in bytes: of the proportional shares (PSS) of all together, and of one child's own data (``VmData``).

    A page that two processes share is half of each's PSS, so that the sum is what the machine really gave.
    """

    pid: int
    together: int = 0
    largest_child: int = 0
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "MemoryWatch":
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        assert self._thread is not None
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_EVERY_SECONDS):
            members = family(self.pid)
            self.together = max(self.together, sum(_kilobytes(pid, "smaps_rollup", "Pss:") for pid in members) * 1024)
            for pid in members[1:]:
                self.largest_child = max(self.largest_child, _kilobytes(pid, "status", "VmData:") * 1024)


def family(pid: int) -> list[int]:
    """The process, its children, theirs and so on."""
    found = [pid]
    for member in found:
        try:
            tasks = list(Path(f"/proc/{member}/task").iterdir())
            found += [int(child) for task in tasks for child in (task / "children").read_text().split()]
        except OSError:  # it ended
            continue
    return found


def _kilobytes(pid: int, file: str, name: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:  # it ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name)), 0)
