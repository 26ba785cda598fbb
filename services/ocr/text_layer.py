"""The text that a digital PDF carries itself, and whether it can be trusted."""

import ctypes
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import pypdfium2.raw as pdfium_c

from shared.contract.pages import Box

from .page_text import Line, ReadWord

_LIGATURES = {0xFB00 + i: text for i, text in enumerate(("ff", "fi", "fl", "ffi", "ffl", "ft", "st"))}
"""Split so that "fibrillation" is found however it was set. NFKC would do it too, but turns 10² into 102."""

_LINE_END_HYPHENS = (0x02, 0xFFFE)
"""What PDFium answers for the hyphen at a line's end; the line break behind it is left out."""

_HYPHENS = {0xAD: "-", **dict.fromkeys(_LINE_END_HYPHENS, "-")}

_REPAIRS = _LIGATURES | _HYPHENS | dict.fromkeys([*range(0x00, 0x02), *range(0x03, 0x09), *range(0x0E, 0x1C)])

_VOWELS = frozenset("aeiouyAEIOUY")


class TextLayer(NamedTuple):
    """``blocks`` as ``page_text`` wants them; the shares are of the characters that aren't white space, 0 to 1."""

    blocks: list[list[Line]]
    text: str
    unmapped_share: float
    invisible_share: float
    image_share: float
    """Of the page's area, covered by its largest image."""

    @property
    def is_good(self) -> bool:
        """Whether the layer says what the page shows, so that recognition can be skipped."""
        characters = len(self.text)
        letters = [c for c in self.text if c.isascii() and c.isalpha()]
        # A scan whose letterhead or stamp is digital. A full letter over a background picture has 1 000 and more.
        is_picture = self.image_share > 0.5 and characters < 1000
        # Fonts without a Unicode map give private-use or shifted letters. English has 38 % vowels, a shifted alphabet
        # about 15 %; short texts vary too much to tell.
        is_shifted = len(letters) > 100 and sum(c in _VOWELS for c in letters) / len(letters) < 0.2
        return (
            characters >= 10
            and self.unmapped_share < 0.05
            # Nobody sees it: another program's recognition under a scan, or words put there for a machine to read.
            and self.invisible_share < 0.2
            and not is_picture
            and not is_shifted
        )


class _Character(NamedTuple):
    code: int
    left: float
    bottom: float
    right: float
    top: float


