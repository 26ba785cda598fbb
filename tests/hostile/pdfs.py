"""Hostile PDFs: what asks for too much, what contradicts itself, and what wants to do something."""

import random
from collections.abc import Callable

from .pdf_writer import TEXT, flate, one_page, stream, with_object_stream, write, zeros

EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


def tiling(step: bytes, content: bytes = b"0 0 1 1 re f", resources: bytes = b"") -> bytes:
    return stream(
        content,
        b"/Type /Pattern /PatternType 1 /PaintType 1 /TilingType 1 /BBox [0 0 1 1] /XStep %s /YStep %s "
        b"/Resources << %s >>" % (step, step, resources),
    )


def painted_with(pattern: bytes) -> bytes:
    return one_page(
        b"/Pattern cs /P scn 0 0 595 842 re f", resources=b"/Pattern << /P 10 0 R >>", objects={10: pattern}
    )


def nested_forms(depth: int, fan: int) -> bytes:
    forms = {
        10 + level: stream(
            b"/X Do " * fan if level < depth - 1 else b"0 0 9 9 re f",
            b"/Type /XObject /Subtype /Form /BBox [0 0 595 842] /Resources << /XObject << /X %d 0 R >> >>"
            % min(11 + level, 9 + depth),
        )
        for level in range(depth)
    }
    return one_page(b"/X Do", resources=b"/XObject << /X 10 0 R >>", objects=forms)


def image(width: int, height: int, data: bytes, entries: bytes) -> bytes:
    return one_page(
        b"595 0 0 842 0 0 cm /I Do",
        resources=b"/XObject << /I 10 0 R >>",
        objects={
            10: stream(data, b"/Type /XObject /Subtype /Image /Width %d /Height %d %s" % (width, height, entries))
        },
    )


def page_tree(pages: int) -> bytes:
    kids = b" ".join(b"%d 0 R" % (10 + n) for n in range(pages))
    leaf = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] >>"
    return write(
        {
            1: b"<< /Type /Catalog /Pages 2 0 R >>",
            2: b"<< /Type /Pages /Count %d /Kids [%s] >>" % (pages, kids),
            **{10 + n: leaf for n in range(pages)},
        }
    )


def deep_page_tree(depth: int) -> bytes:
    branches = {
        10 + n: b"<< /Type /Pages /Count 1 /Parent %d 0 R /Kids [%d 0 R] >>" % (9 + n if n else 2, 11 + n)
        for n in range(depth)
    }
    return write(
        {
            1: b"<< /Type /Catalog /Pages 2 0 R >>",
            2: b"<< /Type /Pages /Count 1 /Kids [10 0 R] >>",
            **branches,
            10 + depth: b"<< /Type /Page /Parent %d 0 R /MediaBox [0 0 99 99] >>" % (9 + depth),
        }
    )


def tree(pages: bytes, kid: bytes = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] >>") -> bytes:
    return write({1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: pages, 3: kid})


def action(body: bytes, *, where: bytes = b"/OpenAction 10 0 R") -> bytes:
    return one_page(catalog=where, objects={10: body})


def embedded(content: bytes) -> bytes:
    return one_page(
        catalog=b"/Names << /EmbeddedFiles << /Names [(a.com) 10 0 R] >> >>",
        objects={
            10: b"<< /Type /Filespec /F (a.com) /EF << /F 11 0 R >> >>",
            11: flate(content, b"/Type /EmbeddedFile"),
        },
    )


def wall_of_text(characters: int) -> bytes:
    letters = random.Random(1).choices(b"abcdefghijklmnopqrstuvwxyz ", k=characters)
    lines = [bytes(letters[start : start + 300]) for start in range(0, characters, 300)]
    shown = b"\n".join(b"1 0 0 1 10 %d Tm (%s) Tj" % (n % 840, line) for n, line in enumerate(lines))
    return one_page(contents=flate(b"BT /F 2 Tf\n%s\nET" % shown))


def wall_of_glyphs() -> bytes:
    """Text that is only drawn: no layer to be read, so that it goes to the recogniser."""
    letters = random.Random(2).choices(b"abcdefghijklmnopqrstuvwxyz0123456789", k=40_000)
    lines = [bytes(letters[start : start + 230]) for start in range(0, len(letters), 230)]
    shown = b"\n".join(b"1 0 0 1 5 %d Tm (%s) Tj" % (836 - 5 * n, line) for n, line in enumerate(lines))
    # Invisible besides, so that the layer is not believed.
    hidden = b"BT /F 9 Tf 3 Tr 50 700 Td (%s) Tj ET" % (b"x" * 90_000)
    return one_page(contents=flate(b"BT /F 5 Tf\n%s\nET %s" % (shown, hidden)))


