"""Draws the three sample records. Run by hand; the same inputs and wheels give the same bytes:

python -m pip install reportlab==5.1.0 opencv-python-headless==5.0.0.93 pypdfium2==5.15.2 Pillow==13.0.0
python -m samples.make_samples
"""

import io
from pathlib import Path

import cv2
import numpy as np
import pypdfium2 as pdfium
from PIL import Image
from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.lib.utils import ImageReader, simpleSplit
from reportlab.pdfgen.canvas import Canvas

from samples.records import CLINIC_LETTER, DISCHARGE_LETTER, LAB_REPORT, Head, Page, Table

HERE = Path(__file__).parent
_LEFT, _TOP, _WIDTH = 20 * mm, A4[1] - 20 * mm, A4[0] - 40 * mm
_ORIENTATION_TAG = 0x0112


def draw(pages: tuple[Page, ...], title: str, font: str, bold: str, size: float) -> bytes:
    """The record as a digital PDF on A4."""
    file = io.BytesIO()
    canvas = Canvas(file, pagesize=A4, invariant=1)
    canvas.setTitle(title)
    for page in pages:
        y = _TOP
        for part in page:
            if isinstance(part, Table):
                for index, row in enumerate(part.rows):
                    y -= 1.55 * size
                    for left, cell in zip(part.columns, row, strict=True):
                        canvas.setFont(bold if index == 0 and part.rows[0][0] == "Test" else font, size)
                        canvas.drawString(_LEFT + left * mm, y, cell)
                y -= 0.4 * size
                continue
            part_font, part_size = (bold, part.size) if isinstance(part, Head) else (font, size)
            y -= 0.6 * part_size if isinstance(part, Head) else 0.25 * part_size
            canvas.setFont(part_font, part_size)
            for line in simpleSplit(part.text, part_font, part_size, _WIDTH):
                y -= 1.3 * part_size
                canvas.drawString(_LEFT, y, line)
        assert y > 12 * mm, "the page is too full"
        canvas.showPage()
    canvas.save()
    return file.getvalue()


def pixels(pdf: bytes, dpi: int) -> list[np.ndarray]:
    return [page.render(scale=dpi / 72, grayscale=True).to_numpy().squeeze() for page in pdfium.PdfDocument(pdf)]


def scan(image: np.ndarray, degrees: float, noise: float, seed: int) -> bytes:
    """What an office scanner makes of the sheet: crooked, grainy, a little soft, JPEG."""
    height, width = image.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
    sheet = cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_CUBIC, borderValue=255)
    sheet = cv2.GaussianBlur(sheet, (0, 0), 0.6).astype(np.float32) * 0.9 + 18
    sheet += np.random.default_rng(seed).normal(0, noise, sheet.shape)
    return cv2.imencode(".jpg", sheet.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 50])[1].tobytes()


def image_pdf(jpegs: list[bytes], title: str) -> bytes:
    """The scans as a PDF without a text layer."""
    file = io.BytesIO()
    canvas = Canvas(file, pagesize=A4, invariant=1)
    canvas.setTitle(title)
    for jpeg in jpegs:
        canvas.drawImage(ImageReader(io.BytesIO(jpeg)), 0, 0, *A4)
        canvas.showPage()
    canvas.save()
    return file.getvalue()


def photograph(image: np.ndarray, seed: int) -> bytes:
    """The sheet on a table, by telephone, held sideways: perspective, lamp and shadow, mild blur, EXIF rotation."""
    height, width = image.shape
    corners = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
    seen = np.float32([[60, 40], [width - 25, 70], [width - 65, height - 30], [20, height - 75]])
    lens = cv2.getPerspectiveTransform(corners, seen)
    warped = cv2.warpPerspective(image, lens, (width, height), flags=cv2.INTER_CUBIC, borderValue=150)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    lamp = 1.0 - 0.35 * np.hypot((x - 0.25 * width) / width, (y - 0.2 * height) / height)
    # The hand's shadow, with a soft edge, over the lower right.
    shadow = 1.0 - 0.35 / (1.0 + np.exp(-(x / width + 0.8 * y / height - 1.25) * 18))
    light = (lamp * shadow)[..., None] * np.float32([0.88, 0.96, 1.0])  # warm light; OpenCV's order is blue, green, red
    photo = cv2.GaussianBlur(warped, (0, 0), 1.3).astype(np.float32)[..., None] * light
    photo += np.random.default_rng(seed).normal(0, 2.5, (height, width, 1))
    turned = cv2.rotate(photo.clip(0, 255).astype(np.uint8), cv2.ROTATE_90_COUNTERCLOCKWISE)
    exif = Image.Exif()
    exif[_ORIENTATION_TAG] = 6  # to be shown turned 90 degrees clockwise
    file = io.BytesIO()
    Image.fromarray(turned[..., ::-1]).save(file, "JPEG", quality=60, exif=exif)
    return file.getvalue()


def main() -> None:
    letter = draw(DISCHARGE_LETTER, "Discharge letter", "Helvetica", "Helvetica-Bold", 9.5)
    (HERE / "discharge-letter.pdf").write_bytes(letter)
    clinic = pixels(draw(CLINIC_LETTER, "Clinic letter", "Times-Roman", "Times-Bold", 11.5), 200)
    degrees = (0.9, -1.4, 0.5)
    sheets = [scan(image, degrees[seed], 5.0, seed) for seed, image in enumerate(clinic)]
    (HERE / "clinic-letter-scan.pdf").write_bytes(image_pdf(sheets, "Scan"))
    report = pixels(draw(LAB_REPORT, "Laboratory report", "Helvetica", "Helvetica-Bold", 11), 300)[0]
    (HERE / "lab-report-photo.jpg").write_bytes(photograph(report, 7))


if __name__ == "__main__":
    main()
