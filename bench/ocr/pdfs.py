"""Sheets bound into the documents that the speeds are measured with."""

import io
from collections.abc import Sequence

import cv2
from reportlab.lib.pagesizes import A4
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from . import sheets
from .damage import scan

DPI = 300


def scanned_pdf(seeds: Sequence[int]) -> bytes:
    """A page for each letter, as an office scanner makes it: an image and no text."""
    file = io.BytesIO()
    canvas = Canvas(file, pagesize=A4, invariant=1)
    for seed in seeds:
        _, jpeg = cv2.imencode(
            ".jpg", scan(sheets.render(sheets.letter(seed), DPI), seed), [cv2.IMWRITE_JPEG_QUALITY, 70]
        )
        canvas.drawImage(ImageReader(io.BytesIO(jpeg.tobytes())), 0, 0, *A4)
        canvas.showPage()
    canvas.save()
    return file.getvalue()
