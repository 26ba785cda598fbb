"""Digital pages: through the extraction code on one core, and a long document into ``ocr_pages``."""

import asyncio
import time

import pypdfium2 as pdfium

from bench.pipeline import announce, patients, services, users
from bench.queue.ground import Ground
from bench.report import Measurement, measured
from services.ocr.page_process import collect_seldom
from services.ocr.page_text import build_page_text
from services.ocr.text_layer import read_text_layer, turn_upright

from . import sheets
from .scanned import until_read

PAGES = 40
SIZE = (2480, 3508)
AT_LEAST = 300.0
WITHIN_SECONDS = 3.0


async def measure(ground: Ground) -> list[Measurement]:
    document = sheets.letters(range(PAGES)).pdf
    extracted: list[float] = []
    into_rows: list[float] = []
    for _ in ground.rounds("digital"):
        extracted.append(await asyncio.to_thread(pages_a_second, document))
        into_rows.append(await until_in_rows(ground, document))
    return [
        measured("digital pages with word boxes: extraction code", extracted, "pages/s/core", at_least=AT_LEAST),
        measured(
            f"digital PDF of {PAGES} pages: complete_upload to ocr_pages, sample check included",
            into_rows,
            "s",
            at_most=WITHIN_SECONDS,
        ),
    ]


def pages_a_second(document: bytes) -> float:
    """Processor time: what else the machine does is none of the extraction's."""
    collect_seldom()  # as the service's child does
    pdf = pdfium.PdfDocument(document)
    began = time.thread_time()
    for page in pdf:
        text_page = page.get_textpage()
        turn_upright(page, text_page)
        layer = read_text_layer(page, text_page, *SIZE)
        assert layer.is_good
        build_page_text(layer.blocks, *SIZE)
    return len(pdf) / (time.thread_time() - began)


async def until_in_rows(ground: Ground, document: bytes) -> float:
    async with ground.clone("digital") as database, ground.owner(database) as owner:
        uploads = await announce(ground, database, [(patient, document) for patient in patients(1)])
        async with (
            services(ground, database, {"ocr": 1}, {"ocr": {"WORKER_CONCURRENCY": "2"}}),
            users(ground, database, connections=1) as signed_in,
        ):
            began = time.perf_counter()
            await signed_in.complete_in_turn(uploads)
            await until_read(owner, PAGES)
            return time.perf_counter() - began
