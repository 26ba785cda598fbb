"""A document as a searchable PDF: its page images, and over each the words that were read, invisible."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pikepdf
from pikepdf import Array, Dictionary, Name, Pdf, Stream

_EM = 0.5
"""The width of every character of a font that nobody sees; each word is stretched to its box."""


@dataclass(frozen=True)
class ReadPage:
    """A page as ``ocr_pages`` has it. ``jpeg``: its image, of that width and height, or None where none was kept.

    ``dpi``: of a photo nobody knows it.
    """

    width: int
    height: int
    words: Sequence[dict[str, Any]]
    jpeg: bytes | None
    dpi: int

    @property
    def points(self) -> float:
        """Of a pixel."""
        return 72 / self.dpi


def write_pdf(pages: Iterable[ReadPage], target: str) -> int:
    """Writes the file; returns how many pages it has."""
    with Pdf.new() as pdf:
        hidden = _hidden_font(pdf)
        shown = pdf.make_indirect(
            Dictionary(Type=Name.Font, Subtype=Name.Type1, BaseFont=Name.Helvetica, Encoding=Name.WinAnsiEncoding)
        )
        for page in pages:
            _add(pdf, page, hidden if page.jpeg is not None else shown)
        pdf.save(target)
        return len(pdf.pages)


def _add(pdf: Pdf, page: ReadPage, font: pikepdf.Object) -> None:
    width, height = page.width * page.points, page.height * page.points
    added = pdf.add_blank_page(page_size=(width, height))
    resources = Dictionary(Font=Dictionary(W=font))
    content = []
    if page.jpeg is not None:
        # As it is stored: no pixel is coded anew.
        image = Stream(
            pdf,
            page.jpeg,
            Type=Name.XObject,
            Subtype=Name.Image,
            Width=page.width,
            Height=page.height,
            ColorSpace=Name.DeviceGray,
            BitsPerComponent=8,
            Filter=Name.DCTDecode,
        )
        resources.XObject = Dictionary(P=image)
        content.append(f"q {width:.2f} 0 0 {height:.2f} 0 0 cm /P Do Q")
    content.append("BT")
    content += [_word(word, page) for word in page.words]
    content.append("ET")
    added.Resources = resources
    added.Contents = Stream(pdf, "\n".join(content).encode("ascii"))


def _word(word: dict[str, Any], page: ReadPage) -> str:
    x0, y0, x1, y1 = (side * page.points for side in word["box"])
    size = max(y1 - y0, 1.0)
    stretch = max(100 * (x1 - x0) / (_EM * size * len(word["text"])), 1.0)
    if page.jpeg is not None:
        # A space behind it, else a reader may join the words of a line.
        mode, shown = 3, (word["text"] + " ").encode("utf-16-be", "replace").hex()
    else:
        mode, shown = 0, (word["text"] + " ").encode("cp1252", "replace").hex()
    bottom = page.height * page.points - y1
    return f"/W {size:.2f} Tf {mode} Tr {stretch:.1f} Tz 1 0 0 1 {x0:.2f} {bottom:.2f} Tm <{shown}> Tj"


def _hidden_font(pdf: Pdf) -> pikepdf.Object:
    """Two bytes a character that mean themselves, all as wide, none with a shape: for every script alike."""
    ranges = "\n".join(f"<{high:02x}00> <{high:02x}ff> <{high:02x}00>" for high in range(256))
    # A hundred ranges a section, no more.
    lines = ranges.split("\n")
    sections = [lines[start : start + 100] for start in range(0, len(lines), 100)]
    body = "\n".join(f"{len(part)} beginbfrange\n" + "\n".join(part) + "\nendbfrange" for part in sections)
    cmap = (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /Itself def /CMapType 2 def\n"
        "1 begincodespacerange <0000> <ffff> endcodespacerange\n"
        f"{body}\nendcmap CMapName currentdict /CMap defineresource pop end end"
    )
    descriptor = pdf.make_indirect(
        Dictionary(
            Type=Name.FontDescriptor,
            FontName=Name.Hidden,
            Flags=4,
            FontBBox=Array([0, 0, 500, 1000]),
            ItalicAngle=0,
            Ascent=1000,
            Descent=0,
            CapHeight=1000,
            StemV=80,
        )
    )
    descendant = pdf.make_indirect(
        Dictionary(
            Type=Name.Font,
            Subtype=Name.CIDFontType2,
            BaseFont=Name.Hidden,
            CIDSystemInfo=Dictionary(
                Registry=pikepdf.String("Adobe"), Ordering=pikepdf.String("Identity"), Supplement=0
            ),
            FontDescriptor=descriptor,
            DW=int(1000 * _EM),
            CIDToGIDMap=Name.Identity,
        )
    )
    return pdf.make_indirect(
        Dictionary(
            Type=Name.Font,
            Subtype=Name.Type0,
            BaseFont=Name.Hidden,
            Encoding=Name("/Identity-H"),
            DescendantFonts=Array([descendant]),
            ToUnicode=Stream(pdf, cmap.encode("ascii")),
        )
    )
