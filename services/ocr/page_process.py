"""The child: looks through one document, opens it and reads its pages, as its parent asks over stdin and stdout.

Run as ``python -m services.ocr.page_process RESTRICTIONS``: ``confinement.Restrictions`` in JSON.
"""

import gc
import os
import sys
from pathlib import Path
from typing import BinaryIO

from .confinement import Restrictions, confine, limit_processor_time, name_process
from .page_protocol import (
    HEADER,
    MAX_FRAME_BYTES,
    Open,
    Opened,
    PageRead,
    Read,
    Recognise,
    Refused,
    Words,
    request_adapter,
    to_frame,
)
from .refusal import Refusal
from .scan.verdict import Inspect

NAME = "page-reader"
"""What ps and top call it: who was forked has its parent's command line."""


def collect_seldom() -> None:
    """A page's words are thousands of objects in no cycle: looking for one took a seventh of a digital page's time."""
    gc.set_threshold(50_000)


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answers requests until the parent closes or something is refused."""
    # When this process is confined: these are the libraries that read what people send.
    from .document import Document  # noqa: PLC0415
    from .scan.inspection import inspect  # noqa: PLC0415

    document: Document | None = None
    page_seconds = 0.0

    def ask_parent(question: Recognise) -> Words:
        replies.write(to_frame(question))
        replies.flush()
        answer = _next_request(requests)
        if not isinstance(answer, Words):
            sys.exit(1)  # it has no answer, and will not have another question
        return answer

    while (request := _next_request(requests)) is not None:
        try:
            if isinstance(request, Inspect):
                limit_processor_time(request.limits.scan_seconds)
                reply = to_frame(inspect(Path(request.path), request.limits))
            elif isinstance(request, Open):
                page_seconds = request.limits.page_seconds
                limit_processor_time(page_seconds)
                document = Document(
                    Path(request.path),
                    renderer=request.renderer,
                    engine=request.engine,
                    tesseract_command=request.tesseract_command,
                    limits=request.limits,
                    ask=ask_parent,
                )
                reply = to_frame(Opened(pages=document.count))
            else:
                assert document is not None
                assert isinstance(request, Read)
                limit_processor_time(page_seconds)
                page = document.read(request.page)
                image = document.image(request.page) if request.with_image else None
                reply = to_frame(PageRead(page=page, image=image or b""))
        except Refusal as refusal:
            reply = to_frame(Refused(code=refusal.code))
        except MemoryError:
            reply = to_frame(Refused(code="file_too_complex" if isinstance(request, Inspect) else "page_out_of_memory"))
        replies.write(reply)
        replies.flush()


def _next_request(requests: BinaryIO) -> Inspect | Open | Read | Words | None:
    header = requests.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    length, _ = HEADER.unpack(header)
    assert length <= MAX_FRAME_BYTES
    return request_adapter.validate_json(requests.read(length))


def replies_only() -> BinaryIO:
    """Standard output, for replies alone: libraries print what they please, and go to nowhere from now on."""
    replies = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return replies


def main() -> None:
    replies = replies_only()
    name_process(NAME)
    collect_seldom()
    confine(Restrictions.model_validate_json(sys.argv[1]))
    serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
