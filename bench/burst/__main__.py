"""``make bench-burst``: a thousand patients upload within one second, one of them five hundred documents more.

BURST=100 makes it a tenth, in patients and documents alike.
"""

from bench.queue import machine
from bench.suite import run_suite

from . import burst

if __name__ == "__main__":
    run_suite("burst", (machine, burst))
