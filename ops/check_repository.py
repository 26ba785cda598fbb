#!/usr/bin/env python3
"""What no ready-made linter checks here: locks, machine paths, sizes, names. Prints file:line: message, exits 1."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MAXIMUM_FILE_BYTES = 10 * 2**20
SERVICES = ("ocr", "ai", "persister", "sweeper", "console")
# A path at the root of somebody's machine; not a URL's, not one below another folder, not "$HOME/work/".
MACHINE_PATH = re.compile(r"(?<![\w.~/})\]-])/(?:work|root|(?:home|Users)/[\w.-]+)/")
URL = re.compile(r"\b[a-z][a-z0-9+.-]*://", re.IGNORECASE)
LOCKED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)")
MIGRATION = re.compile(r"\d{14}_[a-z0-9_]+\.sql")
NOT_A_MIGRATION = Path("migrations/plain_postgres.sql")  # what Supabase has and plain Postgres lacks; run once


@dataclass(frozen=True)
class Finding:
    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def locks_hold_no_addresses(root: Path, tracked: Sequence[Path]) -> Iterator[Finding]:
    """A lock names versions and hashes; where they come from is the installer's business."""
    for path in tracked:
        if path.suffix == ".lock":
            for number, line in _lines(root / path):
                if URL.search(line) or line.lstrip().startswith(("--index", "--extra-index", "--find-links")):
                    yield Finding(path, number, "a lock file holds no address")


def dependencies_are_locked(root: Path) -> Iterator[Finding]:
    """Every pinned dependency of a pyproject.toml is in each lock made from it, with the same version."""
    run, dev = Path("requirements/run.lock"), Path("requirements/dev.lock")
    service_locks = {name: Path("services", name, "requirements.lock") for name in SERVICES}
    for name, lock in service_locks.items():
        yield from _unlocked(root, Path("services", name, "pyproject.toml"), (lock, run, dev))
    yield from _unlocked(root, Path("shared/pyproject.toml"), (*service_locks.values(), run, dev))
    yield from _unlocked(root, Path("cli/pyproject.toml"), (run, dev))
    yield from _unlocked(root, Path("pyproject.toml"), (run, dev), groups=("build",))
    yield from _unlocked(root, Path("pyproject.toml"), (dev,), groups=("test", "train", "lint"))
    yield from _unlocked(root, Path("pyproject.toml"), (Path("requirements/browser.lock"),), groups=("browser",))


def no_machine_paths(root: Path, tracked: Sequence[Path]) -> Iterator[Finding]:
    """A path of the machine that a file was written on works on no other one."""
    for path in tracked:
        for number, line in _lines(root / path):
            if found := MACHINE_PATH.search(line):
                yield Finding(path, number, f"absolute path of one machine: {found[0]}")


def files_are_small(root: Path, tracked: Sequence[Path]) -> Iterator[Finding]:
    for path in tracked:
        size = (root / path).stat().st_size
        if size > MAXIMUM_FILE_BYTES:
            yield Finding(path, 1, f"{size / 2**20:.1f} MiB; a tracked file has at most {MAXIMUM_FILE_BYTES >> 20} MiB")


def migrations_are_named(tracked: Sequence[Path]) -> Iterator[Finding]:
    """Supabase and shared.migrate apply migrations in the order of their names."""
    for path in tracked:
        if (
            path.parts[0] == "migrations"
            and path != NOT_A_MIGRATION
            and path.suffix == ".sql"
            and not MIGRATION.fullmatch("/".join(path.parts[1:]))
        ):
            yield Finding(path, 1, "a migration is named <14 digits>_name.sql")


def dockerfiles_exist(root: Path) -> Iterator[Finding]:
    blueprint = Path("render.yaml")
    services = yaml.safe_load((root / blueprint).read_text())["services"]
    for service in services:
        dockerfile = service.get("dockerfilePath")
        if service.get("runtime") == "docker" and (dockerfile is None or not (root / dockerfile).is_file()):
            line = _line_of(root / blueprint, dockerfile or service["name"])
            yield Finding(blueprint, line, f"{service['name']}: no such Dockerfile: {dockerfile}")


def check(root: Path, tracked: Sequence[Path]) -> list[Finding]:
    return [
        *locks_hold_no_addresses(root, tracked),
        *dependencies_are_locked(root),
        *no_machine_paths(root, tracked),
        *files_are_small(root, tracked),
        *migrations_are_named(tracked),
        *dockerfiles_exist(root),
    ]


def tracked_files(root: Path) -> list[Path]:
    git = shutil.which("git")
    if git is None:
        raise SystemExit("ops/check_repository.py asks git which files are tracked: install git.")
    result = subprocess.run([git, "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True)
    return [path for name in result.stdout.split("\0") if name and (root / (path := Path(name))).is_file()]


def _unlocked(root: Path, project: Path, locks: Sequence[Path], groups: Sequence[str] = ()) -> Iterator[Finding]:
    content = tomllib.loads((root / project).read_text())
    for requirement in _requirements(content, groups):
        pinned = [specifier.version for specifier in requirement.specifier if specifier.operator == "=="]
        if len(pinned) != 1:
            line = _line_of(root / project, requirement.name)
            yield Finding(project, line, f"{requirement.name} is not pinned with ==")
            continue
        for lock in locks:
            locked = _locked_versions(root / lock).get(canonicalize_name(requirement.name))
            if locked != pinned[0]:
                line = _line_of(root / project, requirement.name)
                yield Finding(project, line, f"{requirement} is {locked or 'missing'} in {lock}: run make lock")


def _requirements(content: dict[str, Any], groups: Sequence[str]) -> Iterator[Requirement]:
    """The third-party requirements of the groups, or of the project itself where no group is named."""
    texts = content["project"].get("dependencies", [])
    if groups:
        texts = [text for group in groups for text in content["dependency-groups"][group]]
    for text in texts:
        requirement = Requirement(text)
        if not requirement.name.startswith("chartloom-"):  # a member of this workspace
            yield requirement


def _locked_versions(lock: Path) -> dict[str, str]:
    found = (LOCKED.match(line) for _, line in _lines(lock))
    return {canonicalize_name(match["name"]): match["version"] for match in found if match}


def _lines(path: Path) -> list[tuple[int, str]]:
    """The numbered lines of a text file; none of a binary one."""
    try:
        return list(enumerate(path.read_text(encoding="utf-8").splitlines(), start=1))
    except UnicodeDecodeError:
        return []


def _line_of(path: Path, text: str) -> int:
    return next((number for number, line in _lines(path) if text in line), 1)


def main() -> int:
    root = Path(__file__).resolve().parents[1]
    findings = check(root, tracked_files(root))
    sys.stdout.writelines(f"{finding}\n" for finding in findings)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
