"""What the OCR service and its children hold together (PSS), with one page worker: it has to fit an instance of 512 MB.

- on a scan of 60 pages at 300 dpi,
- and over all hostile files of ``tests/hostile``.

By itself: ``python -m bench.ocr.memory``.
"""

import io
import sys
from pathlib import Path

import pikepdf

from bench.pipeline import announce, patients, services, users
from bench.queue.ground import Ground
from bench.report import Measurement, measured
from bench.suite import run_suite
from services.ocr.memory import share_of_a_child
from tests.hostile.others import OTHERS
from tests.hostile.pdfs import PDFS
from tests.memory import MIB, MemoryWatch
from tests.waiting import until

PAGES = 60
MOST_MEGABYTES = 450
LONGEST_SECONDS = 3600.0
SCAN = Path(__file__).parents[2] / "samples" / "clinic-letter-scan.pdf"
CHILD_MEGABYTES = share_of_a_child(512 * MIB, 1, 640 * MIB) // MIB
"""Of an instance of 512 MB, which this machine is not."""
SETTINGS = {
    "ocr": {
        "WORKER_CONCURRENCY": "1",
        "OCR_PAGE_SECONDS": "20",
        "OCR_SCAN_SECONDS": "20",
        "OCR_PAGE_MEMORY_MEGABYTES": str(CHILD_MEGABYTES),
    }
}
DONE = "not exists (select from chartloom.job_queue where job_type like 'ocr%' and status <> 'dead_letter')"


async def measure(ground: Ground) -> list[Measurement]:
    scan: list[MemoryWatch] = []
    hostile: list[MemoryWatch] = []
    for _ in ground.rounds("memory"):
        scan.append(await _peaks(ground, [_long_scan()]))
        hostile.append(await _peaks(ground, [make() for make in (PDFS | OTHERS).values()]))
    return [
        measured(
            f"a scan of {PAGES} pages: PSS of service and children",
            [watch.together / MIB for watch in scan],
            "MB",
            at_most=MOST_MEGABYTES,
        ),
        measured(
            f"{len(PDFS) + len(OTHERS)} hostile files: PSS of service and children",
            [watch.together / MIB for watch in hostile],
            "MB",
            at_most=MOST_MEGABYTES,
        ),
        measured(
            "hostile files: the largest child's data",
            [watch.largest_child / MIB for watch in hostile],
            "MB",
            at_most=CHILD_MEGABYTES,
        ),
    ]


async def _peaks(ground: Ground, contents: list[bytes]) -> MemoryWatch:
    async with (
        ground.clone("ocr_memory") as database,
        services(ground, database, {"ocr": 1}, SETTINGS) as programs,
        ground.owner(database) as owner,
        users(ground, database, connections=1) as uploaders,
    ):
        (patient,) = patients(1)
        uploads = await announce(ground, database, [(patient, content) for content in contents])
        with MemoryWatch(programs["ocr"][0].pid) as watch:
            await uploaders.complete_in_turn(uploads)
            await until(owner, DONE, seconds=LONGEST_SECONDS)
        return watch


def _long_scan() -> bytes:
    """The sample's scanned pages again and again, each time an image of its own."""
    with pikepdf.new() as long:
        while len(long.pages) < PAGES:
            with pikepdf.open(SCAN) as scan:
                long.pages.extend(scan.pages)
        file = io.BytesIO()
        long.save(file)
        return file.getvalue()


if __name__ == "__main__":
    run_suite("ocr-memory", (sys.modules[__name__],))
