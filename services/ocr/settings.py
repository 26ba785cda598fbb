"""What the OCR service takes from the environment, besides what every service does."""

from pydantic import Field

from shared.settings import ServiceSettings

from .limits import MIB, ReaderLimits
from .page_protocol import Engine, Renderer


class OcrSettings(ServiceSettings):
    worker_concurrency: int = Field(default=2, ge=1, le=64, description="Documents read at once, a core each.")
    storage_url: str = Field(description="Where uploaded files are: file:///absolute/folder.")
    ocr_engine: Engine = Field(default="tesserocr", description="tesserocr (in process) or pytesseract (the command).")
    ocr_renderer: Renderer = Field(
        default="pypdfium2", description="pypdfium2, or pdf2image where poppler is installed."
    )
    tesseract_command: str | None = Field(default=None, description="The tesseract that pytesseract runs.")
    ocr_page_images: bool = Field(default=True, description="Whether page images are kept for review.")
    ocr_max_megabytes: int = Field(default=50, ge=1, le=2000, description="Larger files are refused.")
    ocr_max_pages: int = Field(default=500, ge=1, le=10_000, description="Longer documents are refused.")

    @property
    def limits(self) -> ReaderLimits:
        return ReaderLimits(max_bytes=self.ocr_max_megabytes * MIB, max_pages=self.ocr_max_pages)
