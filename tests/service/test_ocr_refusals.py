"""What isn't read is refused with a code that says why and a message that says what to do."""

import zlib
from pathlib import Path

import pytest

from services.ocr.reader import DocumentReader, ReaderLimits
from services.ocr.refusal import ADVICE
from shared.errors import ConfigurationError, TerminalError

from .ocr_documents import LETTER, SAMPLES, encrypted_pdf, pdf, text


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    size = width.to_bytes(4) + height.to_bytes(4)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", size + b"\x08\0\0\0\0")
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


async def refusal(path: Path, limits: ReaderLimits | None = None) -> TerminalError:
    reader = DocumentReader(
        renderer="pypdfium2", engine="tesserocr", limits=limits or ReaderLimits(), tesseract_command=None
    )
    with pytest.raises(TerminalError) as caught:
        await reader.read(path)
    return caught.value


@pytest.mark.parametrize(
    ("code", "content"),
    [
        ("file_empty", b""),
        ("file_type_unknown", b"PK\x03\x04 a zip archive \x00\x01"),
        ("file_type_unknown", b"GIF89a\x01\x00\x01\x00"),
        ("file_encrypted", encrypted_pdf()),
        ("file_corrupt", b"%PDF-1.7\n and nothing that follows"),
        ("file_corrupt", pdf(text(LETTER))[:120]),
        ("file_corrupt", (SAMPLES / "lab-report-photo.jpg").read_bytes()[:100_000]),
        ("page_too_large", png_header(60_000, 60_000)),
        ("page_too_large", png_header(11_000, 11_000)),
    ],
)
async def test_a_file_that_cannot_be_read_says_why_and_what_to_do(tmp_path: Path, code: str, content: bytes) -> None:
    path = tmp_path / "Ashdown-Margaret.pdf"  # the name is part of the record, and lies about the kind
    path.write_bytes(content)
    error = await refusal(path)
    assert error.code == code
    assert error.message == ADVICE[code]
    assert "Ashdown" not in repr(error)
    assert error.__cause__ is None


@pytest.mark.parametrize(
    ("code", "limits"),
    [
        ("file_too_large", ReaderLimits(max_bytes=1000)),
        ("file_too_long", ReaderLimits(max_pages=1)),
    ],
)
async def test_a_document_beyond_the_limits_is_refused(code: str, limits: ReaderLimits) -> None:
    assert (await refusal(SAMPLES / "discharge-letter.pdf", limits)).code == code


async def test_a_text_longer_than_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("word " * 1000)
    assert (await refusal(path, ReaderLimits(max_text_bytes=4000))).code == "file_too_large"


def test_a_missing_program_is_found_before_the_first_document(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for renderer, engine in (("pdf2image", "tesserocr"), ("pypdfium2", "pytesseract")):
        with pytest.raises(ConfigurationError) as caught:
            DocumentReader(renderer=renderer, engine=engine, limits=ReaderLimits(), tesseract_command=None)
        assert caught.value.code == "program_missing"
