"""The text that a digital PDF carries itself, and whether it can be trusted."""

import ctypes
import re
import string
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c
from numpy.typing import NDArray

from .page_text import Line, ReadWord

_LIGATURES = {0xFB00 + i: text for i, text in enumerate(("ff", "fi", "fl", "ffi", "ffl", "ft", "st"))}
"""Split so that "fibrillation" is found however it was set. NFKC would do it too, but turns 10² into 102."""

_LINE_END_HYPHENS = "\x02\ufffe"
"""What PDFium answers for the hyphen at a line's end; the line break behind it is left out."""

_HYPHENS = {0xAD: "-", **{ord(hyphen): "-" for hyphen in _LINE_END_HYPHENS}}

_REPAIRS = _LIGATURES | _HYPHENS | dict.fromkeys([*range(0x00, 0x02), *range(0x03, 0x09), *range(0x0E, 0x1C)])

_WORD = rf"[^\s\0{_LINE_END_HYPHENS}]*[{_LINE_END_HYPHENS}]|[^\s\0{_LINE_END_HYPHENS}]+"
_WORD_OR_LINE_END = re.compile(rf"({_WORD})|[\r\n]")
_LINE_FEED, _CARRIAGE_RETURN = map(ord, "\n\r")
_IS_SPACE = np.array([chr(code).isspace() for code in range(0x3002)])
"""By code point; the last white space is 0x3000, and what comes behind is none, as the last one here."""
_NO_MEANING = "\ue000-\uf8ff\ufffd"
"""What fonts without a map give."""
_SPECIAL = re.compile(f"[{''.join(map(chr, _REPAIRS))}\ud800-\udfff{_NO_MEANING}]").search
"""Nearly no page has one: a character to be repaired, or without a meaning."""
_has_no_meaning = re.compile(f"[{_NO_MEANING}]").search

_EVERY = 3
"""Of so many words one is asked whether its font has a map: fonts go on for longer."""

_LETTERS = string.ascii_letters.encode()
_VOWELS = b"aeiouyAEIOUY"
_DEEPEST_FORM = 5
_FOUR_DOUBLES = ctypes.c_double * 4


def _quick(function: Any, answers: Any = ctypes.c_int) -> Callable[..., Any]:
    """The same function of PDFium in less than half the time, for the thousand calls a page.

    It takes C ints and what ``byref`` gives, unchecked, and keeps the interpreter's lock.
    """
    called: Callable[..., Any] = ctypes.PYFUNCTYPE(answers)(ctypes.cast(function, ctypes.c_void_p).value or 0)
    return called


_count_rects = _quick(pdfium_c.FPDFText_CountRects)
_get_rect = _quick(pdfium_c.FPDFText_GetRect)
_has_map_error = _quick(pdfium_c.FPDFText_HasUnicodeMapError)
_angle = _quick(pdfium_c.FPDFText_GetCharAngle, ctypes.c_float)
_unicode = _quick(pdfium_c.FPDFText_GetUnicode)


def _handle(text_page: Any) -> Any:
    """The text page as ``_quick`` functions take it."""
    return ctypes.byref(text_page.raw.contents)


class TextLayer(NamedTuple):
    """``blocks`` as ``page_text`` wants them; the shares are of the characters that aren't white space, 0 to 1."""

    blocks: list[list[Line]]
    text: str
    unmapped_share: float
    invisible_share: float
    image_share: float
    """Of the page's area, covered by its largest image."""

    @property
    def words(self) -> list[ReadWord]:
        return [word for block in self.blocks for line in block for word in line]

    @property
    def is_good(self) -> bool:
        """Whether the layer may say what the page shows; that it does, a sample has to prove."""
        characters = len(self.text)
        ascii_only = self.text.encode("ascii", "ignore")
        letters = len(ascii_only) - len(ascii_only.translate(None, _LETTERS))
        vowels = len(ascii_only) - len(ascii_only.translate(None, _VOWELS))
        # A scan whose letterhead or stamp is digital. A full letter over a background picture has 1 000 and more.
        is_picture = self.image_share > 0.5 and characters < 1000
        # Fonts without a Unicode map give private-use or shifted letters. English has 38 % vowels, a shifted alphabet
        # about 15 %; short texts vary too much to tell.
        is_shifted = letters > 100 and vowels / letters < 0.2
        return (
            characters >= 10
            and self.unmapped_share < 0.05
            # Nobody sees it: another program's recognition under a scan, or words put there for a machine to read.
            and self.invisible_share < 0.2
            and not is_picture
            and not is_shifted
        )


