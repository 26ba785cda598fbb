"""``make bench-ai``: one instance of the AI service, a model endpoint that takes five seconds.

PASSES=200 has so many in flight instead of a thousand.
"""

from bench.queue import machine
from bench.suite import run_suite

from . import in_flight

if __name__ == "__main__":
    run_suite("ai", (machine, in_flight))
