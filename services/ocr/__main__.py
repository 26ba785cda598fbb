"""``python -m services.ocr``: claims ``ocr`` jobs until told to stop."""

from typing import Any

from shared.errors import ConfigurationError
from shared.service import Runtime, run_worker
from shared.settings import exit_misconfigured, load_settings
from shared.storage import open_storage
from shared.worker import Handler

from .handler import OcrHandler
from .reader import DocumentReader
from .sandbox import Sandbox
from .scan.scanner import Scanner
from .settings import OcrSettings


def main() -> None:
    try:
        settings = load_settings(OcrSettings)
        storage = open_storage(settings.storage_url)
        sandbox = Sandbox(settings.ocr_confinement, children=settings.page_children)
        reader = DocumentReader(
            renderer=settings.ocr_renderer,
            engine=settings.ocr_engine,
            limits=settings.limits,
            tesseract_command=settings.tesseract_command,
            sandbox=sandbox,
        )
        scanner = Scanner(
            sandbox=sandbox, limits=settings.limits, policy=settings.ocr_policy, antivirus=settings.antivirus
        )
    except ConfigurationError as error:
        exit_misconfigured(error)

    def build(runtime: Runtime) -> list[Handler[Any, Any]]:
        ocr = OcrHandler(
            pool=runtime.pool, storage=storage, reader=reader, scanner=scanner, max_bytes=settings.limits.max_bytes
        )
        return [ocr.handler()]

    run_worker(
        "ocr",
        settings,
        ["ocr"],
        build,
        details={"engine": settings.ocr_engine, "renderer": settings.ocr_renderer, "confinement": sandbox.layers},
    )


if __name__ == "__main__":
    main()
