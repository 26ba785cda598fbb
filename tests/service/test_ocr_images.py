"""The image that is kept of a page is the one that its boxes refer to: upright, and of the page's size."""

import io
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from services.ocr.document import Document
from services.ocr.limits import ReaderLimits
from shared.contract.pages import Page

from .ocr_documents import LETTER, pdf, text


def read(path: Path) -> tuple[Page, Image.Image]:
    document = Document(
        path, renderer="pypdfium2", engine="tesserocr", tesseract_command=None, limits=ReaderLimits(), ask=None
    )
    page = document.read(1)
    image = document.image(1)
    assert image is not None
    return page, Image.open(io.BytesIO(image))


def ink(image: Image.Image, page: Page) -> float:
    """The darkest grey in each word's box, at worst."""
    return max(image.crop(tuple(map(round, word.box))).getextrema()[0] for word in page.words)


@pytest.mark.parametrize("turn", [0, 90, 180])
def test_of_a_digital_page_however_it_is_turned(tmp_path: Path, turn: int) -> None:
    path = tmp_path / "letter.pdf"
    path.write_bytes(pdf(text(LETTER), page=b"/Rotate %d" % turn))
    page, image = read(path)
    assert page.text_source == "text_layer"
    assert (image.size, image.mode) == ((page.width, page.height), "L")
    assert ink(image, page) < 150


def test_of_a_scan_that_lay_askew(tmp_path: Path) -> None:
    sheet = Image.new("L", (1654, 2339), 255)
    for line in range(12):
        ImageDraw.Draw(sheet).text((150, 200 + 90 * line), "The patient has no fever today", font_size=44, fill=0)
    path = tmp_path / "scan.png"
    sheet.rotate(3, expand=True, fillcolor=255).save(path, dpi=(200, 200))
    page, image = read(path)
    assert page.text_source == "ocr"
    assert image.size == (page.width, page.height)
    assert image.size != sheet.size
    assert ink(image, page) < 150


def test_of_plain_text_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("No fever.")
    document = Document(
        path, renderer="pypdfium2", engine="tesserocr", tesseract_command=None, limits=ReaderLimits(), ask=None
    )
    document.read(1)
    assert document.image(1) is None
