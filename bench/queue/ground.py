"""What all measures stand on: one Postgres 17 at stock settings (fsync, synchronous_commit on), a database each."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from cli.deployment import DATABASE, OWNER, open_deployment
from cli.embedded_postgres import EmbeddedPostgres, PostgresServer

PATIENTS = 100

# `bench` ends with itself; `bench_a` hands over to `bench_b`. Their payload is `{}`: nothing follows a no-op.
JOB_TYPES = """
insert into chartloom.job_types (job_type, job_category, worker_role, payload_schema)
select job_type, 'fast', 'chartloom_ocr', '{}' from unnest(array['bench', 'bench_a', 'bench_b']) as job_type;
insert into chartloom.pipeline_steps (after_job_type, next_job_type) values ('bench_a', 'bench_b');
"""
EMPTY = "truncate chartloom.job_queue, chartloom.job_archive, chartloom.queue_heads, chartloom.processing_errors"


@dataclass(frozen=True)
class Ground:
    """The server, its databases, and how many rounds each measure has."""

    server: PostgresServer
    owner_url: str
    worker_url: str
    persister_url: str
    service_urls: Mapping[str, str]
    storage_url: str
    runs: int

    def progress(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def rounds(self, measure: str) -> Iterator[int]:
        """The rounds of a measure, each announced as it begins."""
        for number in range(self.runs):
            self.progress(f"{measure}: round {number + 1}")
            yield number

    def admin_url(self, database: str) -> str:
        return _in_database(self.server.admin_url, database)

    def owner_url_of(self, database: str) -> str:
        return _in_database(self.owner_url, database)

    def worker_url_of(self, database: str) -> str:
        return _in_database(self.worker_url, database)

    def persister_url_of(self, database: str) -> str:
        return _in_database(self.persister_url, database)

    def service_url_of(self, service: str, database: str) -> str:
        return _in_database(self.service_urls[service], database)

    @property
    def postmaster(self) -> int:
        """The server's process."""
        return int((self.server.data_directory / "postmaster.pid").read_text().split()[0])

    @asynccontextmanager
    async def owner(self, database: str = DATABASE) -> AsyncIterator[asyncpg.Connection]:
        """The owner of Chartloom's tables, statements prepared once as any client without a pooler would."""
        async with connected(self.owner_url_of(database)) as connection:
            yield connection

    @asynccontextmanager
    async def admin(self, database: str = "postgres") -> AsyncIterator[asyncpg.Connection]:
        async with connected(self.admin_url(database)) as connection:
            yield connection

    async def settle_down(self, database: str, tables: str = "") -> None:
        """Statistics and a checkpoint before the clock runs, so that neither falls into somebody's round."""
        async with self.admin(database) as connection:
            await connection.execute(f"vacuum analyze {tables}")
            await connection.execute("checkpoint")

    @asynccontextmanager
    async def clone(self, name: str) -> AsyncIterator[str]:
        """A copy of Chartloom's database for as long as it is needed. It is made while nobody is connected there."""
        async with self.admin() as connection:
            await connection.execute(f"drop database if exists {name} with (force)")
            await connection.execute(f"create database {name} template {DATABASE} owner {OWNER}")
        try:
            yield name
        finally:
            async with self.admin() as connection:
                await connection.execute(f"drop database {name} with (force)")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def prepared_ground(runs: int) -> AsyncIterator[Ground]:
    """The server with Chartloom's schema; stopped and deleted at the end."""
    home = tempfile.mkdtemp(prefix="chartloom-bench-")
    os.environ["CHARTLOOM_HOME"] = home
    os.environ.pop("DATABASE_URL", None)
    postgres = EmbeddedPostgres(Path(home))
    try:
        async with open_deployment() as deployment:
            ground = Ground(
                postgres.ensure_started(),
                deployment.owner_url,
                deployment.service_urls["ocr"],
                deployment.service_urls["persister"],
                deployment.service_urls,
                deployment.storage_url,
                runs,
            )
            async with ground.owner() as connection:
                await connection.execute(JOB_TYPES)
            yield ground
    finally:
        postgres.remove()
        shutil.rmtree(home, ignore_errors=True)


async def fill(connection: asyncpg.Connection, jobs: int, *, job_type: str = "bench", patients: str = "") -> None:
    """Jobs of a hundred patients in turn, in one transaction; ``patients`` is a prefix of their keys."""
    for first in range(0, jobs, 1000):
        keys = [f"{patients}{number % PATIENTS}" for number in range(first, min(first + 1000, jobs))]
        await connection.execute(
            "select chartloom.enqueue_jobs_v3($1, 'fast', $2::jsonb[], p_fairness_keys => $3)",
            job_type,
            ["{}"] * len(keys),
            keys,
        )


def _in_database(url: str, database: str) -> str:
    return urlsplit(url)._replace(path=f"/{database}").geturl()
