"""Pages from templates, escaped by default."""

import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import wording
from .documents import Document

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"


class Renderer:
    """Holds the compiled templates."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.update(
            wording=wording,
            # Static files may be kept by a browser for as long as their contents are these.
            version=hashlib.sha256(b"".join(path.read_bytes() for path in sorted(STATIC.iterdir()))).hexdigest()[:12],
        )
        self._environment.filters.update(
            moment=wording.moment,
            partial_date=wording.partial_date,
            seconds=wording.seconds,
            size=wording.size,
            details=wording.details,
            told=wording.told,
            parts=wording.parts,
            when=wording.when,
        )
        self._document = self._environment.get_template("document.html")

    def page(self, template: str, **context: Any) -> str:
        return self._environment.get_template(template).render(**context)

    def document(self, document: Document) -> str:
        """A document as the list of documents shows it: the page and the event stream send the same."""
        return self._document.render(document=document)
