"""What a contender's program and the benchmark say to each other: one line each, over standard input and output.

program               benchmark
> ready               (imported, connected)
                      go
> started 123456789   a job's handler starts: CLOCK_MONOTONIC in ns, which every process of a machine shares
> all                 as many handlers as were expected have started
"""

import sys
import time


def say(*words: object) -> None:
    sys.stdout.write(f"> {' '.join(str(word) for word in words)}\n")
    sys.stdout.flush()


def wait_for_go() -> bool:
    """Blocks. False when the benchmark has gone."""
    return sys.stdin.readline() != ""


class Starts:
    """Counts handler starts. Tells of the last one expected; where none is expected, of each."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._started = 0

    def count(self) -> None:
        now = time.monotonic_ns()
        self._started += 1
        if not self._expected:
            say("started", now)
        elif self._started == self._expected:
            say("all")
