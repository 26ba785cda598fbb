"""What the OCR service takes from the environment, besides what every service does."""

from pydantic import AliasChoices, Field, SecretStr

from shared.settings import StorageSettings

from .limits import MIB, ReaderLimits
from .page_protocol import Engine, Renderer


class OcrSettings(StorageSettings):
    worker_concurrency: int = Field(default=2, ge=1, le=64, description="Documents read at once, a core each.")
    storage_url: str = Field(
        validation_alias=AliasChoices("storage_url", "supabase_url"),
        description="Where files are: file:///absolute/folder or https://PROJECT.supabase.co.",
    )
    ocr_engine: Engine = Field(
        default="tesserocr",
        description="tesserocr (in process), pytesseract (the command) or google (Cloud Vision, over the network).",
    )
    google_cloud_api_key: SecretStr | None = Field(default=None, description="For google: a key, ")
    google_application_credentials: str | None = Field(default=None, description="or a service account's key file.")
    google_vision_endpoint: str | None = Field(
        default=None, description="https://eu-vision.googleapis.com keeps the data in the EU."
    )
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
