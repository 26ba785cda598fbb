"""What comes in: documents with their pages, whose they are, and when each is complete."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One upload. ``arrives_s`` is its ``complete_upload``, in seconds from the first one's."""

    patient: str
    digital_pages: int
    scanned_pages: int
    arrives_s: float

    @property
    def pages(self) -> int:
        return self.digital_pages + self.scanned_pages


def burst(*, documents: int, pages: int, scanned_share: float, within_s: float, heavy: int) -> list[Document]:
    """So many patients with a document each, evenly within a time; ``heavy`` more of one patient among them.

    ``scanned_share`` of the documents are scans, the others digital, in turn.
    """
    owners = [f"patient {number}" for number in range(documents)]
    spacing = documents / heavy if heavy else 0.0
    for number in range(heavy):
        owners.insert(round(number * (spacing + 1)), "heavy")
    return [
        _document(owner, pages, _is_scanned(place, scanned_share), within_s * place / len(owners))
        for place, owner in enumerate(owners)
    ]


def _is_scanned(place: int, share: float) -> bool:
    """Bresenham's: after n documents, n times the share of them are scans."""
    return int((place + 1) * share) > int(place * share)


def _document(owner: str, pages: int, is_scanned: bool, arrives_s: float) -> Document:
    return Document(owner, 0 if is_scanned else pages, pages if is_scanned else 0, arrives_s)


def share_of_scans(documents: Sequence[Document]) -> float:
    """Of the documents, 0 to 1."""
    return sum(document.scanned_pages > 0 for document in documents) / len(documents)
