"""Which words are used alike: each known word's clusters, three grains, made by ``services.ai.training.clusters``."""

import gzip
import json
from functools import cache
from pathlib import Path

FILE = Path(__file__).parent / "model" / "clusters.json.gz"


@cache
def _load() -> tuple[dict[str, int], list[list[int]]]:
    content = json.loads(gzip.decompress(FILE.read_bytes()))
    return content["words"], content["clusters"]


def clusters(word: str) -> list[int]:
    """The clusters of a lower-case word, the finest first; none for an unknown one."""
    words, found = _load()
    row = words.get(word)
    return found[row] if row is not None else []
