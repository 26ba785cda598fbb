"""What the OCR service takes from the environment, besides what every service does."""

from pydantic import AliasChoices, Field, SecretStr

from shared.errors import ConfigurationError
from shared.settings import StorageSettings

from .antivirus import Antivirus
from .limits import MIB, ReaderLimits
from .memory import children_that_fit, instance_bytes, pixels_that_fit, share_of_a_child
from .page_protocol import Engine, Renderer
from .sandbox import Confinement
from .scan.policy import DEFAULT_POLICY, PolicySetting


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
    ocr_max_frames: int = Field(default=200, ge=1, le=10_000, description="Of a TIFF; images with more are refused.")
    ocr_max_image_megapixels: int = Field(default=100, ge=1, le=1000, description="Larger images are refused unread.")
    ocr_max_page_megapixels: int = Field(default=40, ge=1, le=400, description="Larger pages are scaled down.")
    ocr_page_seconds: float = Field(default=70, ge=1, le=600, description="Wall clock for one page.")
    ocr_page_memory_megabytes: int = Field(
        default=640, ge=240, le=8192, description="For one page's child; less where the instance is small."
    )
    ocr_confinement: Confinement = Field(
        default="auto", description="auto, builtin (no bubblewrap, all the rest) or required (bubblewrap as well)."
    )
    ocr_scan_seconds: float = Field(default=30, ge=1, le=600, description="Wall clock for the structural scan.")
    ocr_policy: PolicySetting = Field(
        default=dict(DEFAULT_POLICY), description='What is done about active content: {"javascript": "quarantine"}.'
    )
    clamd_address: str | None = Field(default=None, description="unix:///run/clamav/clamd.ctl or tcp://host:3310.")
    antivirus_required: bool = Field(default=False, description="Whether a file without its verdict is not read.")
    antivirus_seconds: float = Field(default=120, ge=1, le=600, description="For one file.")

    @property
    def page_children(self) -> int:
        """How many children may run at once."""
        return min(self.worker_concurrency, children_that_fit(instance_bytes()))

    @property
    def limits(self) -> ReaderLimits:
        memory = share_of_a_child(instance_bytes(), self.page_children, self.ocr_page_memory_megabytes * MIB)
        return ReaderLimits(
            max_bytes=self.ocr_max_megabytes * MIB,
            max_pages=self.ocr_max_pages,
            max_frames=self.ocr_max_frames,
            max_image_pixels=self.ocr_max_image_megapixels * 1_000_000,
            max_page_pixels=min(self.ocr_max_page_megapixels * 1_000_000, pixels_that_fit(memory)),
            scan_seconds=self.ocr_scan_seconds,
            page_seconds=self.ocr_page_seconds,
            memory_bytes=memory,
        )

    @property
    def antivirus(self) -> Antivirus | None:
        """The configured daemon. Raises ``ConfigurationError`` where one is required and none is named."""
        if self.clamd_address is not None:
            return Antivirus(self.clamd_address, is_required=self.antivirus_required, seconds=self.antivirus_seconds)
        if self.antivirus_required:
            raise ConfigurationError("clamd_address_missing", "ANTIVIRUS_REQUIRED=true needs CLAMD_ADDRESS.")
        return None
