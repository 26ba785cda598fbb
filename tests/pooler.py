"""Debian's PgBouncer in transaction mode, in front of a test's database."""

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from tests.conftest import OWNER, PASSWORD, SERVICE_ROLES, Database

# Debian has it where an ordinary user's PATH does not lead.
BINARY = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))

CONFIGURATION = """
[databases]
* = host={host} port={server_port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/userlist.txt
pool_mode = transaction
default_pool_size = {servers}
max_client_conn = 500
admin_users = {owner}
log_connections = 0
log_disconnections = 0
"""


@dataclass(frozen=True)
class Pooler(Database):
    """The same database by another way in: ``url`` and ``connect`` lead through PgBouncer."""

    port: int

    def url(self, role: str = OWNER) -> str:
        return urlsplit(super().url(role))._replace(netloc=f"{role}:{PASSWORD}@127.0.0.1:{self.port}").geturl()


@asynccontextmanager
async def pgbouncer(database: Database, *, servers: int) -> AsyncIterator[Pooler]:
    """Runs it with so many server connections a role, as another user where we are root, which it refuses to be."""
    assert BINARY is not None
    folder = Path(tempfile.mkdtemp(prefix="chartloom-pgbouncer-"))
    try:
        folder.chmod(0o755)
        pooler = Pooler(database.admin_url, database.name, _free_port())
        server = urlsplit(database.admin_url)
        (folder / "pgbouncer.ini").write_text(
            CONFIGURATION.format(
                host=server.hostname,
                server_port=server.port,
                port=pooler.port,
                folder=folder,
                servers=servers,
                owner=OWNER,
            )
        )
        # It signs in with the same passwords, so they can't be hashed.
        (folder / "userlist.txt").write_text("".join(f'"{role}" "{PASSWORD}"\n' for role in (OWNER, *SERVICE_ROLES)))
        with (folder / "pgbouncer.log").open("wb") as log:
            process = subprocess.Popen([BINARY, folder / "pgbouncer.ini"], stderr=log, stdout=log, **_account())
        try:
            await _until_it_answers(pooler, process, folder / "pgbouncer.log")
            yield pooler
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(folder)


async def _until_it_answers(pooler: Pooler, process: "subprocess.Popen[bytes]", log: Path) -> None:
    async with asyncio.timeout(10):
        while True:
            assert process.poll() is None, log.read_text()
            try:
                await (await pooler.connect()).close()
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.01)
            else:
                return


def _account() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
