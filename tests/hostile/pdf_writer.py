"""PDFs written object by object, so that each may be wrong in its own way."""

import struct
import zlib
from collections.abc import Mapping

LETTER = b"The patient was reviewed in clinic today and reports no chest pain or breathlessness since the last visit."
TEXT = b"BT /F 9 Tf 50 700 Td (%s) Tj ET" % LETTER


def stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), entries, content)


def flate(content: bytes, entries: bytes = b"") -> bytes:
    return stream(zlib.compress(content, 9), b"/Filter /FlateDecode " + entries)


def zeros(megabytes: int, byte: bytes = b"\0", times: int = 1) -> bytes:
    """So many megabytes of one byte, compressed, and what comes out compressed again and again."""
    megabyte = byte * 2**20
    compressor = zlib.compressobj(9)
    head = compressor.compress(b"") + compressor.flush(zlib.Z_FULL_FLUSH)
    # What lies between two full flushes may be repeated: a gigabyte is made in no time.
    block = compressor.compress(megabyte) + compressor.flush(zlib.Z_FULL_FLUSH)
    checksum = 1
    for _ in range(megabytes):
        checksum = zlib.adler32(megabyte, checksum)
    packed = head + block * megabytes + b"\x03\x00" + checksum.to_bytes(4)
    for _ in range(times - 1):
        packed = zlib.compress(packed, 9)
    return packed


def write(objects: Mapping[int, bytes], *, trailer: bytes = b"/Root 1 0 R", header: bytes = b"%PDF-1.7\n") -> bytes:
    """The objects with a cross-reference table that is right."""
    out = bytearray(header)
    lines = [b"0 1\n0000000000 65535 f \n"]
    for number, body in sorted(objects.items()):
        lines.append(b"%d 1\n%010d 00000 n \n" % (number, len(out)))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    size = max(objects) + 1
    out += b"xref\n%s" % b"".join(lines)
    out += b"trailer << /Size %d %s >>\nstartxref\n%d\n%%%%EOF\n" % (size, trailer, start)
    return bytes(out)


def one_page(
    content: bytes = TEXT,
    *,
    contents: bytes | None = None,
    resources: bytes = b"",
    page: bytes = b"",
    box: bytes = b"0 0 595 842",
    catalog: bytes = b"",
    objects: Mapping[int, bytes] | None = None,
    trailer: bytes = b"",
) -> bytes:
    """A page with these contents (``contents`` is the whole stream object); more objects from number 10 on."""
    return write(
        {
            1: b"<< /Type /Catalog /Pages 2 0 R %s >>" % catalog,
            2: b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
            3: b"<< /Type /Page /Parent 2 0 R /MediaBox [%s] /Contents 4 0 R "
            b"/Resources << /Font << /F 5 0 R >> %s >> %s >>" % (box, resources, page),
            4: stream(content) if contents is None else contents,
            5: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            **(objects or {}),
        },
        trailer=b"/Root 1 0 R " + trailer,
    )


def with_object_stream(hidden: Mapping[int, bytes], catalog: bytes, *, packed: bytes | None = None) -> bytes:
    """A page whose objects ``hidden`` (from 10 on) are in an object stream, found by a cross-reference stream.

    ``packed`` stands in for the stream's own compressed contents.
    """
    bodies = b" ".join(hidden.values())
    places, offset = [], 0
    for number, body in hidden.items():
        places.append(b"%d %d" % (number, offset))
        offset += len(body) + 1
    index = b" ".join(places) + b" "
    plain: dict[int, bytes] = {
        1: b"<< /Type /Catalog /Pages 2 0 R %s >>" % catalog,
        2: b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
        3: b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R "
        b"/Resources << /Font << /F 5 0 R >> >> >>",
        4: stream(TEXT),
        5: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        6: stream(
            zlib.compress(index + bodies, 1) if packed is None else packed,
            b"/Type /ObjStm /N %d /First %d /Filter /FlateDecode" % (len(hidden), len(index)),
        ),
    }
    out = bytearray(b"%PDF-1.7\n")
    rows = {0: (0, 0, 65535)}
    for number, body in plain.items():
        rows[number] = (1, len(out), 0)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    for place, number in enumerate(hidden):
        rows[number] = (2, 6, place)
    own = max(rows) + 1
    rows[own] = (1, len(out), 0)
    free = (0, 0, 0)
    table = b"".join(struct.pack(">BII", *rows.get(number, free)) for number in range(own + 1))
    start = len(out)
    entries = b"/Type /XRef /Size %d /W [1 4 4] /Root 1 0 R" % (own + 1)
    xref = stream(zlib.compress(table, 1), b"/Filter /FlateDecode " + entries)
    out += b"%d 0 obj\n%s\nendobj\nstartxref\n%d\n%%%%EOF\n" % (own, xref, start)
    return bytes(out)
