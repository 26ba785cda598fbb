"""``make bench-record``: the write path and its audit, and what a user's own view of the rows costs.

ONLY="write_path" runs a part, RUNS=1 makes it one round instead of five.
"""

from bench.queue import machine
from bench.suite import run_suite

from . import row_security, write_path

if __name__ == "__main__":
    run_suite("record", (machine, write_path, row_security))
