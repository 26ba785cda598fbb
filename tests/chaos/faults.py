"""What goes wrong, when and to whom: drawn from a seed before the start, so that a run can be repeated."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cli.embedded_postgres import EmbeddedPostgres
from tests.fleet import LEASE_SECONDS, Fleet, Instance
from tests.letters import Owner

WEIGHTS = {
    "process killed": 6,
    "process frozen past its lease": 3,
    "connections cut": 4,
    "connections half-open": 1,
    "network gone for a while": 2,
    "Postgres killed and restarted": 2,
    "disk full": 2,
}
MEAN_GAP_SECONDS = 2.0
LASTS = {
    "process frozen past its lease": (LEASE_SECONDS + 0.5, LEASE_SECONDS + 4.0),
    "connections half-open": (5.0, 30.0),
    "network gone for a while": (1.0, LEASE_SECONDS + 3.0),
    "disk full": (0.5, 2.0),
}
SPARED_FROM = 3
"""Retries or lost leases, of five: what would hit a job that has spent so many is left out, as it could end it."""
DISK_MEGABYTES = 48
DISK_MEGABYTES_A_LETTER = 0.2
"""Its file, and the images of its pages twice: of the undisturbed run and of the other."""


@dataclass(frozen=True)
class Fault:
    """``at`` and ``seconds`` count from the start of the run and of the fault; ``victim`` is an instance's number."""

    at: float
    kind: str
    victim: int
    seconds: float


def schedule(seed: int, seconds: float, instances: int) -> list[Fault]:
    random_source = random.Random(f"{seed} faults")
    faults: list[Fault] = []
    at = 0.0
    while (at := at + random_source.expovariate(1 / MEAN_GAP_SECONDS)) < seconds:
        (kind,) = random_source.choices(list(WEIGHTS), list(WEIGHTS.values()))
        faults.append(
            Fault(at, kind, random_source.randrange(instances), random_source.uniform(*LASTS.get(kind, (0.0, 0.0))))
        )
    return faults


@dataclass(frozen=True)
class Disk:
    """A folder on a file system so small that it can be filled; ``is_small`` where root could mount one."""

    folder: Path
    is_small: bool

    def fill(self) -> None:
        with (self.folder / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(1 << 16))

    def free(self) -> None:
        (self.folder / "ballast").unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, *, letters: int) -> Iterator[Disk]:
    """Soon full, but not of these letters alone."""
    folder.mkdir()
    size = f"size={round(DISK_MEGABYTES + DISK_MEGABYTES_A_LETTER * letters)}m"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "chaos", folder], capture_output=True, check=False)
    try:
        yield Disk(folder, mounted.returncode == 0)
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "--lazy", folder], check=True)


@dataclass
class Disturbance:
    """Carries out a schedule."""

    server: EmbeddedPostgres
    fleet: Fleet
    disk: Disk
    owner: Owner
    faults: Counter[str] = field(default_factory=Counter)

    async def run(self, planned: list[Fault]) -> None:
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as under_way:
            for fault in planned:
                await asyncio.sleep(began + fault.at - asyncio.get_running_loop().time())
                await self.fleet.look_after()
                victim = self._victim(fault)
                if victim is None or not await self._may_hit(fault.kind, victim):
                    self.faults["left out: it could have spent a job's budget"] += 1
                    continue
                if fault.kind == "disk full" and not self.disk.is_small:
                    self.faults["left out: no disk of its own, which takes root"] += 1
                    continue
                self.faults[fault.kind] += 1
                if fault.seconds:
                    under_way.create_task(self._for_a_while(fault, victim))
                else:
                    await self._at_once(fault.kind, victim)

    def _victim(self, fault: Fault) -> Instance | None:
        """The one that was drawn, or the next that nothing else is happening to."""
        instances = self.fleet.instances
        turned = [*instances[fault.victim :], *instances[: fault.victim]]
        return next((instance for instance in turned if not instance.is_disturbed), None)

    async def _may_hit(self, kind: str, victim: Instance) -> bool:
        hits_all = kind in ("Postgres killed and restarted", "disk full")
        spent = await self.owner.fetchval(
            "select exists (select from chartloom.job_queue where status <> 'dead_letter' "
            "and greatest(retry_count, lease_losses) >= $1 and ($2 or worker_id like $3))",
            SPARED_FROM,
            hits_all,
            f"{victim.name}-%",
        )
        return not spent

    async def _at_once(self, kind: str, victim: Instance) -> None:
        match kind:
            case "process killed":
                await self.fleet.kill(victim)
            case "connections cut":
                victim.proxy.cut()
            case "Postgres killed and restarted":
                data = (await asyncio.to_thread(self.server.ensure_started)).data_directory
                os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
                await asyncio.to_thread(self.server.ensure_started)
            case _:
                raise ValueError(kind)

    async def _for_a_while(self, fault: Fault, victim: Instance) -> None:
        match fault.kind:
            case "process frozen past its lease":
                begin, end = (lambda: victim.send(signal.SIGSTOP)), (lambda: victim.send(signal.SIGCONT))
            case "connections half-open":
                begin, end = victim.proxy.strand, (lambda: victim.proxy.cut(only_dead=True))
            case "network gone for a while":
                begin, end = victim.proxy.black_hole, (lambda: self._heal(victim))
            case "disk full":
                begin, end = self.disk.fill, self.disk.free
            case _:
                raise ValueError(fault.kind)
        # A full disk is everybody's, and who has only lost its connections may be killed as well.
        is_out = fault.kind not in ("disk full", "connections half-open")
        victim.is_disturbed |= is_out
        begin()
        await asyncio.sleep(fault.seconds)
        end()
        victim.is_disturbed &= not is_out

    @staticmethod
    def _heal(victim: Instance) -> None:
        victim.proxy.heal()
        # Packets come through again, and each side learns that the other has given the connection up.
        victim.proxy.cut(only_dead=True)
