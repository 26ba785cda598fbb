"""``python -m services.ocr``: claims ``ocr`` and ``ocr_pages`` jobs until told to stop."""

from typing import Any

from shared.errors import ConfigurationError
from shared.service import Runtime, run_worker
from shared.settings import exit_misconfigured, load_settings
from shared.storage import open_storage
from shared.worker import Handler

from .handler import OcrHandler
from .open_documents import OpenDocuments
from .reader import DocumentReader
from .settings import OcrSettings


def main() -> None:
    try:
        settings = load_settings(OcrSettings)
        storage = open_storage(settings.storage_url)
        reader = DocumentReader(
            renderer=settings.ocr_renderer,
            engine=settings.ocr_engine,
            limits=settings.limits,
            tesseract_command=settings.tesseract_command,
            with_images=settings.ocr_page_images,
        )
    except ConfigurationError as error:
        exit_misconfigured(error)

    def build(runtime: Runtime) -> list[Handler[Any, Any]]:
        documents = OpenDocuments(
            storage=storage,
            reader=reader,
            max_bytes=settings.limits.max_bytes,
            limit=settings.worker_concurrency,
        )
        runtime.closing.push_async_callback(documents.close)
        return OcrHandler(pool=runtime.pool, storage=storage, documents=documents).handlers()

    run_worker(
        "ocr",
        settings,
        ["ocr", "ocr_pages"],
        build,
        details={"engine": settings.ocr_engine, "renderer": settings.ocr_renderer},
        # Short documents go on while a long one is read, and the other way round.
        take_turns=True,
    )


if __name__ == "__main__":
    main()
