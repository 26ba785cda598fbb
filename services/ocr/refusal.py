"""Why a document or a page is not read. Only the code crosses from the child, so a message can't carry hostile text."""

from typing import Literal, get_args

from shared.errors import TerminalError

RefusalCode = Literal[
    "file_empty",
    "file_type_unknown",
    "file_encrypted",
    "file_corrupt",
    "file_too_large",
    "file_too_long",
    "file_too_complex",
    "page_too_large",
    "page_too_dense",
    "page_timed_out",
    "page_out_of_memory",
    "page_reader_died",
    "page_invalid",
    "file_infected",
    "file_has_active_content",
]
"""The last two are of files in quarantine; "{}" in their advice is what was found."""

ADVICE: dict[RefusalCode, str] = {
    "file_empty": "The file is empty. Upload it again; if it is empty on your side too, ask its sender for a new copy.",
    "file_type_unknown": "This kind of file can't be read. Upload a PDF, JPEG, PNG, TIFF, HEIC, WebP or text file.",
    "file_encrypted": "The PDF is protected by a password. Save a copy without the password and upload that.",
    "file_corrupt": "The file is damaged or incomplete. Upload it again, or open it and save it as a new PDF first.",
    "file_too_large": "The file is larger than the limit. Split it, or save it at a lower resolution.",
    "file_too_long": "The document has more pages than the limit. Split it and upload the parts.",
    "file_too_complex": "The file can't be looked through within the limits. Print it to a new PDF and upload that.",
    "page_too_dense": "A page holds more words than the limit. Print the document to a new PDF and upload that.",
    "page_too_large": "A page has more pixels than the limit. Save it at a lower resolution (300 dpi is enough).",
    "page_timed_out": "A page took too long to read. Print the document to a new PDF, or scan it, and upload that.",
    "page_out_of_memory": "A page needs more memory than the limit. Print it to a new PDF and upload that.",
    "page_reader_died": "The page reader stopped on this document. Print it to a new PDF and upload that.",
    "page_invalid": "The page reader's answer does not hold together. Print it to a new PDF and upload that.",
    "file_infected": "The virus scanner found something in the file. It is kept in quarantine and was not opened.",
    "file_has_active_content": "The file is kept in quarantine and was not opened: it has {}. "
    "Print it to a new PDF and upload that.",
}

assert set(ADVICE) == set(get_args(RefusalCode))


class Refusal(Exception):  # noqa: N818 - a verdict on the document, not a fault of the program
    """Raised inside a child and again in its parent, which turns it into a ``TerminalError`` with the advice above."""

    def __init__(self, code: RefusalCode) -> None:
        super().__init__(code)
        self.code: RefusalCode = code


def as_error(code: RefusalCode, *found: str) -> TerminalError:
    """What ends the document's job: the code, and its advice with what was found."""
    return TerminalError(code, ADVICE[code].format(" and ".join(found)))
