"""The repository's own checks: each one can fail, and the repository passes them all."""

from pathlib import Path

import pytest

from ops import check_repository as checks

REPOSITORY = Path(__file__).resolve().parents[2]


def write(root: Path, name: str, text: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return Path(name)


def project(*dependencies: str, groups: str = "") -> str:
    quoted = ", ".join(f'"{dependency}"' for dependency in dependencies)
    return f'[project]\nname = "example"\ndependencies = [\n{quoted}\n]\n{groups}'


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace in which every pin is locked."""
    lock = "asyncpg==0.32.0 \\\n    --hash=sha256:00\nPyYAML==6.0.3 ; python_version > '3' \\\n    --hash=sha256:01\n"
    groups = '[dependency-groups]\nbuild = []\ntest = []\ntrain = []\nbrowser = []\nlint = ["pyyaml==6.0.3"]\n'
    for name in checks.SERVICES:
        write(tmp_path, f"services/{name}/pyproject.toml", project("chartloom-shared"))
        write(tmp_path, f"services/{name}/requirements.lock", lock)
    write(tmp_path, "shared/pyproject.toml", project("asyncpg==0.32.0"))
    write(tmp_path, "cli/pyproject.toml", project("chartloom-shared"))
    write(tmp_path, "pyproject.toml", project("chartloom-cli", groups=groups))
    write(tmp_path, "requirements/run.lock", lock)
    write(tmp_path, "requirements/dev.lock", lock)
    write(tmp_path, "requirements/browser.lock", lock)
    return tmp_path


def test_this_repository_passes() -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    assert [str(finding) for finding in checks.check(REPOSITORY, checks.tracked_files(REPOSITORY))] == []


@pytest.mark.parametrize(
    "line",
    ["example @ https://example.org/example.whl", "--index-url http://example.org", "--find-links wheels"],
)
def test_an_address_in_a_lock_is_found(tmp_path: Path, line: str) -> None:
    lock = write(tmp_path, "requirements/run.lock", f"aiohttp==3.14.5 \\\n    --hash=sha256:00\n{line}\n")
    findings = list(checks.locks_hold_no_addresses(tmp_path, [lock]))
    assert [str(finding) for finding in findings] == ["requirements/run.lock:3: a lock file holds no address"]


def test_a_workspace_with_every_pin_locked_passes(workspace: Path) -> None:
    assert list(checks.dependencies_are_locked(workspace)) == []


def test_a_dependency_missing_from_a_lock_is_found(workspace: Path) -> None:
    write(workspace, "services/ai/requirements.lock", "")
    findings = [str(finding) for finding in checks.dependencies_are_locked(workspace)]
    message = "asyncpg==0.32.0 is missing in services/ai/requirements.lock: run make lock"
    assert findings == [f"shared/pyproject.toml:4: {message}"]


def test_a_lock_with_another_version_is_found(workspace: Path) -> None:
    write(workspace, "cli/pyproject.toml", project("chartloom-shared", "PyYAML==6.0.4"))
    findings = [finding.message for finding in checks.dependencies_are_locked(workspace)]
    assert findings == [
        "PyYAML==6.0.4 is 6.0.3 in requirements/run.lock: run make lock",
        "PyYAML==6.0.4 is 6.0.3 in requirements/dev.lock: run make lock",
    ]


def test_an_unpinned_dependency_is_found(workspace: Path) -> None:
    write(workspace, "services/ocr/pyproject.toml", project("asyncpg>=0.32"))
    findings = [str(finding) for finding in checks.dependencies_are_locked(workspace)]
    assert findings == ["services/ocr/pyproject.toml:4: asyncpg is not pinned with =="]


# Joined here, so that this file does not hold what it forbids.
@pytest.mark.parametrize("path", ["/".join(["", *parts, "x"]) for parts in (["work"], ["root"], ["home", "ada"])])
def test_a_path_of_one_machine_is_found(tmp_path: Path, path: str) -> None:
    file = write(tmp_path, "README.md", f"first\nsee `{path}`\n")
    assert [(finding.path, finding.line) for finding in checks.no_machine_paths(tmp_path, [file])] == [(file, 2)]


@pytest.mark.parametrize("text", ["docs/work/x", "https://example.org/root/x", "$HOME/work/x", "/var/lib/x"])
def test_a_path_that_works_everywhere_is_fine(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, "README.md", text)
    assert list(checks.no_machine_paths(tmp_path, [file])) == []


def test_a_binary_file_is_not_read_for_paths(tmp_path: Path) -> None:
    (tmp_path / "scan.png").write_bytes(b"\xff\xfe" + "/".join(["", "root", ""]).encode())
    assert list(checks.no_machine_paths(tmp_path, [Path("scan.png")])) == []


def test_a_large_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(b"\0" * (checks.MAXIMUM_FILE_BYTES + 1))
    (tmp_path / "small.bin").write_bytes(b"\0" * checks.MAXIMUM_FILE_BYTES)
    findings = checks.files_are_small(tmp_path, [Path("large.bin"), Path("small.bin")])
    assert [finding.path.name for finding in findings] == ["large.bin"]


def test_a_misnamed_migration_is_found() -> None:
    names = ["20261123120000_queue.sql", "2026_queue.sql", "20261123120000-queue.sql", "20261123120000_.sql"]
    findings = checks.migrations_are_named([checks.NOT_A_MIGRATION, *(Path("migrations", name) for name in names)])
    assert [finding.path.name for finding in findings] == names[1:]


def test_a_dockerfile_that_is_not_there_is_found(tmp_path: Path) -> None:
    write(tmp_path, "services/ocr/Dockerfile", "FROM scratch\n")
    write(
        tmp_path,
        "render.yaml",
        "services:\n"
        "  - {name: ocr, runtime: docker, dockerfilePath: ./services/ocr/Dockerfile}\n"
        "  - {name: ai, runtime: docker, dockerfilePath: ./services/ai/Dockerfile}\n",
    )
    findings = [str(finding) for finding in checks.dockerfiles_exist(tmp_path)]
    assert findings == ["render.yaml:3: ai: no such Dockerfile: ./services/ai/Dockerfile"]
