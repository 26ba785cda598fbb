"""Scanned pages a second: the whole service beside OCRmyPDF and beside the bare recipe, on the same pages.

The service's time is from ``complete_upload`` until the last page is in ``ocr_pages``; the others' from their start to
their end. All have two processes.
"""

import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import asyncpg

from bench.pipeline import announce, patients, services, users
from bench.queue.ground import Ground
from bench.queue.program import CHECKOUT, run_to_end
from bench.report import Measurement, measured, ratio

from .pdfs import scanned_pdf

PAGES = 40
TIMES_OCRMYPDF, OF_BARE = 3.1, 0.95
LONGEST_SECONDS = 600.0
OCRMYPDF = CHECKOUT / ".venv/bench/bin/ocrmypdf"
# OCRmyPDF's and Tesseract's own advice for pages that are worked on side by side.
ONE_THREAD = {"OMP_THREAD_LIMIT": "1"}


async def measure(ground: Ground) -> list[Measurement]:
    ours: list[float] = []
    bare: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "scan.pdf")
        path.write_bytes(await asyncio.to_thread(scanned_pdf, range(PAGES)))
        for half in range(2):
            seeds = range(half * PAGES // 2, (half + 1) * PAGES // 2)
            path.with_name(f"half-{half}.pdf").write_bytes(await asyncio.to_thread(scanned_pdf, seeds))
        for number in ground.rounds("scanned"):
            contenders = [(ours, through_service), (bare, by_bare_recipe), (theirs, by_ocrmypdf)]
            for runs, contender in contenders if number % 2 == 0 else reversed(contenders):
                seconds = await contender(ground, path)
                runs.append(PAGES / seconds)
                ground.progress(f"  {contender.__name__}: {PAGES / seconds:.2f} pages/s")
    return [
        measured("scanned pages: the service", ours, "pages/s"),
        measured("scanned pages: bare recipe", bare, "pages/s"),
        measured("scanned pages: OCRmyPDF", theirs, "pages/s"),
        ratio("scanned pages: the service / OCRmyPDF", ours, theirs, at_least=TIMES_OCRMYPDF),
        ratio("scanned pages: the service / bare recipe", ours, bare, at_least=OF_BARE),
    ]


async def through_service(ground: Ground, path: Path) -> float:
    """Each half as a document of its own: two patients' jobs, two at once."""
    halves = [half.read_bytes() for half in sorted(path.parent.glob("half-*.pdf"))]
    async with ground.clone("scanned") as database, ground.owner(database) as owner:
        uploads = await announce(ground, database, list(zip(patients(len(halves)), halves, strict=True)))
        async with (
            services(ground, database, {"ocr": 1}, {"ocr": {"WORKER_CONCURRENCY": "2"}}),
            users(ground, database, connections=1) as signed_in,
        ):
            began = time.perf_counter()
            await signed_in.complete_in_turn(uploads)
            await until_read(owner, PAGES)
            return time.perf_counter() - began


async def until_read(owner: asyncpg.Connection, pages: int) -> None:
    async with asyncio.timeout(LONGEST_SECONDS):
        while await owner.fetchval("select count(*) from public.ocr_pages") < pages:
            await asyncio.sleep(0.1)  # asked fifty times a second, it took a hundredth of both cores


async def by_bare_recipe(_: Ground, path: Path) -> float:
    began = time.perf_counter()
    await run_to_end([sys.executable, "-m", "bench.ocr.bare_recipe", str(path)], ONE_THREAD)
    return time.perf_counter() - began


async def by_ocrmypdf(_: Ground, path: Path) -> float:
    if not OCRMYPDF.exists() or shutil.which("tesseract") is None:
        raise SystemExit("OCRmyPDF needs programs of the system: apt-get install tesseract-ocr ghostscript")
    command = [str(OCRMYPDF), "--jobs", "2", "--output-type", "pdf", "--optimize", "0", "--quiet", str(path)]
    began = time.perf_counter()
    await run_to_end([*command, str(path.with_name("out.pdf"))], ONE_THREAD | {"PATH": os.environ["PATH"]})
    return time.perf_counter() - began
