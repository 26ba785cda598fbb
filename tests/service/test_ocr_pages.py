"""What comes out of a document: words where they are, upright, from the better source."""

import asyncio
import difflib
import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from bench.ocr import sheets
from bench.ocr.damage import KINDS
from samples.records import CLINIC_LETTER, DISCHARGE_LETTER, LAB_REPORT, truth
from services.ocr.letters import letters_of
from services.ocr.prose import as_coarse_as_prose
from services.ocr.reader import DocumentReader, ReaderLimits
from services.ocr.render import PdfPages
from shared.contract.pages import Page

from .ocr_documents import LETTER, SAMPLES, SCANS, pdf, stream, text

RECORDS = {
    "discharge-letter.pdf": DISCHARGE_LETTER,
    "clinic-letter-scan.pdf": CLINIC_LETTER,
    "lab-report-photo.jpg": LAB_REPORT,
}


@functools.cache
def read(path: Path) -> list[Page]:
    reader = DocumentReader(renderer="pypdfium2", engine="tesserocr", limits=ReaderLimits(), tesseract_command=None)
    return asyncio.run(reader.read(path))


def glyph_numbers(words: bytes) -> bytes:
    """What a subset of Arial without a Unicode map says: every letter 29 too low."""
    return bytes(c - 29 if c > 64 else c for c in words).replace(b"\\", b"\\\\")


def scan(name: str) -> Path:
    if not (SCANS / name).is_file():
        pytest.skip("the real scans are not on this machine: CHARTLOOM_SHARED says where")
    return SCANS / name


def likeness(found: str, expected: str) -> float:
    """0 to 1, of words in order."""
    return difflib.SequenceMatcher(None, found.split(), expected.split(), autojunk=False).ratio()


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], list[Page]]:
    def write_and_read(content: bytes) -> list[Page]:
        path = tmp_path / "document"
        path.write_bytes(content)
        return read.__wrapped__(path)

    return write_and_read


def assert_words_are_in_place(pages: list[Page]) -> None:
    for page in pages:
        end = 0
        for word in page.words:
            assert page.text[word.start : word.end] == word.text
            assert word.start >= end
            end = word.end
            x0, y0, x1, y1 = word.box
            assert 0 <= x0 < x1 <= page.width
            assert 0 <= y0 < y1 <= page.height
        if page.text_source == "ocr":
            assert "".join(page.text.split()) == "".join(word.text for word in page.words)


@pytest.mark.parametrize("name", RECORDS)
def test_every_word_is_where_its_offsets_and_its_box_say(name: str) -> None:
    assert_words_are_in_place(read(SAMPLES / name))


@pytest.mark.parametrize("name", ["linn.png", "rotated_skew.pdf", "c02-22.pdf"])
def test_every_word_of_a_real_scan_is_where_its_offsets_and_its_box_say(name: str) -> None:
    pages = read(scan(name))
    assert all(page.words for page in pages)
    assert_words_are_in_place(pages)


@pytest.mark.parametrize("name", RECORDS)
def test_samples_read_as_they_were_written(name: str) -> None:
    pages = read(SAMPLES / name)
    for page, record in zip(pages, RECORDS[name], strict=True):
        assert likeness(page.text, truth(record)) > 0.97


def test_digital_pages_come_from_the_text_layer_and_scans_from_recognition() -> None:
    assert {(page.text_source, page.engine) for page in read(SAMPLES / "discharge-letter.pdf")} == {
        ("text_layer", "pypdfium2")
    }
    assert {(page.text_source, page.engine) for page in read(SAMPLES / "clinic-letter-scan.pdf")} == {
        ("ocr", "tesserocr")
    }


def test_text_layer_boxes_are_on_the_ink() -> None:
    path = SAMPLES / "discharge-letter.pdf"
    page = read(path)[0]
    grey = PdfPages(path, "pypdfium2", ReaderLimits()).show(1)
    assert grey.size == (page.width, page.height)
    pixels = np.asarray(grey)
    boxes = np.zeros_like(pixels, dtype=bool)
    for word in page.words:
        x0, y0, x1, y1 = (round(edge) for edge in word.box)
        assert pixels[y0:y1, x0:x1].min() < 128, "a box without ink"
        boxes[y0 - 2 : y1 + 2, x0 - 2 : x1 + 2] = True
    assert np.count_nonzero((pixels < 128) & ~boxes) < 0.01 * np.count_nonzero(pixels < 128)


