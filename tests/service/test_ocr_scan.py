"""What a file is and holds is found before anything of it is rendered, and a policy says what is done about it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from services.ocr.limits import ReaderLimits
from services.ocr.scan.policy import DEFAULT_POLICY, FindingKind, Policy
from services.ocr.scan.scanner import Announced, Scanner, objection
from services.ocr.scan.verdict import Verdict
from services.ocr.settings import OcrSettings
from tests.hostile.others import OTHERS, paper
from tests.hostile.pdf_writer import one_page
from tests.hostile.pdfs import PDFS

from .ocr_documents import SAMPLES
from .ocr_service import inspectable

NOTHING = Announced(None, None)


async def scanned(
    path: Path, announced: Announced = NOTHING, *, limits: ReaderLimits | None = None, policy: Policy = DEFAULT_POLICY
) -> Verdict:
    async with inspectable(path, limits) as document:
        return await Scanner(policy=policy, antivirus=None).scan(document, announced)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def to_file(content: bytes) -> Path:
        path = tmp_path / "upload"
        path.write_bytes(content)
        return path

    return to_file


@pytest.mark.parametrize(
    ("name", "kind", "decision"),
    [
        ("JavaScript on opening", "javascript", "flag"),
        ("JavaScript by escaped names", "javascript", "flag"),
        ("JavaScript in an object stream", "javascript", "flag"),
        ("JavaScript in a name tree", "javascript", "flag"),
        ("a launch", "launch", "quarantine"),
        ("a launch in an object stream, by escaped names", "launch", "quarantine"),
        ("a launch as what comes next", "launch", "quarantine"),
        ("an embedded EICAR", "embedded_file", "quarantine"),
        ("rich media", "rich_media", "flag"),
        ("a form that sends", "submit_form", "flag"),
        ("an XFA form", "xfa", "flag"),
        ("PDF and ZIP", "polyglot", "flag"),
        ("PDF behind a program", "polyglot", "flag"),
        ("PDF behind a page of script", "polyglot", "flag"),
        ("JPEG and PDF", "polyglot", "flag"),
        ("PNG and ZIP", "polyglot", "flag"),
    ],
)
async def test_active_and_ambiguous_content_is_found_however_it_is_written(
    write: Callable[[bytes], Path], name: str, kind: FindingKind, decision: str
) -> None:
    verdict = await scanned(write({**PDFS, **OTHERS}[name]()))
    assert kind in {finding.kind for finding in verdict.findings}
    assert verdict.decision == decision


@pytest.mark.parametrize(
    "path", sorted(SAMPLES.glob("*.*g")) + sorted(SAMPLES.glob("*.pdf")), ids=lambda path: path.name
)
async def test_an_ordinary_record_is_allowed(path: Path) -> None:
    verdict = await scanned(path, Announced(path.suffix[1:], None))
    assert (verdict.decision, verdict.reason, verdict.findings) == ("allow", None, ())
    assert verdict.antivirus.status == "not_scanned"
    assert objection(verdict) is None


async def test_opening_at_a_page_and_a_web_link_are_no_findings(write: Callable[[bytes], Path]) -> None:
    link = b"/Annots [<< /Type /Annot /Subtype /Link /Rect [0 0 9 9] /A << /S /URI /URI (https://x) >> >>]"
    for opening in (b"/OpenAction [3 0 R /Fit]", b"/OpenAction << /S /GoTo /D [3 0 R /Fit] >>"):
        assert (await scanned(write(one_page(page=link, catalog=opening)))).findings == ()


async def test_words_that_only_look_like_names_are_no_findings(write: Callable[[bytes], Path]) -> None:
    harmless = one_page(b"(/JavaScript /Launch) Tj", catalog=b"/Title (/S /Launch /JS) /Launchpad 1 /JSX 2")
    assert (await scanned(write(harmless))).decision == "allow"


async def test_the_policy_decides(write: Callable[[bytes], Path]) -> None:
    path = write(PDFS["an attachment"]())
    assert (await scanned(path, policy={**DEFAULT_POLICY, "embedded_file": "flag"})).decision == "flag"
    assert (await scanned(path, policy={**DEFAULT_POLICY, "embedded_file": "allow"})).decision == "allow"
    held = objection(await scanned(path))
    assert held is not None
    assert held.code == "file_has_active_content"
    assert "another file inside it" in held.message


def test_a_setting_changes_a_row_of_the_policy_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCR_POLICY", '{"javascript": "quarantine"}')
    settings = OcrSettings(database_url="postgresql://x", storage_url="file:///x")
    assert settings.ocr_policy == {**DEFAULT_POLICY, "javascript": "quarantine"}


@pytest.mark.parametrize(
    ("extension", "mime_type", "agrees"),
    [
        ("pdf", "application/pdf", True),
        ("PDF", "application/pdf; charset=binary", True),
        (None, "application/octet-stream", True),
        (None, None, True),
        ("jpg", None, False),
        ("pdf", "image/jpeg", False),
        ("exe", "application/pdf", False),
    ],
)
async def test_a_name_or_a_type_that_is_another_is_noted(
    extension: str | None, mime_type: str | None, agrees: bool
) -> None:
    verdict = await scanned(SAMPLES / "discharge-letter.pdf", Announced(extension, mime_type))
    assert {finding.kind for finding in verdict.findings} == (set() if agrees else {"type_mismatch"})
    assert verdict.file_kind == "pdf"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nothing", "file_empty"),
        ("ZIP", "file_type_unknown"),
        ("a text with a NUL", "file_type_unknown"),
        ("a password", "file_encrypted"),
        ("a header and nothing", "file_corrupt"),
        ("JPEG and nothing", "file_corrupt"),
        ("100 000 pages", "file_too_long"),
        ("2 000 000 000 pages in one", "file_too_long"),
        ("TIFF of 10 000 frames", "file_too_long"),
        ("PNG of 3 600 000 000 pixels", "page_too_large"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_a_reason_before_it_is_rendered(
    write: Callable[[bytes], Path], name: str, reason: str
) -> None:
    verdict = await scanned(write({**PDFS, **OTHERS}[name]()))
    assert (verdict.decision, verdict.reason) == ("refuse", reason)


async def test_limits_are_settings(write: Callable[[bytes], Path]) -> None:
    for limits, reason in (
        (ReaderLimits(max_bytes=1000), "file_too_large"),
        (ReaderLimits(max_pages=1), "file_too_long"),
        (ReaderLimits(max_objects=3), "file_too_complex"),
        (ReaderLimits(max_object_bytes=10), "file_too_complex"),
    ):
        assert (await scanned(SAMPLES / "discharge-letter.pdf", limits=limits)).reason == reason
    small = ReaderLimits(max_image_pixels=10_000)
    assert (await scanned(write(paper("PNG")), limits=small)).reason == "page_too_large"
