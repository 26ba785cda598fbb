"""A searchable PDF shows the page image and nothing else, and its words are found where they stand."""

import io
from pathlib import Path

import pypdfium2 as pdfium
import pytest
from PIL import Image

from cli.searchable_pdf import ReadPage, write_pdf

WIDTH, HEIGHT, DPI = 1000, 1400, 200
POINTS_PER_PIXEL = 72 / DPI
WORDS = [
    {"text": "Haemoglobin", "box": [100, 200, 320, 240]},
    {"text": "≥", "box": [340, 200, 360, 240]},
    {"text": "104", "box": [380, 200, 440, 240]},
    {"text": "β-blocker", "box": [100, 300, 300, 345]},
]


def jpeg() -> bytes:
    encoded = io.BytesIO()
    Image.new("L", (WIDTH, HEIGHT), 200).save(encoded, "JPEG")
    return encoded.getvalue()


def test_words_of_any_script_are_found_at_their_boxes_and_not_seen(tmp_path: Path) -> None:
    target = tmp_path / "out.pdf"
    image = jpeg()
    assert (
        write_pdf([ReadPage(WIDTH, HEIGHT, WORDS, image, DPI), ReadPage(WIDTH, HEIGHT, [], image, DPI)], str(target))
        == 2
    )
    assert image in target.read_bytes(), "the image is kept as it was stored"
    page = pdfium.PdfDocument(target)[0]
    assert page.get_size() == pytest.approx((WIDTH * POINTS_PER_PIXEL, HEIGHT * POINTS_PER_PIXEL))
    text = page.get_textpage()
    assert text.get_text_range().split() == [word["text"] for word in WORDS]
    for word in WORDS:
        found = text.search(str(word["text"])).get_next()
        assert found is not None
        boxes = [text.get_charbox(index, loose=True) for index in range(found[0], found[0] + found[1])]
        left, right = min(box[0] for box in boxes), max(box[2] for box in boxes)
        x0, _, x1, _ = word["box"]
        assert (left, right) == pytest.approx((x0 * POINTS_PER_PIXEL, x1 * POINTS_PER_PIXEL), abs=3)
    shown = page.render(scale=1).to_pil().convert("L")
    assert max(shown.getextrema()) - min(shown.getextrema()) <= 2, "nothing is drawn over the image"


def test_a_page_without_an_image_shows_its_words(tmp_path: Path) -> None:
    target = tmp_path / "out.pdf"
    write_pdf([ReadPage(WIDTH, HEIGHT, WORDS[2:3], None, DPI)], str(target))
    page = pdfium.PdfDocument(target)[0]
    assert page.get_textpage().get_text_range().split() == ["104"]
    assert page.render(scale=1).to_pil().convert("L").getextrema()[0] < 100
