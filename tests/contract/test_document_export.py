"""``chartloom export --pdf``: the document by its file or its id, its words over its images."""

import io
from pathlib import Path
from uuid import uuid4

import asyncpg
import pypdfium2 as pdfium
import pytest
from PIL import Image

from cli.document_export import export_document
from shared.errors import ConfigurationError
from shared.storage import LocalStorage, once
from tests.conftest import Database, Patient
from tests.pipeline import claim, page
from tests.users import upload


def jpeg() -> bytes:
    encoded = io.BytesIO()
    Image.new("L", (100, 100), 255).save(encoded, "JPEG")
    return encoded.getvalue()


async def test_a_document_is_found_by_its_file_and_by_its_id(
    database: Database, owner: asyncpg.Connection, patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path / "storage")
    monkeypatch.setenv("DATABASE_URL", database.url())
    monkeypatch.setenv("STORAGE_URL", (tmp_path / "storage").as_uri())
    monkeypatch.setenv("CHARTLOOM_HOME", str(tmp_path / "home"))
    file = tmp_path / "letter.txt"
    file.write_bytes(b"as uploaded")
    document = await upload(owner, patient.user_id, patient.profile_id, b"as uploaded")
    target = tmp_path / "out.pdf"
    with pytest.raises(ConfigurationError, match="no pages yet"):
        await export_document(str(document), target)
    job = await claim(owner, "ocr")
    kept = f"{patient.profile_id}/pages/{job['payload']['run_id']}"
    pages = [page("first", number=1) | {"image_path": f"{kept}/1.jpg"}, page("second", number=2)]
    await owner.execute("select chartloom.save_ocr_pages($1, $2, $3)", job["job_id"], job["lease_token"], pages)
    await storage.put(f"{kept}/1.jpg", once(jpeg()))
    for wanted in (str(file), str(document)):
        await export_document(wanted, target)
        written = pdfium.PdfDocument(target)
        assert [read.get_textpage().get_text_range().strip() for read in written] == ["first", "second"]
        assert target.stat().st_mode & 0o777 == 0o600
        target.unlink()
    # Its image is gone: the words are not.
    await storage.delete(f"{kept}/1.jpg")
    await export_document(str(document), target)
    assert len(pdfium.PdfDocument(target)) == 2
    for unknown in (str(uuid4()), str(tmp_path / "nowhere.pdf")):
        with pytest.raises(ConfigurationError, match=r"no such document|no file that can be read"):
            await export_document(unknown, target)
