"""Hostile images, texts and files that are two kinds at once."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable

from PIL import Image

from .pdf_writer import LETTER, one_page, zeros
from .pdfs import EICAR


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


def png(width: int, height: int, data: bytes, *more: bytes, bits: int = 8) -> bytes:
    size = width.to_bytes(4) + height.to_bytes(4)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", size + bytes([bits, 0, 0, 0, 0]))
        + b"".join(more)
        + png_chunk(b"IDAT", data)
        + png_chunk(b"IEND", b"")
    )


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def paper(kind: str, width: int = 300, height: int = 400, mode: str = "L", **options: object) -> bytes:
    return saved(Image.new(mode, (width, height), "white"), kind, **options)


def tiff(entries: list[tuple[int, int, int, int]], *, after: int = 0, data: bytes = b"") -> bytes:
    """One frame of (tag, type, count, value) entries; ``after`` is where the next one is said to be."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", after) + data


def tiff_frame(width: int, height: int, **changes: int) -> list[tuple[int, int, int, int]]:
    values = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 122, 277: 1, 278: height, 279: 1000}
    values |= {int(tag[1:]): value for tag, value in changes.items()}
    return [(tag, 4, 1, value) for tag, value in values.items()]


def many_frames(count: int) -> bytes:
    size = 2 + 9 * 12 + 4
    frames = (tiff(tiff_frame(8, 8), after=8 + size * (n + 1) if n < count - 1 else 0) for n in range(count))
    return b"II*\0" + struct.pack("<I", 8) + b"".join(frame[8:] for frame in frames) + b"\xff" * 2000


def webp(width: int, height: int) -> bytes:
    """The header of a lossless one, and little else."""
    body = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little") + b"\xff" * 2000
    chunk = b"VP8L" + len(body).to_bytes(4, "little") + body + b"\0" * (len(body) % 2)
    return b"RIFF" + (len(chunk) + 4).to_bytes(4, "little") + b"WEBP" + chunk


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("a.exe", b"MZ")
    return file.getvalue()


def jpeg_of(width: int, height: int) -> bytes:
    """The size in its header changed, its contents not."""
    small = paper("JPEG")
    place = small.index(b"\xff\xc0") + 5
    return small[:place] + struct.pack(">HH", height, width) + small[place + 4 :]


def heic(content: bytes = b"") -> bytes:
    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body) + 8) + kind + body

    return box(b"ftyp", b"heic\0\0\0\0mif1heic") + box(b"meta", b"\0\0\0\0" + content)


def _tiff_bomb() -> bytes:
    packed = zeros(900)
    entries = tiff_frame(30_000, 3_300, t259=8, t279=len(packed))
    return tiff(entries, data=packed)


OTHERS: dict[str, Callable[[], bytes]] = {
    "PNG of 3 600 000 000 pixels": lambda: png(60_000, 60_000, zlib.compress(b"")),
    "PNG of 4 billion by 4 billion": lambda: png(2**31 - 1, 2**31 - 1, zlib.compress(b"")),
    "PNG of no pixels": lambda: png(0, 0, zlib.compress(b"")),
    "PNG of 99 000 000 pixels": lambda: png(9_949, 9_949, zeros(95)),
    "PNG in colour of 99 000 000 pixels": lambda: paper("PNG", 9_900, 9_900, "1"),
    "PNG one pixel high": lambda: png(1_000_000, 1, zlib.compress(b"\0" + b"\xff" * 1_000_000)),
    "PNG with a bomb as its note": lambda: png(
        9, 9, zlib.compress(b"\0" * 90), png_chunk(b"zTXt", b"a\0\0" + zeros(512))
    ),
    "PNG with a bomb as its colours": lambda: png(
        9, 9, zlib.compress(b"\0" * 90), png_chunk(b"iCCP", b"a\0\0" + zeros(512))
    ),
    "PNG that ends early": lambda: paper("PNG")[:-40],
    "PNG whose data is too long": lambda: png(9, 9, zeros(512)),
    "JPEG that ends early": lambda: paper("JPEG", 2000, 2000)[:4000],
    "JPEG of 4 000 000 000 pixels": lambda: jpeg_of(65_500, 65_500),
    "JPEG of 99 000 000 pixels": lambda: jpeg_of(9_949, 9_949),
    "JPEG and nothing": lambda: b"\xff\xd8\xff\xe0",
    "TIFF of 10 000 frames": lambda: many_frames(10_000),
    "TIFF whose frames go round": lambda: tiff(tiff_frame(9, 9), after=8, data=b"\0" * 1000),
    "TIFF of 4 000 000 000 pixels": lambda: tiff(tiff_frame(64_000, 64_000)),
    "TIFF with more strips than bytes": lambda: tiff([(273, 4, 2**31, 8), (279, 4, 2**31, 8), *tiff_frame(9, 9)]),
    "TIFF with a bomb as its strip": _tiff_bomb,
    "TIFF and nothing": lambda: b"II*\0\x08\0\0\0",
    "WebP of 268 000 000 pixels": lambda: webp(16_384, 16_384),
    "WebP that ends early": lambda: paper("WEBP", mode="RGB")[:-20],
    "HEIC and nothing": heic,
    "HEIC of noise": lambda: heic(bytes(range(256)) * 40),
    "GIF": lambda: paper("GIF"),
    "BMP": lambda: paper("BMP"),
    "ZIP": archive,
    "nothing": lambda: b"",
    "one byte": lambda: b"\xff",
    "NULs": lambda: b"\0" * 1_000_000,
    "EICAR": lambda: EICAR,
    "a text with a NUL": lambda: LETTER + b"\0" + LETTER,
    "a text in marks of direction": lambda: b"\xe2\x80\xae\xe2\x81\xa6" * 1000 + "aspirin\u0301".encode() * 100,
    "a text of half a million words": lambda: b"a " * 262_144,
    "a text of one line and one word": lambda: b"a" * 524_288,
    "a text of empty lines": lambda: b"\n" * 524_288,
    "a text of tabs": lambda: b"\t" * 524_000,
    "a text larger than the limit": lambda: LETTER * 6000,
    "PDF and ZIP": lambda: one_page() + archive(),
    "PDF behind a program": lambda: b"MZ" + b"\x90" * 200 + one_page(),
    "PDF behind a page of script": lambda: b"<html><script>1</script>\n" + one_page(),
    "JPEG and PDF": lambda: paper("JPEG") + one_page(),
    "PNG and ZIP": lambda: paper("PNG") + archive(),
}
