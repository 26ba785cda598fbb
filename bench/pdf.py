"""A PDF with a text layer, a page for each list of lines, written by hand: no benchmark needs a library for that."""

from collections.abc import Sequence

FONT_SIZE = 11
LEADING = 15
TOP = 780
LEFT = 60


def text_pdf(pages: Sequence[Sequence[str]]) -> bytes:
    """A4. The lines are ASCII, and short enough for the page: nothing is wrapped."""
    numbers = [4 + 2 * place for place in range(len(pages))]
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{' '.join(f'{number} 0 R' for number in numbers)}] >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, lines in zip(numbers, pages, strict=True):
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] "
            b"/Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>" % (number + 1)
        )
        shown = b"\n".join(b"(%s) Tj T*" % _escaped(line) for line in lines)
        content = b"BT /F1 %d Tf %d TL %d %d Td\n%s\nET" % (FONT_SIZE, LEADING, LEFT, TOP, shown)
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    return _file(objects)


def _escaped(line: str) -> bytes:
    return line.translate({ord(c): f"\\{c}" for c in "\\()"}).encode("ascii")


def _file(objects: Sequence[bytes]) -> bytes:
    body = b"%PDF-1.4\n"
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size = len(objects) + 1
    return (
        body
        + b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table)
        + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (size, len(body))
    )
