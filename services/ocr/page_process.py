"""The child: opens one document and reads its pages, as its parent asks over stdin and stdout.

Run as ``python -m services.ocr.page_process <parent pid> <address space in bytes> <largest file in bytes>``.
"""

import ctypes
import gc
import os
import resource
import signal
import sys
from pathlib import Path
from typing import BinaryIO

from .document import Document
from .page_protocol import HEADER, MAX_FRAME_BYTES, Open, Opened, PageRead, Read, Refused, request_adapter, to_frame
from .refusal import Refusal

_PR_SET_PDEATHSIG = 1


def confine(parent: int, address_space: int, largest_file: int) -> None:
    """Limits this process, before it touches the document, and ties its life to its parent's."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would be a copy of the record
    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))


def collect_seldom() -> None:
    """A page's words are thousands of objects in no cycle: looking for one took a seventh of a digital page's time."""
    gc.set_threshold(50_000)


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers requests until the parent closes or something is refused."""
    document: Document | None = None
    page_seconds = 0.0
    while (request := _next_request(requests)) is not None:
        try:
            if isinstance(request, Open):
                page_seconds = request.limits.page_seconds
                _limit_processor_time(page_seconds)
                document = Document(
                    Path(request.path),
                    renderer=request.renderer,
                    engine=request.engine,
                    tesseract_command=request.tesseract_command,
                    limits=request.limits,
                )
                reply = to_frame(Opened(pages=document.count))
            else:
                assert document is not None
                _limit_processor_time(page_seconds)
                reply = to_frame(PageRead(page=document.read(request.page)))
        except Refusal as refusal:
            reply = to_frame(Refused(code=refusal.code))
        except MemoryError:
            reply = to_frame(Refused(code="page_out_of_memory"))
        replies.write(reply)
        replies.flush()


def _next_request(requests: BinaryIO) -> Open | Read | None:
    header = requests.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (length,) = HEADER.unpack(header)
    assert length <= MAX_FRAME_BYTES
    return request_adapter.validate_json(requests.read(length))


def _limit_processor_time(seconds: float) -> None:
    """For what comes next. A program started for the page inherits it, and ends even if nobody is left to kill it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 1, hard))


def main() -> None:
    parent, address_space, largest_file = map(int, sys.argv[1:4])
    collect_seldom()
    confine(parent, address_space, largest_file)
    # Libraries print what they please: only replies may reach the parent.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
