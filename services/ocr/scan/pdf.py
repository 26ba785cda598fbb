"""A PDF's structure, every object of it, those in object streams too: what is active in it, and what is hidden."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pikepdf

from services.ocr.limits import ReaderLimits
from services.ocr.refusal import Refusal

from .policy import FindingKind

_ACTIONS: dict[str, FindingKind] = {
    "/JavaScript": "javascript",
    "/Launch": "launch",
    "/SubmitForm": "submit_form",
    "/ImportData": "import_data",
    "/GoToR": "remote_go_to",
    "/GoToE": "embedded_file",
    "/Rendition": "rich_media",
    "/Movie": "rich_media",
    "/Sound": "rich_media",
    "/RichMediaExecute": "rich_media",
    "/GoTo3DView": "rich_media",
}
_ANNOTATIONS: dict[str, FindingKind] = {
    "/RichMedia": "rich_media",
    "/Movie": "rich_media",
    "/Sound": "rich_media",
    "/Screen": "rich_media",
    "/3D": "rich_media",
    "/FileAttachment": "embedded_file",
}
_KEYS: dict[str, FindingKind] = {
    "/JS": "javascript",
    "/JavaScript": "javascript",
    "/AA": "open_action",
    "/EF": "embedded_file",
    "/EmbeddedFiles": "embedded_file",
    "/XFA": "xfa",
}
_HARMLESS_ON_OPENING = frozenset({"/GoTo", "/Named"})
"""The first page at its full width: nearly every PDF opens so."""

_NAMES = {*_ACTIONS, *_ANNOTATIONS, *_KEYS, "/OpenAction", "/EmbeddedFile"}
_INTERESTING = re.compile(b"(?:" + b"|".join(re.escape(name.encode()) for name in _NAMES) + rb")(?![^\s/<>\[\]()%])")
"""In an object as qpdf writes it, where every #xx of a name is resolved. Few match, and only those are walked."""


class Structure(NamedTuple):
    """``pages`` is what the page tree says."""

    pages: int
    is_encrypted: bool
    findings: Counter[FindingKind]


def inspect_pdf(path: Path, limits: ReaderLimits) -> Structure:
    """Raises ``Refusal``: ``file_corrupt``, ``file_encrypted``, ``file_too_long``, ``file_too_complex``."""
    try:
        with pikepdf.open(path, suppress_warnings=True, inherit_page_attributes=False) as pdf:
            if len(pdf.objects) > limits.max_objects:
                raise Refusal("file_too_complex")
            pages = _page_count(pdf)
            if pages > limits.max_pages:
                raise Refusal("file_too_long")
            findings: Counter[FindingKind] = Counter()
            for item in pdf.objects:
                written = _written(item)
                if len(written) > limits.max_object_bytes:
                    raise Refusal("file_too_complex")
                if _INTERESTING.search(written):
                    for dictionary in _dictionaries(item):
                        findings.update(_found(dictionary))
            return Structure(pages, bool(pdf.is_encrypted), findings)
    except pikepdf.PasswordError as error:
        raise Refusal("file_encrypted") from error
    except RecursionError as error:
        raise Refusal("file_too_complex") from error
    except (pikepdf.PdfError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        # What a structure that contradicts itself comes out as, once it is Python.
        raise Refusal("file_corrupt") from error


def _page_count(pdf: pikepdf.Pdf) -> int:
    count = pdf.Root.Pages.get("/Count", 0)
    # Some write none, or nonsense; the renderer counts them itself.
    return max(1, int(count)) if isinstance(count, int) else 1


def _written(item: Any) -> bytes:
    """Without a stream's contents. A number that is an object of its own, a stream's length say, comes as Python's."""
    if not isinstance(item, pikepdf.Object):
        return b""
    shown = item.stream_dict if isinstance(item, pikepdf.Stream) else item
    written: bytes = shown.unparse(resolved=True)
    return written


def _dictionaries(item: Any) -> Iterator[Any]:
    """Each dictionary inside an object, itself among them. What it refers to comes by itself."""
    waiting: list[Any] = [item]
    inside: list[Any]
    while waiting:
        current = waiting.pop()
        if isinstance(current, pikepdf.Stream):
            current = current.stream_dict
        if isinstance(current, pikepdf.Dictionary):
            yield current
            inside = [value for _, value in current.items()]
        elif isinstance(current, pikepdf.Array):
            inside = list(current)
        else:
            continue
        waiting += [value for value in inside if isinstance(value, pikepdf.Object) and not value.is_indirect]


def _found(dictionary: Any) -> Iterator[FindingKind]:
    if kind := _ACTIONS.get(_name(dictionary, "/S")):
        yield kind
    if kind := _ANNOTATIONS.get(_name(dictionary, "/Subtype")):
        yield kind
    if _name(dictionary, "/Type") == "/EmbeddedFile":
        yield "embedded_file"
    for key in dictionary.keys():  # noqa: SIM118 - pikepdf's dictionaries are no iterators
        if kind := _KEYS.get(key):
            yield kind
    opening = dictionary.get("/OpenAction")
    if isinstance(opening, pikepdf.Dictionary) and _name(opening, "/S") not in _HARMLESS_ON_OPENING:
        yield "open_action"


def _name(dictionary: Any, key: str) -> str:
    value = dictionary.get(key)
    return str(value) if isinstance(value, pikepdf.Name) else ""
