"""The process that children are forked from: it has imported what they need, and never sees a byte of a document.

Run as ``python -m services.ocr.fork_server ENGINE``, with its half of a socket pair as standard input. A child that
starts by itself spends half a second on imports, twenty times what reading a digital page takes.
"""

import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from typing import Any, NoReturn

from .confinement import Restrictions, protect_from_children

MAX_MESSAGE_BYTES = 64 * 1024
READY = 0
"""The number of no child: the server has imported all there is to import."""
_FIRST_OF_OTHERS = 3
"""Descriptors: 0 to 2 are a child's own."""


def main() -> None:
    protect_from_children()
    import_libraries(sys.argv[1])
    control = socket.socket(fileno=os.dup(0))
    _to_nowhere(0)
    _to_nowhere(1)
    # What is there now is never garbage: a child that collected it would copy every page of memory.
    gc.collect()
    gc.freeze()
    control.send(_message(number=READY))
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is control:
                    message, descriptors, _, _ = socket.recv_fds(control, MAX_MESSAGE_BYTES, 2)
                    if not message:  # the service has ended
                        return
                    asked = json.loads(message)
                    pid = _fork(asked, *descriptors)
                    for descriptor in descriptors:
                        os.close(descriptor)
                    handle = os.pidfd_open(pid)
                    socket.send_fds(control, [_message(number=asked["number"])], [handle])
                    selector.register(handle, selectors.EVENT_READ, (asked["number"], pid))
                else:
                    number, pid = key.data
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    _, status = os.waitpid(pid, 0)
                    control.send(_message(number=number, status=os.waitstatus_to_exitcode(status)))


def import_libraries(engine: str) -> None:
    """What reads what people send; nothing of it starts a thread, which no fork would take along."""
    environment = dict(os.environ)
    for module in ("services.ocr.page_process", "services.ocr.document", "services.ocr.scan.inspection"):
        importlib.import_module(module)
    if engine == "tesserocr":
        importlib.import_module("services.ocr.recognise").tesserocr_recogniser()
    # OpenCV adds to it.
    os.environ.clear()
    os.environ.update(environment)


def _message(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def _fork(asked: dict[str, Any], questions: int, answers: int) -> int:
    """``python -m module RESTRICTIONS`` as far as the child can tell; the descriptors become its input and output."""
    pid = os.fork()
    if pid:
        return pid
    try:
        _become(asked, questions, answers)
    finally:
        os._exit(1)


def _become(asked: dict[str, Any], questions: int, answers: int) -> NoReturn:
    parent = os.getppid()
    os.setsid()
    os.dup2(questions, 0)
    os.dup2(answers, 1)
    _to_nowhere(2)
    os.closerange(_FIRST_OF_OTHERS, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = os.fdopen(0)
    signal.set_wakeup_fd(-1)
    restrictions = Restrictions.model_validate(asked["restrictions"]).model_copy(update={"parent": parent})
    sys.argv = [asked["module"], restrictions.model_dump_json()]
    importlib.import_module(asked["module"]).main()
    os._exit(0)


def _to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


if __name__ == "__main__":
    main()
