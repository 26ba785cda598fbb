"""``make bench-ocr``: pages a second beside OCRmyPDF and the bare recipe, characters and numbers beside the truth.

Two processes on two cores. ONLY="prose tables" runs a part, RUNS=1 one round.
"""

from bench.queue import machine
from bench.suite import run_suite

from . import digital, prose, scanned, tables

if __name__ == "__main__":
    run_suite("ocr", (machine, scanned, digital, prose, tables))