def xref_that(change: Callable[[bytes], bytes]) -> bytes:
    return change(one_page())


def encrypted() -> bytes:
    """Needs a password that nobody knows: its check value fits none."""
    check = b"/O <%s> /U <%s>" % (b"41" * 32, b"42" * 32)
    return one_page(
        objects={10: b"<< /Filter /Standard /V 1 /R 2 /P -4 %s >>" % check},
        trailer=b"/Encrypt 10 0 R /ID [<00> <00>]",
    )


def soft_masks(depth: int) -> bytes:
    objects = {}
    for level in range(depth):
        state, group = 10 + 2 * level, 11 + 2 * level
        objects[state] = b"<< /Type /ExtGState /SMask << /S /Luminosity /G %d 0 R >> >>" % group
        after = b"/ExtGState << /G %d 0 R >>" % (state + 2 if level < depth - 1 else 10)
        objects[group] = stream(
            b"/G gs 0 0 595 842 re f",
            b"/Type /XObject /Subtype /Form /BBox [0 0 595 842] /Group << /S /Transparency /CS /DeviceGray >> "
            b"/Resources << %s >>" % after,
        )
    return one_page(b"/G gs 0 0 595 842 re f", resources=b"/ExtGState << /G 10 0 R >>", objects=objects)


def shading(function: bytes) -> bytes:
    return one_page(
        b"/S sh",
        resources=b"/Shading << /S << /ShadingType 1 /ColorSpace /DeviceGray /Domain [0 595 0 842] "
        b"/Function 10 0 R >> >>",
        objects={10: function},
    )


def mesh(patches: int) -> bytes:
    data = random.Random(3).randbytes(patches * 20)
    return one_page(
        b"/S sh",
        resources=b"/Shading << /S 10 0 R >>",
        objects={
            10: flate(
                data,
                b"/ShadingType 4 /ColorSpace /DeviceGray /BitsPerCoordinate 16 /BitsPerComponent 8 /BitsPerFlag 8 "
                b"/Decode [0 595 0 842 0 1]",
            )
        },
    )


def type_3_font(glyph: bytes) -> bytes:
    return one_page(
        b"BT /T 40 Tf 50 700 Td (aaaa) Tj ET",
        resources=b"/Font << /T 10 0 R >>",
        objects={
            10: b"<< /Type /Font /Subtype /Type3 /FontBBox [0 0 1 1] /FontMatrix [1 0 0 1 0 0] /FirstChar 97 "
            b"/LastChar 97 /Widths [1] /Encoding << /Differences [97 /a] >> /CharProcs << /a 11 0 R >> "
            b"/Resources << /Font << /T 10 0 R >> >> >>",
            11: stream(glyph),
        },
    )


def many_objects(count: int) -> bytes:
    return with_object_stream({10 + n: b"1" for n in range(count)}, b"")


