"""``python -m services.ocr``: claims ``ocr`` and ``ocr_pages`` jobs until told to stop."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from shared.errors import ConfigurationError
from shared.handler import Handler
from shared.service import Runtime, run_worker
from shared.settings import exit_misconfigured, load_settings

from .handler import OcrHandler
from .open_documents import OpenDocuments
from .rate_limit import RateLimited
from .reader import DocumentReader
from .remote import RemoteEngine
from .sandbox import Sandbox
from .scan.scanner import Scanner
from .settings import OcrSettings


def main() -> None:
    try:
        settings = load_settings(OcrSettings)
        storage = settings.open_storage(settings.storage_url)
        sandbox = Sandbox(settings.ocr_confinement, children=settings.page_children)
        scanner = Scanner(policy=settings.ocr_policy, antivirus=settings.antivirus)
        remote = open_remote(settings)
    except ConfigurationError as error:
        exit_misconfigured(error)

    folder = tempfile.TemporaryDirectory(prefix="chartloom-ocr-", ignore_cleanup_errors=True)
    fork_server = sandbox.fork_server(Path(folder.name), engine=settings.ocr_engine)

    @asynccontextmanager
    async def forking(_: Runtime) -> AsyncIterator[None]:
        # Before the first claim: a thousand uploads at once should not wait for its imports.
        if fork_server is not None:
            await fork_server.start()
        yield

    def build(runtime: Runtime) -> list[Handler[Any, Any]]:
        reader = DocumentReader(
            renderer=settings.ocr_renderer,
            engine=settings.ocr_engine,
            limits=settings.limits,
            tesseract_command=settings.tesseract_command,
            sandbox=sandbox,
            remote=RateLimited(remote, pool=runtime.pool, key=settings.ocr_engine) if remote else None,
            with_images=settings.ocr_page_images,
            fork_server=fork_server,
        )
        documents = OpenDocuments(
            storage=storage,
            reader=reader,
            max_bytes=settings.limits.max_bytes,
            limit=settings.page_children,
            folder=Path(folder.name),
        )
        runtime.closing.callback(folder.cleanup)
        if fork_server is not None:
            runtime.closing.push_async_callback(fork_server.close)
        runtime.closing.push_async_callback(storage.close)
        runtime.closing.push_async_callback(documents.close)
        handler = OcrHandler(pool=runtime.pool, storage=storage, documents=documents, scanner=scanner)
        return handler.handlers()

    run_worker(
        "ocr",
        settings,
        ["ocr", "ocr_pages"],
        build,
        details={"engine": settings.ocr_engine, "renderer": settings.ocr_renderer, "confinement": sandbox.layers},
        # Short documents go on while a long one is read, and the other way round.
        take_turns=True,
        around=forking,
    )


def open_remote(settings: OcrSettings) -> RemoteEngine | None:
    """The engine that is asked over the network, where the configured one is such. Raises ConfigurationError."""
    if settings.ocr_engine != "google":
        return None
    from .google_vision import GoogleVision  # noqa: PLC0415 - 27 MB, for where it is configured

    key = settings.google_cloud_api_key
    return GoogleVision(
        api_key=key.get_secret_value() if key else None,
        credentials_file=settings.google_application_credentials,
        endpoint=settings.google_vision_endpoint,
    )


if __name__ == "__main__":
    main()