def turn_upright(page: Any) -> None:
    """Rotates the page by 90 degree steps so that most of its text reads from left to right."""
    text_page = page.get_textpage()
    count = text_page.count_chars()
    # Every seventh character decides as well as all of them, at a seventh of the time.
    angles = Counter(
        round(pdfium_c.FPDFText_GetCharAngle(text_page, i) / (3.14159265 / 2)) % 4
        for i in range(0, count, 7)
        if pdfium_c.FPDFText_GetUnicode(text_page, i) > ord(" ")
    )
    if not angles:
        return
    quarter, votes = angles.most_common(1)[0]
    shown = (quarter + page.get_rotation() // 90) % 4
    if shown and votes > angles.total() / 2:
        page.set_rotation((page.get_rotation() - 90 * shown) % 360)


def read_text_layer(page: Any, width: int, height: int) -> TextLayer:
    """The text layer of a ``pypdfium2.PdfPage``, boxes in pixels of a page of ``width`` x ``height``."""
    text_page = page.get_textpage()
    lines: list[list[ReadWord]] = [[]]
    word: list[_Character] = []
    seen = unmapped = invisible = 0
    is_mapped = is_visible = True

    def finish_word() -> None:
        text = "".join(map(chr, (c.code for c in word))).translate(_REPAIRS)
        # Halves of a surrogate pair come one by one; a lone half is no text.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        text = "".join(text.split())
        if text:
            lines[-1].append(ReadWord(text, _to_pixels(page, word, width, height), 1.0))
        word.clear()

    for index, code in _codes(text_page):
        if chr(code).isspace() or code == 0:
            finish_word()
            if code in (0x0A, 0x0D) and lines[-1]:
                lines.append([])
            continue
        seen += 1
        # A word has one font and one look: its first character answers for all, which halves the calls.
        if not word:
            is_mapped = pdfium_c.FPDFText_HasUnicodeMapError(text_page, index) != 1
            is_visible = _is_visible(text_page, index)
        unmapped += not is_mapped or code == 0xFFFD or 0xE000 <= code < 0xF900
        invisible += not is_visible
        word.append(_Character(code, *_char_box(text_page, index)))
        if code in _LINE_END_HYPHENS:
            finish_word()
            lines.append([])
    finish_word()

    blocks = _blocks([line for line in lines if line])
    return TextLayer(
        blocks=blocks,
        text="".join(w.text for block in blocks for line in block for w in line),
        unmapped_share=unmapped / seen if seen else 0.0,
        invisible_share=invisible / seen if seen else 0.0,
        image_share=_largest_image_share(page),
    )


def _codes(text_page: Any) -> Iterator[tuple[int, int]]:
    for index in range(text_page.count_chars()):
        code = pdfium_c.FPDFText_GetUnicode(text_page, index)
        yield index, code if code <= sys.maxunicode else 0xFFFD


def _is_visible(text_page: Any, index: int) -> bool:
    text_object = pdfium_c.FPDFText_GetTextObject(text_page, index)
    if not text_object:  # PDFium's own spaces and hyphens belong to none
        return True
    return bool(pdfium_c.FPDFTextObj_GetTextRenderMode(text_object) != pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE)


def _char_box(text_page: Any, index: int) -> tuple[float, float, float, float]:
    left, right, bottom, top = ctypes.c_double(), ctypes.c_double(), ctypes.c_double(), ctypes.c_double()
    pdfium_c.FPDFText_GetCharBox(text_page, index, left, right, bottom, top)
    return left.value, bottom.value, right.value, top.value


def _to_pixels(page: Any, word: list[_Character], width: int, height: int) -> Box:
    # A generated hyphen has no area and would pull the box to the page's corner.
    solid = [c for c in word if c.right > c.left or c.top > c.bottom] or word
    left, right = min(c.left for c in solid), max(c.right for c in solid)
    bottom, top = min(c.bottom for c in solid), max(c.top for c in solid)
    x, y = ctypes.c_int(), ctypes.c_int()
    corners = []
    # PDFium knows the crop box and the page's rotation.
    for px, py in ((left, top), (right, bottom)):
        pdfium_c.FPDF_PageToDevice(page, 0, 0, width, height, 0, px, py, x, y)
        corners.append((float(x.value), float(y.value)))
    (x0, y0), (x1, y1) = corners
    return (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))


def _blocks(lines: list[list[ReadWord]]) -> list[list[Line]]:
    """Lines in the file's own order, parted where the next one isn't right below: a paragraph's gap or a new column."""
    blocks: list[list[Line]] = []
    above: tuple[float, float] | None = None
    for line in lines:
        top = min(word.box[1] for word in line)
        bottom = max(word.box[3] for word in line)
        text_height = statistics.median(word.box[3] - word.box[1] for word in line)
        # Lines of a paragraph are 1.2 heights apart from top to top, capitals 0.7 high: gaps up to one height.
        if above is None or not -text_height < top - above[1] < 1.2 * max(text_height, 1.0):
            blocks.append([])
        blocks[-1].append(line)
        above = (top, bottom)
    return blocks


def _largest_image_share(page: Any) -> float:
    left, bottom, right, top = page.get_bbox()
    area = (right - left) * (top - bottom)
    if area <= 0:
        return 0.0
    largest = 0.0
    for image in page.get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_IMAGE], max_depth=5):
        x0, y0, x1, y1 = image.get_bounds()
        shown = max(0.0, min(x1, right) - max(x0, left)) * max(0.0, min(y1, top) - max(y0, bottom))
        largest = max(largest, shown)
    return float(largest / area)
