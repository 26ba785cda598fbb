"""When the rest of a document is worth more hands than one, and how it is divided among them."""

from collections.abc import Sequence

SHORT_PAGES = 8
"""No more pages than that are read by one, however slow the machine is at the moment."""
HAND_OUT_SECONDS = 8.0
"""Work that is left and is worth handing out: eight scanned pages. A job more costs its worker 4 ms of a core, and one
that has not opened the document yet 0.3 s."""
JOB_SECONDS = 1.0
"""A page of a scan is a job of its own, so that forty pages use forty workers; of digital ones it is hundreds."""


class Pace:
    """How long this document's pages take: as its mean, or as the last, since a mixed document changes its pace."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._pages = 0
        self._last = 0.0

    def add(self, seconds: float) -> None:
        self._last = seconds
        self._seconds += seconds
        self._pages += 1

    @property
    def seconds_a_page(self) -> float:
        return max(self._last, self._seconds / self._pages) if self._pages else 0.0

    def is_worth_handing_out(self, pages_left: int) -> bool:
        return pages_left >= SHORT_PAGES and pages_left * self.seconds_a_page > HAND_OUT_SECONDS

    def divide(self, pages: Sequence[int]) -> list[tuple[int, int]]:
        """First and last page of each job. Pages in between that are read already are passed over by who gets it."""
        size = max(1, int(JOB_SECONDS / self.seconds_a_page))
        chunks = [pages[start : start + size] for start in range(0, len(pages), size)]
        return [(chunk[0], chunk[-1]) for chunk in chunks]