PDFS: dict[str, Callable[[], bytes]] = {
    # Too much.
    "flate bomb as contents": lambda: one_page(contents=stream(zeros(1024, b" "), b"/Filter /FlateDecode")),
    "flate bomb twice over": lambda: one_page(
        contents=stream(zeros(1024, b" ", times=2), b"/Filter [/FlateDecode /FlateDecode]")
    ),
    "flate bomb three times over": lambda: one_page(
        contents=stream(zeros(1024, b" ", times=3), b"/Filter [/FlateDecode /FlateDecode /FlateDecode]")
    ),
    "flate bomb as object stream": lambda: with_object_stream({10: b"1"}, b"", packed=zeros(1024, b" ")),
    "flate bomb as image": lambda: image(
        18_000, 18_000, zeros(324, b"\x55"), b"/ColorSpace /DeviceGray /BitsPerComponent 8 /Filter /FlateDecode"
    ),
    "flate bomb as font": lambda: one_page(
        objects={
            5: b"<< /Type /Font /Subtype /TrueType /BaseFont /A /FirstChar 32 /LastChar 33 /Widths [500 500] "
            b"/FontDescriptor 10 0 R >>",
            10: b"<< /Type /FontDescriptor /FontName /A /Flags 4 /FontFile2 11 0 R >>",
            11: stream(zeros(1024), b"/Filter /FlateDecode"),
        }
    ),
    "flate bomb as character map": lambda: one_page(
        objects={
            5: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /ToUnicode 10 0 R >>",
            10: stream(zeros(1024, b" "), b"/Filter /FlateDecode"),
        }
    ),
    "run lengths without end": lambda: one_page(
        contents=flate(b"\x81 " * 8_000_000 + b"\x80", b"").replace(
            b"/Filter /FlateDecode", b"/Filter [/FlateDecode /RunLengthDecode]"
        )
    ),
    "tiles 0.001 points apart": lambda: painted_with(tiling(b"0.001")),
    "tiles of tiles": lambda: one_page(
        b"/Pattern cs /P scn 0 0 595 842 re f",
        resources=b"/Pattern << /P 10 0 R >>",
        objects={
            10: tiling(b"0.05", b"/Pattern cs /P scn 0 0 1 1 re f", b"/Pattern << /P 11 0 R >>"),
            11: tiling(b"0.01"),
        },
    ),
    "tiles of themselves": lambda: painted_with(
        tiling(b"1", b"/Pattern cs /P scn 0 0 1 1 re f", b"/Pattern << /P 10 0 R >>")
    ),
    "forms in forms, ten to the tenth": lambda: nested_forms(10, 10),
    "forms in forms, two to the fortieth": lambda: nested_forms(40, 2),
    "a form that draws itself": lambda: nested_forms(1, 1).replace(b"0 0 9 9 re f", b"/X Do /X Do "),
    "graphics states without end": lambda: one_page(contents=flate(b"q " * 10_000_000)),
    "clips without end": lambda: one_page(contents=flate(b"q 1 1 590 840 re W n " * 500_000)),
    "a path of a million curves": lambda: one_page(
        contents=flate(b"0 0 m " + b"595 842 0 842 595 0 c " * 1_000_000 + b"W n 0 0 595 842 re f")
    ),
    "dashes of nothing": lambda: one_page(b"[0.00001 0.00001] 0 d 1 w " + b"0 0 m 595 842 l S " * 1000),
    "soft masks in soft masks": lambda: soft_masks(200),
    "a shading that computes": lambda: shading(
        stream(
            b"{ " + b"dup sin exch cos atan " * 20_000 + b" }",
            b"/FunctionType 4 /Domain [0 595 0 842] /Range [0 1]",
        )
    ),
    "a mesh of a million corners": lambda: mesh(1_000_000),
    "a glyph that draws itself": lambda: type_3_font(b"1 0 d0 BT /T 1 Tf (aaaaaaaa) Tj ET"),
    "100 000 pages": lambda: page_tree(100_000),
    "2 000 000 000 pages in one": lambda: tree(b"<< /Type /Pages /Count 2000000000 /Kids [3 0 R] >>"),
    "a page tree 20 000 deep": lambda: deep_page_tree(20_000),
    "a page tree that bites its tail": lambda: tree(b"<< /Type /Pages /Count 4 /Kids [2 0 R 3 0 R 2 0 R] >>"),
    "510 000 objects": lambda: many_objects(510_000),
    "arrays in arrays": lambda: one_page(catalog=b"/A %s%s" % (b"[" * 200_000, b"]" * 200_000)),
    "dictionaries in dictionaries": lambda: one_page(catalog=b"/A %s 1 %s" % (b"<< /A " * 200_000, b">>" * 200_000)),
    "a name of 20 MB": lambda: one_page(catalog=b"/A /%s" % (b"N" * 20_000_000)),
    "an array of a million names": lambda: one_page(catalog=b"/A [%s]" % (b"/JavaScript " * 1_000_000)),
    "100 000 notes": lambda: one_page(
        page=b"/Annots [%s]"
        % b" ".join(b"<< /Type /Annot /Subtype /Square /Rect [1 1 9 9] /C [1 0 0] >>" for _ in range(100_000))
    ),
    "a wall of text": lambda: wall_of_text(700_000),
    "a wall of glyphs": wall_of_glyphs,
    # Impossible.
    "a page a mile wide": lambda: one_page(box=b"0 0 1000000000 1000000000"),
    "a page a mile wide and a point high": lambda: one_page(box=b"0 0 1000000000 1"),
    "a page without an area": lambda: one_page(box=b"0 0 0 0"),
    "a page of a thousandth point": lambda: one_page(box=b"0 0 0.001 0.001"),
    "a page upside down and inside out": lambda: one_page(box=b"595 842 -595 -842"),
    "a page of no numbers": lambda: one_page(box=b"/a (b) null [1]"),
    "user units of a million": lambda: one_page(page=b"/UserUnit 1000000"),
    "an image of 4 000 000 000 pixels": lambda: image(
        65_000,
        65_000,
        b"\x00\x10\x01" * 100,
        b"/ColorSpace /DeviceGray /BitsPerComponent 1 /Filter /CCITTFaxDecode "
        b"/DecodeParms << /K -1 /Columns 65000 /Rows 65000 >>",
    ),
    "an image of 2 billion rows": lambda: image(
        1, 2_000_000_000, b"\0" * 1000, b"/ColorSpace /DeviceRGB /BitsPerComponent 16"
    ),
    "a negative image": lambda: image(-1000, -1000, b"\0" * 1000, b"/ColorSpace /DeviceGray /BitsPerComponent 8"),
    "no pages": lambda: tree(b"<< /Type /Pages /Count 0 /Kids [] >>"),
    "fewer than no pages": lambda: tree(b"<< /Type /Pages /Count -5 /Kids [3 0 R] >>"),
    "pages that are a string": lambda: tree(b"(pages)"),
    "a kid that is not there": lambda: tree(b"<< /Type /Pages /Count 1 /Kids [99 0 R] >>"),
    "no catalogue": lambda: write({1: b"null"}),
    "a header and nothing": lambda: b"%PDF-1.7\n and nothing that follows",
    "cut in the middle": lambda: xref_that(lambda good: good[: len(good) // 2]),
    "cut before the end": lambda: xref_that(lambda good: good[:-30]),
    "an xref that points nowhere": lambda: xref_that(lambda good: good.replace(b" 00000 n", b" 99999 n")),
    "an xref that follows itself": lambda: one_page(trailer=b"/Prev 9 /XRefStm 9"),
    "an xref of 4 billion objects": lambda: xref_that(lambda good: good.replace(b"0 1\n", b"0 4294967295\n", 1)),
    "a startxref below zero": lambda: xref_that(lambda good: good.replace(b"startxref\n", b"startxref\n-")),
    "a stream that is longer than the file": lambda: xref_that(
        lambda good: good.replace(b"/Length %d" % len(TEXT), b"/Length 2147483647")
    ),
    "a length that is its own": lambda: one_page(contents=b"<< /Length 4 0 R >>\nstream\n%s\nendstream" % TEXT),
    "a filter that is not known": lambda: one_page(contents=stream(TEXT, b"/Filter [/Crypt /Nonsense /JPXDecode]")),
    "junk before the header": lambda: b"\x01junk" * 100 + one_page(),
    "noise inside": lambda: _noisy(one_page(contents=flate(TEXT * 300))),
    "NUL in names": lambda: one_page(catalog=b"/Java#00Script 1 /#00 2 /A#20B#ff#fe 3"),
    "unicode in names": lambda: one_page(catalog="/Näme 1 /病歴 2 /\u202egnp.exe 3".encode()),
    "a password": encrypted,
    # What wants to do something.
    "JavaScript on opening": lambda: action(b"<< /S /JavaScript /JS (app.alert\\(1\\)) >>"),
    "JavaScript by escaped names": lambda: action(b"<< /#53 /J#61va#53cript /#4a#53 (app.alert\\(1\\)) >>"),
    "JavaScript in an object stream": lambda: with_object_stream(
        {10: b"<< /S /JavaScript /JS (app.alert(1)) >>"}, b"/OpenAction 10 0 R"
    ),
    "JavaScript in a name tree": lambda: one_page(
        catalog=b"/Names << /JavaScript << /Names [(a) << /S /JavaScript /JS (1) >>] >> >>"
    ),
    "a launch": lambda: action(b"<< /S /Launch /Win << /F (cmd.exe) >> >>"),
    "a launch in an object stream, by escaped names": lambda: with_object_stream(
        {10: b"<< /S /L#61unch /F (cmd.exe) >>"}, b"/Open#41ction 10 0 R"
    ),
    "a launch as what comes next": lambda: action(
        b"<< /S /GoTo /D [3 0 R /Fit] /Next [<< /S /GoTo /D [3 0 R /Fit] /Next << /S /Launch /F (a) >> >>] >>"
    ),
    "an embedded EICAR": lambda: embedded(EICAR),
    "an attachment": lambda: embedded(b"minutes of the meeting"),
    "rich media": lambda: one_page(page=b"/Annots [<< /Type /Annot /Subtype /RichMedia /Rect [0 0 9 9] >>]"),
    "a form that sends": lambda: one_page(
        page=b"/Annots [<< /Type /Annot /Subtype /Widget /Rect [0 0 9 9] /A << /S /SubmitForm /F (http://x) >> >>]"
    ),
    "an XFA form": lambda: one_page(
        catalog=b"/AcroForm << /Fields [] /XFA [(template) 10 0 R] >>", objects={10: stream(b"<a/>")}
    ),
    "a form of parents of themselves": lambda: one_page(
        catalog=b"/AcroForm << /Fields [10 0 R] >>",
        objects={10: b"<< /FT /Tx /T (a) /Parent 10 0 R /Kids [10 0 R] >>"},
    ),
}


def _noisy(good: bytes) -> bytes:
    noisy = bytearray(good)
    source = random.Random(4)
    for _ in range(len(noisy) // 50):
        noisy[source.randrange(9, len(noisy))] = source.randrange(256)
    return bytes(noisy)
