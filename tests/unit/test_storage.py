"""A stored file is whole or not there, and no path leads out of the folder."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shared.errors import ConfigurationError, TerminalError
from shared.storage import LocalStorage, open_storage


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def content(storage: LocalStorage, path: str) -> bytes:
    return b"".join([chunk async for chunk in storage.stream(path)])


async def test_a_file_comes_back_as_it_was_put(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    stored = await storage.put("patient/file", chunks(b"one", b"two"))
    assert stored.size_bytes == 6
    assert await storage.stat("patient/file") == stored
    assert await content(storage, "patient/file") == b"onetwo"
    assert [found.path async for found in storage.list("patient")] == ["patient/file"]
    await storage.delete("patient/file")
    await storage.delete("patient/file")
    assert await storage.stat("patient/file") is None


async def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    storage = LocalStorage(tmp_path)
    await storage.put("a/b", chunks(b"old"))
    with pytest.raises(ConnectionResetError):
        await storage.put("a/b", broken())
    assert await content(storage, "a/b") == b"old"
    assert [found.path async for found in storage.list("")] == ["a/b"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


async def test_all_of_a_prefix_goes_half_written_files_too_and_nothing_else(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for path in ("a/1", "a/b/2", "ab/3"):
        await storage.put(path, chunks(b"x"))
    (tmp_path / "a" / ".partial-killed").write_bytes(b"half")
    for _ in range(2):
        await storage.delete_all("a")
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["3", "ab"]
    with pytest.raises(TerminalError, match="leaves the storage folder"):
        await storage.delete_all("")


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/etc/passwd", "", "."])
async def test_no_path_leads_out_of_the_folder(tmp_path: Path, path: str) -> None:
    storage = LocalStorage(tmp_path / "inside")
    with pytest.raises(TerminalError, match="leaves the storage folder"):
        await storage.put(path, chunks(b"x"))


async def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TerminalError, match="upload it again"):
        await content(LocalStorage(tmp_path), "not/there")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="STORAGE_URL"):
        open_storage("s3://bucket")
