"""What is done about what is found in a file: a table, which settings may change."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator

FindingKind = Literal[
    "javascript",
    "launch",
    "open_action",
    "embedded_file",
    "rich_media",
    "submit_form",
    "import_data",
    "remote_go_to",
    "xfa",
    "polyglot",
    "type_mismatch",
]
Action = Literal["allow", "flag", "quarantine"]
Policy = Mapping[FindingKind, Action]

DEFAULT_POLICY: Policy = {
    # What starts a program, or brings one along. Nothing here would, but the file itself can be handed out again.
    "launch": "quarantine",
    "embedded_file": "quarantine",
    # Forms of hospitals and insurers have these; they do nothing where only the picture of a page is looked at.
    "javascript": "flag",
    "open_action": "flag",
    "rich_media": "flag",
    "submit_form": "flag",
    "import_data": "flag",
    "remote_go_to": "flag",
    "xfa": "flag",
    "polyglot": "flag",
    # A scanner that calls a JPEG "scan.pdf" is no attack.
    "type_mismatch": "flag",
}

IN_WORDS: Mapping[FindingKind, str] = {
    "javascript": "a script",
    "launch": "a command that starts a program",
    "open_action": "something that happens as soon as it is opened",
    "embedded_file": "another file inside it",
    "rich_media": "sound, film or 3D content",
    "submit_form": "a form that sends what is filled in",
    "import_data": "a form that fetches data",
    "remote_go_to": "a link that opens another file",
    "xfa": "a form of an abandoned kind (XFA)",
    "polyglot": "a second kind of file in the same bytes",
    "type_mismatch": "another kind of file than its name says",
}

SEVERITY: Mapping[Action, int] = {"allow": 0, "flag": 1, "quarantine": 2}


def _completed(changes: object) -> object:
    return {**DEFAULT_POLICY, **changes} if isinstance(changes, Mapping) else changes


PolicySetting = Annotated[dict[FindingKind, Action], BeforeValidator(_completed)]
"""``{"javascript": "quarantine"}`` changes that row of the table and no other."""
