"""How much memory this instance has, and a page's child may have of it."""

import os
from pathlib import Path

from .limits import MIB

_CGROUPS = Path("/sys/fs/cgroup")
_OF_THE_SERVICE = 200 * MIB
"""The service itself (100 MB), and what stays free of an instance that dies when it is full."""
LEAST = 240 * MIB
"""An A4 scan at 300 dpi takes 165 MB, a table on it more."""
OF_AN_EMPTY_PAGE = 112 * MIB
"""The interpreter, its libraries and Tesseract's models."""
_BYTES_OF_A_PIXEL = 18
"""The grey page, its copies while it is turned, made even and searched for tables, and Tesseract's own: 17 measured."""


def instance_bytes() -> int:
    """What the container may use, or the machine has."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits_of_containers()])


def share_of_a_child(instance: int, children: int, most: int) -> int:
    """How many bytes each of so many children may hold: ``most`` where the instance has it, ``LEAST`` at the least."""
    return max(LEAST, min(most, (instance - _OF_THE_SERVICE) // children))


def children_that_fit(instance: int) -> int:
    """How many children the instance has room for, one at the least."""
    return max(1, (instance - _OF_THE_SERVICE) // LEAST)


def pixels_that_fit(memory: int) -> int:
    """The largest page that a child with so much memory can turn upright and read."""
    return (memory - OF_AN_EMPTY_PAGE) // _BYTES_OF_A_PIXEL


def _limits_of_containers() -> list[int]:
    """Those of this process's control group and of the ones that it is in. "max", or a huge number, is no limit."""
    found = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        root, name = {
            "": (_CGROUPS, "memory.max"),
            "memory": (_CGROUPS / "memory", "memory.limit_in_bytes"),
        }.get(controllers, (None, ""))
        if root is None:
            continue
        # In a container of its own the path is often that of outside, and the limit is at the root.
        group = root / path.lstrip("/")
        folders = [folder for folder in (group, *group.parents) if folder.is_relative_to(root)]
        found += [int(limit) for folder in folders if (limit := _read(folder / name).strip()).isdigit()]
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