def turn_upright(page: Any, text_page: Any) -> None:
    """Rotates the page by 90 degree steps so that most of its text reads from left to right."""
    count = text_page.count_chars()
    handle = _handle(text_page)
    # Forty characters decide as well as all of them.
    angles = Counter(
        round(_angle(handle, i) / (3.14159265 / 2)) % 4
        for i in range(0, count, max(7, count // 40))
        if _unicode(handle, i) > ord(" ")
    )
    if not angles:
        return
    quarter, votes = angles.most_common(1)[0]
    shown = (quarter + page.get_rotation() // 90) % 4
    if shown and votes > angles.total() / 2:
        page.set_rotation((page.get_rotation() - 90 * shown) % 360)


def read_text_layer(page: Any, text_page: Any, width: int, height: int) -> TextLayer:
    """The text layer of a ``pypdfium2.PdfPage``, boxes in pixels of a page of ``width`` x ``height``."""
    characters = _characters(text_page)
    is_special = _SPECIAL(characters) is not None
    texts, starts, firsts = _words(characters) if is_special else _plain_words(characters)
    seen = sum(map(len, texts))
    handle = _handle(text_page)
    unmapped = _EVERY * sum(
        len(text)
        for text, start in zip(texts[::_EVERY], starts[::_EVERY], strict=True)
        if _has_map_error(handle, start) == 1
    )
    invisible = 0
    look = _look(page)
    if look.has_invisible:
        # A word has one look: its first character answers for all.
        spans = zip(texts, starts, strict=True)
        invisible = sum(len(text) for text, start in spans if not _is_visible(text_page, start))
    edges = _to_pixels(page, _boxes(text_page, texts, starts), width, height)
    if is_special:
        unmapped += sum(len(text) for text in texts if _has_no_meaning(text))
        texts = [_repaired(text) if _SPECIAL(text) else text for text in texts]
    # What ReadWord(...) does, and twice as fast.
    rows = zip(texts, zip(*edges.tolist(), strict=True), repeat(1.0), repeat(False))
    words = list(map(tuple.__new__, repeat(ReadWord), rows))
    blocks = _blocks(words, edges, firsts)
    if is_special:
        blocks = [[[word for word in line if word.text] for line in block] for block in blocks]
    return TextLayer(
        blocks=blocks,
        text="".join(texts),
        unmapped_share=unmapped / seen if seen else 0.0,
        invisible_share=invisible / seen if seen else 0.0,
        image_share=look.image_share,
    )


def _characters(text_page: Any) -> str:
    """A character for each of PDFium's; halves of a surrogate pair stay two."""
    count = text_page.count_chars()
    if count <= 0:
        return ""
    buffer = (ctypes.c_ushort * (count + 1))()
    written = pdfium_c.FPDFText_GetText(text_page, 0, count, buffer)
    # It leaves out what has no text, and then places would not be indices.
    if written == count + 1:
        text = bytes(buffer)[: 2 * count].decode("utf-16-le", "replace")
        # A pair of surrogates became one character, and half of one what has no meaning.
        if len(text) == count and "\ufffd" not in text:
            return text
    return _one_by_one(text_page, count)


def _one_by_one(text_page: Any, count: int) -> str:
    codes = (pdfium_c.FPDFText_GetUnicode(text_page, index) for index in range(count))
    return "".join(chr(code) if code < 0x110000 else "\ufffd" for code in codes)


def _plain_words(characters: str) -> tuple[list[str], list[int], list[int]]:
    """What ``_words`` gives, of a page without anything special, in a fifth of the time."""
    codes = np.frombuffer(characters.encode("utf-32-le"), np.uint32)
    is_space = np.ones(len(codes) + 1, np.bool_)
    _IS_SPACE.take(codes, mode="clip", out=is_space[1:])
    starts = np.flatnonzero(is_space[:-1] > is_space[1:])
    line_ends = np.flatnonzero((codes == _LINE_FEED) | (codes == _CARRIAGE_RETURN))
    lines_before = np.searchsorted(line_ends, starts)
    is_first = np.ones(len(starts), np.bool_)
    np.not_equal(lines_before[1:], lines_before[:-1], out=is_first[1:])
    return characters.split(), starts.tolist(), np.flatnonzero(is_first).tolist()


def _words(characters: str) -> tuple[list[str], list[int], list[int]]:
    """The words as they are, where each starts, and which of them begin a line."""
    texts: list[str] = []
    starts: list[int] = []
    firsts: list[int] = []
    is_new_line = True
    for match in _WORD_OR_LINE_END.finditer(characters):
        text = match[1]
        if text is None:
            is_new_line = True
            continue
        if is_new_line:
            firsts.append(len(texts))
        texts.append(text)
        starts.append(match.start())
        is_new_line = text[-1] in _LINE_END_HYPHENS
    return texts, starts, firsts


def _repaired(text: str) -> str:
    text = text.translate(_REPAIRS)
    # Halves of a surrogate pair come one by one; a lone half is no text.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return "".join(text.split())


def _is_visible(text_page: Any, index: int) -> bool:
    text_object = pdfium_c.FPDFText_GetTextObject(text_page, index)
    if not text_object:  # PDFium's own spaces and hyphens belong to none
        return True
    return bool(pdfium_c.FPDFTextObj_GetTextRenderMode(text_object) != pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE)


def _boxes(text_page: Any, texts: list[str], starts: list[int]) -> NDArray[np.float64]:
    """Left, top, right, bottom of each word, in the page's points. Two calls a word where characters would take ten."""
    handle = _handle(text_page)
    box = ctypes.create_string_buffer(ctypes.sizeof(_FOUR_DOUBLES))
    left, top, right, bottom = (ctypes.byref(box, offset) for offset in range(0, len(box), len(box) // 4))
    boxes: list[bytes] = []
    for text, start in zip(texts, starts, strict=True):
        count = _count_rects(handle, start, len(text))
        _get_rect(handle, 0, left, top, right, bottom)
        # A word in two fonts has a rectangle for each.
        boxes.append(box.raw if count == 1 else _around(text_page, count))
    return np.frombuffer(b"".join(boxes)).reshape(-1, 4)


def _around(text_page: Any, count: int) -> bytes:
    if count < 1:  # characters of no size are nowhere
        return bytes(_FOUR_DOUBLES())
    edges = [ctypes.c_double() for _ in range(4)]
    parts = []
    for part in range(count):
        pdfium_c.FPDFText_GetRect(text_page, part, *edges)
        parts.append([edge.value for edge in edges])
    # A generated hyphen has no area and would pull the box to the page's corner.
    solid = [part for part in parts if part[2] > part[0] or part[1] > part[3]] or parts
    left, top, right, bottom = zip(*solid, strict=True)
    return bytes(_FOUR_DOUBLES(min(left), max(top), max(right), min(bottom)))


def _to_pixels(page: Any, boxes: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """All x0, all y0, all x1, all y1.

    PDFium knows the crop box and the page's rotation: asked for three points, it tells the map.
    """
    x, y = ctypes.c_int(), ctypes.c_int()
    fine = 64  # it answers in whole pixels

    def device(px: float, py: float) -> tuple[float, float]:
        pdfium_c.FPDF_PageToDevice(page, 0, 0, width * fine, height * fine, 0, px, py, x, y)
        return x.value / fine, y.value / fine

    reach = 1000.0
    x_origin, y_origin = device(0.0, 0.0)
    x_along, y_along = device(reach, 0.0)
    x_up, y_up = device(0.0, reach)
    left, top, right, bottom = boxes.T
    edges = np.empty((4, len(boxes)))
    for low, high, origin, along, up in ((0, 2, x_origin, x_along, x_up), (1, 3, y_origin, y_along, y_up)):
        step_along, step_up = (along - origin) / reach, (up - origin) / reach
        one = origin + left * step_along + top * step_up
        other = origin + right * step_along + bottom * step_up
        np.minimum(one, other, out=edges[low])
        np.maximum(one, other, out=edges[high])
    return edges


def _blocks(words: list[ReadWord], edges: NDArray[np.float64], firsts: list[int]) -> list[list[Line]]:
    """Lines in the file's own order, parted where the next one isn't right below: a paragraph's gap or a new column."""
    if not words:
        return []
    _, y0, _, y1 = edges
    tops, bottoms = np.minimum.reduceat(y0, firsts), np.maximum.reduceat(y1, firsts)
    ends = [*firsts[1:], len(words)]
    heights = np.add.reduceat(y1 - y0, firsts) / np.subtract(ends, firsts)
    # Lines of a paragraph are 1.2 heights apart from top to top, capitals 0.7 high: gaps up to one height.
    gaps = tops[1:] - bottoms[:-1]
    follows = (gaps > -heights[1:]) & (gaps < 1.2 * np.maximum(heights[1:], 1.0))
    blocks: list[list[Line]] = [[]]
    for first, end, is_next in zip(firsts, ends, [True, *follows.tolist()], strict=True):
        if not is_next:
            blocks.append([])
        blocks[-1].append(words[first:end])
    return blocks


class _Look(NamedTuple):
    image_share: float
    has_invisible: bool


def _look(page: Any) -> _Look:
    """What the page's objects show: one walk for both questions."""
    left, bottom, right, top = page.get_bbox()
    area = (right - left) * (top - bottom)
    largest = 0.0
    has_invisible = False
    for kind, item in _objects(page):
        if kind == pdfium_c.FPDF_PAGEOBJ_TEXT:
            mode = pdfium_c.FPDFTextObj_GetTextRenderMode(item)
            has_invisible = has_invisible or mode == pdfium_c.FPDF_TEXTRENDERMODE_INVISIBLE
        elif kind == pdfium_c.FPDF_PAGEOBJ_IMAGE:
            x0, y0, x1, y1 = pdfium.PdfObject(item, page=page).get_bounds()
            shown = max(0.0, min(x1, right) - max(x0, left)) * max(0.0, min(y1, top) - max(y0, bottom))
            largest = max(largest, shown)
    return _Look(float(largest / area) if area > 0 else 0.0, has_invisible)


def _objects(page: Any) -> Iterator[tuple[int, Any]]:
    """Kind and handle of each object, those in forms too. ``page.get_objects`` takes twice as long."""
    holders = [(page, pdfium_c.FPDFPage_CountObjects, pdfium_c.FPDFPage_GetObject, 1)]
    for holder, count, get, depth in holders:
        for place in range(count(holder)):
            item = get(holder, place)
            kind = pdfium_c.FPDFPageObj_GetType(item)
            yield kind, item
            if kind == pdfium_c.FPDF_PAGEOBJ_FORM and depth < _DEEPEST_FORM:
                holders.append((item, pdfium_c.FPDFFormObj_CountObjects, pdfium_c.FPDFFormObj_GetObject, depth + 1))
