"""What one document may cost."""

from dataclasses import dataclass

from shared.contract.pages import DPI, SHOWN_DPI

MIB = 1024 * 1024


@dataclass(frozen=True)
class ReaderLimits:
    """Limits for one document; crossing one ends its child and is a typed error, never a silent cut.

    A pixel cap alone does not stop hostile files: a 646-byte tiling pattern kept two renderers busy for over 60 s and
    2.3 kB of compressed stream took 2 GB, so time and address space are limited as well.
    """

    max_bytes: int = 50 * MIB
    max_pages: int = 500
    max_frames: int = 200
    """Of a TIFF, whose frames are pages."""
    max_page_pixels: int = 17_600_000
    """A larger page is rendered at a lower resolution, not refused: A3 at 300 dpi, and what ``memory_bytes`` hold."""
    max_image_pixels: int = 100_000_000
    """Of an image file, before it is scaled down; above it the image is refused unread (decompression bombs)."""
    max_text_bytes: int = MIB // 2
    """Of a plain text file, which is one page whatever its length: 0.5 MiB is 150 printed pages."""
    max_page_words: int = 100_000
    max_page_characters: int = MIB // 2
    """Of a page however it is read: the largest plain text; a page in print of the smallest type has 30 000."""
    max_objects: int = 500_000
    """Of a PDF. 500 pages of a record have 20 000; each takes a kilobyte to look at."""
    max_object_bytes: int = 16 * MIB
    """Of one of them, written out, without a stream's contents."""
    scan_seconds: float = 30.0
    """Wall clock for looking through the file; 500 pages take a second."""
    memory_bytes: int = 288 * MIB
    """Data of the child (RLIMIT_DATA). An A4 scan takes 165 MB; with the service it has to fit 512 MB."""
    page_seconds: float = 70.0
    """Wall clock for one page: 10 s to render and 60 s to recognise; a dense A4 page takes 2 s."""
    dpi: int = DPI
    shown_dpi: int = SHOWN_DPI
