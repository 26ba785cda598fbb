"""``make bench-console``: two hundred pages that watch live, one of them in a real browser."""

from bench.queue import machine
from bench.suite import run_suite

from . import live

if __name__ == "__main__":
    run_suite("console", (machine, live))