def test_boxes_of_prose_that_was_read_coarsely_are_those_of_its_text_layer(tmp_path: Path) -> None:
    sheet = sheets.letter(11)
    pixels = sheets.render(sheet, 300)
    assert as_coarse_as_prose(pixels, 300) is not None
    path, image = tmp_path / "letter.pdf", tmp_path / "letter.png"
    path.write_bytes(sheet.pdf)
    Image.fromarray(pixels).save(image, dpi=(300, 300))
    (written,), (recognised,) = read(path), read(image)
    scale = recognised.width / written.width
    pairs = [
        (np.array(told.box) * scale, np.array(found.box))
        for told, found in zip(written.words, recognised.words, strict=True)
    ]
    # A twenty-fifth of an inch, a space, to the left and right, and half a line up and down.
    off = np.array([np.abs(told - found) for told, found in pairs])
    assert off[:, [0, 2]].max() <= 12
    assert np.quantile(off[:, [0, 2]], 0.99) <= 8
    assert off[:, [1, 3]].max() <= 20
    assert np.median(off) <= 2


def test_letters_are_found_among_more_dots_than_sixteen_bits_can_count() -> None:
    page = np.full((1000, 1000), 255, np.uint8)
    page[1::2, 1::2] = 0
    page[100:200] = 255
    page[140:160, 500:510] = 0
    assert letters_of(page, 150).tolist() == [[500, 140, 10, 20]]


def test_prose_alone_is_read_coarsely(tmp_path: Path) -> None:
    """Numbers in columns lose their points, and small print its letters."""
    assert as_coarse_as_prose(sheets.render(sheets.two_columns(1), 300), 300) is not None
    assert as_coarse_as_prose(sheets.render(sheets.letter(2), 150), 150) is None
    assert as_coarse_as_prose(sheets.render(sheets.letter(2), 300)[::2, ::2], 300) is None
    written, found = 0, 0
    for seed in range(3):
        sheet = sheets.unruled_report(seed)
        pixels = KINDS["scan"](sheets.render(sheet, 300), seed)
        assert as_coarse_as_prose(pixels, 300) is None
        path = tmp_path / f"{seed}.png"
        Image.fromarray(pixels).save(path, dpi=(300, 300))
        (page,) = read(path)
        numbers = Counter(word for word in sheet.text.split() if any(character.isdigit() for character in word))
        written += numbers.total()
        found += (numbers & Counter(word.text for word in page.words)).total()
    assert found >= 0.85 * written


def test_two_columns_are_read_one_after_the_other() -> None:
    found = read(scan("linn.png"))[0].text
    expected = scan("linn.txt").read_text(encoding="utf-8")
    assert likeness(found, expected) > 0.9


def test_a_real_page_that_lies_on_its_side_and_askew_is_turned_upright() -> None:
    page = read(scan("rotated_skew.pdf"))[0]
    assert page.height > page.width
    assert likeness(page.text, scan("linn.txt").read_text(encoding="utf-8")) > 0.9


@pytest.mark.parametrize("turn", [Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270])
def test_a_photo_held_any_way_round_is_turned_upright(tmp_path: Path, turn: Image.Transpose) -> None:
    with Image.open(SAMPLES / "lab-report-photo.jpg") as photo:
        # The upper part is enough, and takes half the time.
        upright = ImageOps.exif_transpose(photo).crop((0, 0, 2480, 1700))
    path = tmp_path / "turned.jpg"
    upright.transpose(turn).save(path, quality=90)
    page = read(path)[0]
    assert page.width > page.height
    assert page.text.startswith("Calder Bay Pathology")


def test_sideways_text_in_a_digital_page_is_turned_upright(written: Callable[[bytes], list[Page]]) -> None:
    (page,) = written(pdf(text(LETTER, at=b"0 1 -1 0 300 50")))
    assert page.text_source == "text_layer"
    assert page.width > page.height
    first, second = page.words[0].box, page.words[1].box
    assert first[2] < second[0]
    assert first[1] == pytest.approx(second[1], abs=30)


def test_a_page_box_that_does_not_start_at_zero_shifts_the_words(written: Callable[[bytes], list[Page]]) -> None:
    (plain,) = written(pdf(text(LETTER)))
    (shifted,) = written(pdf(text(LETTER, at=b"1 0 0 1 150 800"), crop=b"100 100 695 942"))
    assert shifted.words[0].box == pytest.approx(plain.words[0].box, abs=2)


@pytest.mark.parametrize(
    ("reason", "content"),
    [
        ("invisible", text(LETTER, mode=3)),
        ("glyph numbers instead of letters", text(glyph_numbers(2 * LETTER))),
    ],
)
def test_a_text_layer_that_does_not_say_what_the_page_shows_is_not_trusted(
    written: Callable[[bytes], list[Page]], reason: str, content: bytes
) -> None:
    (page,) = written(pdf(content))
    assert page.text_source != "text_layer", reason


def says_something_else() -> dict[int, bytes]:
    """A font whose map to Unicode moves each letter by thirteen: the page shows one text, its layer says another."""
    moved = b"".join(
        b"<%02X> <%04X>\n" % (first + n, first + (n + 13) % 26) for first in (ord("a"), ord("A")) for n in range(26)
    )
    unicode_map = (
        b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /M def /CMapType 2 def "
        b"1 begincodespacerange <00> <FF> endcodespacerange 52 beginbfchar\n" + moved + b"endbfchar endcmap end end"
    )
    return {
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 100 0 R >>",
        100: stream(unicode_map),
    }


