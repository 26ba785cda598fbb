"""The least that a scanned page costs: PDFium, grey, 300 dpi, Tesseract in process, two processes, nothing kept.

python -m bench.ocr.bare_recipe FILE.pdf
"""

import multiprocessing
import os
import sys
from typing import Any

PROCESSES = 2
DPI = 300


def read(task: tuple[str, int]) -> int:
    """The page's words as Tesseract's TSV; how many bytes of it."""
    path, page = task
    pixels = _document(path)[page].render(scale=DPI / 72, grayscale=True).to_numpy().squeeze()
    height, width = pixels.shape
    engine = _engine()
    engine.SetImageBytes(pixels.tobytes(), width, height, 1, width)
    engine.SetSourceResolution(DPI)
    return len(engine.GetTSVText(0))


def main() -> None:
    # As the service's children have it; with OpenMP's threads it would be five times slower.
    os.environ["OMP_THREAD_LIMIT"] = "1"
    path = sys.argv[1]
    with multiprocessing.get_context("spawn").Pool(PROCESSES) as pool:
        pool.map(read, [(path, page) for page in range(len(_document(path)))], chunksize=1)


_kept: dict[str, Any] = {}


def _document(path: str) -> Any:
    import pypdfium2  # noqa: PLC0415 - each process loads it once

    if path not in _kept:
        _kept[path] = pypdfium2.PdfDocument(path)
    return _kept[path]


def _engine() -> Any:
    import tesserocr  # noqa: PLC0415

    from services.ocr.recognise import tessdata_folder  # noqa: PLC0415

    if "engine" not in _kept:
        _kept["engine"] = tesserocr.PyTessBaseAPI(path=str(tessdata_folder()), lang="eng", psm=tesserocr.PSM.AUTO)
    return _kept["engine"]


if __name__ == "__main__":
    main()
