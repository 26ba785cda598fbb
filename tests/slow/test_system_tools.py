"""A system's own poppler and Tesseract, where they are installed and wanted."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.embedded_postgres import EmbeddedPostgres
from tests.end_to_end.conftest import SAMPLES, process
from tests.end_to_end.test_documents import assert_grounded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    EmbeddedPostgres(tmp_path / "home").remove()


@pytest.mark.skipif(
    shutil.which("pdftoppm") is None or shutil.which("tesseract") is None,
    reason="poppler-utils and tesseract-ocr are not installed on this machine",
)
def test_the_samples_are_read_by_the_systems_own_tools(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARTLOOM_HOME", str(home))
    monkeypatch.setenv("OCR_ENGINE", "pytesseract")
    monkeypatch.setenv("OCR_RENDERER", "pdf2image")
    documents = process(*SAMPLES, out=tmp_path / "out.json")
    for document in documents:
        assert_grounded(document)
        assert len(document["entities"]) >= 10
