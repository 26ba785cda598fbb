"""Small documents written by hand, and where the larger ones are."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
SCANS = Path(os.environ.get("CHARTLOOM_SHARED", ROOT.parent / "shared")) / "data" / "scans"

LETTER = b"The patient was reviewed in clinic today and reports no chest pain or breathlessness since the last visit."


def pdf(
    *contents: bytes,
    page: bytes = b"",
    crop: bytes = b"0 0 595 842",
    objects: dict[int, bytes] | None = None,
    trailer: bytes = b"",
) -> bytes:
    """A PDF with a page for every content stream; ``objects`` are more of them, from number 100."""
    numbered: dict[int, bytes] = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        **(objects or {}),
    }
    kids = b""
    for index, content in enumerate(contents):
        number = 10 + 2 * index
        kids += b"%d 0 R " % number
        numbered[number] = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 1000 1000] /CropBox [%s] /Contents %d 0 R "
            b"/Resources << /Font << /F 3 0 R >> /Pattern << /P 100 0 R >> >> %s >>" % (crop, number + 1, page)
        )
        numbered[number + 1] = stream(content)
    numbered[2] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(contents), kids)
    out = bytearray(b"%PDF-1.7\n")
    offsets: dict[int, int] = {}
    for number, body in sorted(numbered.items()):
        offsets[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    xref = len(out)
    out += b"xref\n0 1\n0000000000 65535 f \n"
    for number, offset in sorted(offsets.items()):
        out += b"%d 1\n%010d 00000 n \n" % (number, offset)
    out += b"trailer << /Root 1 0 R /Size 200 %s >>\nstartxref\n%d\n%%%%EOF\n" % (trailer, xref)
    return bytes(out)


def stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), entries, content)


def text(words: bytes, *, at: bytes = b"1 0 0 1 50 700", mode: int = 0) -> bytes:
    return b"BT /F 9 Tf %d Tr %s Tm (%s) Tj ET" % (mode, at, words)


def endless_pdf() -> bytes:
    """A first page that reads at once and a second that PDFium paints for minutes: tiles 0.001 points apart."""
    tile = stream(
        b"0 0 1 1 re f",
        b"/Type /Pattern /PatternType 1 /PaintType 1 /TilingType 1 /BBox [0 0 1 1] /XStep 0.001 /YStep 0.001 "
        b"/Resources << >>",
    )
    return pdf(text(LETTER), b"/Pattern cs /P scn 0 0 595 842 re f", objects={100: tile})


def encrypted_pdf() -> bytes:
    """Needs a password that nobody knows: its check value fits none."""
    check = b"/O <%s> /U <%s>" % (b"41" * 32, b"42" * 32)
    lock = b"<< /Filter /Standard /V 1 /R 2 /P -4 %s >>" % check
    return pdf(text(LETTER), objects={101: lock}, trailer=b"/Encrypt 101 0 R /ID [<00> <00>]")