def test_a_text_layer_that_says_something_else_is_found_out(written: Callable[[bytes], list[Page]]) -> None:
    (page,) = written(pdf(text(LETTER), objects=says_something_else()))
    assert page.text_source == "ocr"
    assert page.corrections == ("text_layer_rejected",)
    assert likeness(page.text, LETTER.decode()) > 0.9


def test_words_that_nobody_sees_are_not_the_pages(written: Callable[[bytes], list[Page]]) -> None:
    (page,) = written(pdf(b"1 g " + text(LETTER)))
    assert (page.text_source, page.text) == ("blank", "")


def test_two_columns_of_a_text_layer_and_of_a_scan_are_read_one_after_the_other(tmp_path: Path) -> None:
    sheet = sheets.two_columns(1)
    path = tmp_path / "columns.pdf"
    path.write_bytes(sheet.pdf)
    scanned = tmp_path / "columns.png"
    Image.fromarray(sheets.render(sheet, 200)).save(scanned, dpi=(200, 200))
    for file, source in ((path, "text_layer"), (scanned, "ocr")):
        (page,) = read(file)
        assert page.text_source == source
        assert likeness(page.text, sheet.text) > 0.97


def test_notes_and_filled_fields_are_part_of_the_page(written: Callable[[bytes], list[Page]]) -> None:
    note = stream(text(b"Allergy: penicillin", at=b"1 0 0 1 5 5"), b"/Type /XObject /Subtype /Form /BBox [0 0 200 30]")
    note = note.replace(b"/BBox", b"/Resources << /Font << /F 3 0 R >> >> /BBox")
    annotation = b"<< /Type /Annot /Subtype /FreeText /F 4 /Rect [50 500 250 530] /AP << /N 101 0 R >> >>"
    (page,) = written(pdf(text(LETTER), page=b"/Annots [100 0 R]", objects={100: annotation, 101: note}))
    assert "Allergy: penicillin" in page.text


def test_pages_without_ink_are_blank(written: Callable[[bytes], list[Page]]) -> None:
    (page,) = written(pdf(b""))
    assert (page.text_source, page.text, page.words) == ("blank", "", ())


def test_the_grain_of_an_empty_scan_is_no_ink(tmp_path: Path) -> None:
    grain = np.random.default_rng(1).normal(225, 12, (1100, 850)).clip(0, 255).astype(np.uint8)
    path = tmp_path / "empty.png"
    Image.fromarray(grain).save(path, dpi=(150, 150))
    assert read(path)[0].text_source == "blank"


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 400), (90, 40)])
def test_an_image_of_a_few_pixels_is_a_page(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, size[::-1], dtype=np.uint8)
    path = tmp_path / "tiny.png"
    Image.fromarray(pixels).save(path, dpi=(300, 300))
    page = read(path)[0]
    assert page.width >= size[0]
    assert_words_are_in_place([page])


def test_every_frame_of_a_tiff_is_a_page(tmp_path: Path) -> None:
    frames = [Image.new("L", (200, 300), 255) for _ in range(3)]
    path = tmp_path / "fax.tiff"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert [page.page for page in read(path)] == [1, 2, 3]


def test_a_phones_photo_is_read_as_it_comes() -> None:
    (page,) = read(Path(__file__).with_name("photo.heic"))
    assert "Apixaban 5 mg twice daily" in page.text


def test_of_a_moving_picture_the_first_moment_is_read(tmp_path: Path) -> None:
    frames = [Image.new("L", (200, 300), 255) for _ in range(3)]
    path = tmp_path / "moving"
    frames[0].save(path, "WEBP", save_all=True, append_images=[frame.point(lambda _: 0) for frame in frames[1:]])
    assert [page.text_source for page in read(path)] == ["blank"]


def test_plain_text_is_its_own_text_to_the_byte(written: Callable[[bytes], list[Page]]) -> None:
    content = "Plan:\r\n\tmetformin 500 mg – twice daily\r\n\n" + "x" * 300 + "\nno fever"
    (page,) = written(content.encode())
    assert page.text == content
    assert_words_are_in_place([page])
    assert [word.text for word in page.words] == content.split()


def test_a_page_larger_than_the_limit_is_scaled_down_not_refused(tmp_path: Path) -> None:
    limits = ReaderLimits(max_page_pixels=1_000_000)
    reader = DocumentReader(renderer="pypdfium2", engine="tesserocr", limits=limits, tesseract_command=None)
    page = asyncio.run(reader.read(SAMPLES / "discharge-letter.pdf"))[0]
    assert 900_000 < page.width * page.height <= 1_000_000
    assert_words_are_in_place([page])
