"""``make train``: trains the models that ship and writes them beside the engine. Their score is ``make eval``'s."""

import argparse
import json
import sys
import time
from pathlib import Path

from services.ai.local import linking as runtime_linking
from services.ai.local import negation as runtime_negation
from services.ai.local import tagger as runtime_tagger

from . import corpus, local, negation


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services.ai.training", description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True, help="a folder of brat files, or of .jsonl")
    documents = corpus.read(parser.parse_args().corpus)
    began = time.monotonic()
    trained = local.train(documents)
    _write(runtime_tagger.FILE, trained.tagger.packed())
    _write(runtime_negation.FILE, _json({"threshold": negation.THRESHOLD, "weights": trained.negation}))
    _write(runtime_linking.FILE, _json({"weights": trained.linking}))
    sys.stdout.write(f"{len(documents)} documents, {time.monotonic() - began:.0f} s\n")


def _json(content: object) -> bytes:
    return json.dumps(content, indent=0, ensure_ascii=False, sort_keys=True).encode() + b"\n"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    sys.stdout.write(f"{path.name}: {len(content) / 1e6:.2f} MB\n")


if __name__ == "__main__":
    main()
