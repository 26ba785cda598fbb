"""What one sees in the terminal: documents moving through their stages, then what was found in them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from .command import command
from .documents import Submitted

TIMELINE_LINES = 12

STAGE_TITLES = {
    "ocr": "read",
    "ai_detect": "find",
    "ai_enrich": "understand",
    "ai_narrate": "tell",
    "persist": "keep",
}
"""The pipeline's steps in words. A step that is not named here is shown by its own name."""
PARTS_OF = {"ocr_pages": "ocr"}
"""Jobs that are parts of a step, many of them: their number is shown there."""

_MARKS = {
    "pending": ("waiting", "dim"),
    "processing": ("working", "cyan"),
    "completed": ("done", "green"),
    "failed": ("will retry", "yellow"),
    "dead_letter": ("failed", "red"),
    "cancelled": ("cancelled", "red"),
}
_STATUS_STYLE = {"completed": "green", "failed": "red", "quarantined": "red", "cancelled": "red"}


def progress(
    submitted: list[Submitted],
    statuses: Mapping[UUID, str],
    stages: Mapping[UUID, list[dict[str, Any]]],
) -> Table:
    """A row a document, a column a stage."""
    table = Table(box=None, pad_edge=False)
    table.add_column("document", overflow="ellipsis", no_wrap=True, max_width=34)
    known = [*STAGE_TITLES, *_unknown_types(stages)]
    for job_type in known:
        table.add_column(STAGE_TITLES.get(job_type, job_type), no_wrap=True)
    table.add_column("", no_wrap=True)
    for document in submitted:
        by_type: dict[str, list[dict[str, Any]]] = {}
        for stage in stages.get(document.shell_file_id, []):
            by_type.setdefault(PARTS_OF.get(stage["job_type"], stage["job_type"]), []).append(stage)
        status = statuses.get(document.shell_file_id, "uploading")
        table.add_row(
            Text(Path(document.name).name),
            *(_cell(by_type.get(job_type, [])) for job_type in known),
            Text(status, _STATUS_STYLE.get(status, "")),
        )
    return table


def stage_line(document: Submitted, stage: Mapping[str, Any]) -> str:
    """One change, for output that is no terminal."""
    job_type = PARTS_OF.get(stage["job_type"], stage["job_type"])
    title = STAGE_TITLES.get(job_type, job_type)
    reason = f" ({stage['error_code']})" if stage["error_code"] else ""
    return f"{Path(document.name).name}: {title} {_MARKS[stage['status']][0]}{reason}"


def findings(document: Mapping[str, Any]) -> Group:
    """What was found in one document: each fact with its page and its words."""
    heading = Text(Path(document["file"]).name, "bold")
    heading.append(f"  {document['status']}", _STATUS_STYLE.get(document["status"], ""))
    if document["error"]:
        return Group(heading, Text(f"{document['error']['code']}: {document['error']['message']}\n", "red"))
    noted = ", ".join(found["kind"] for found in (document["scan"] or {"findings": []})["findings"])
    scan = [Text(f"The security scan noted: {noted}", "yellow")] if noted else []
    table = Table(box=None, pad_edge=False)
    for column in ("page", "kind", "found", "details", "quote"):
        table.add_column(column, overflow="fold")
    for entity in document["entities"]:
        table.add_row(
            str(entity["source"]["page"]),
            entity["kind"],
            entity["label"],
            Text(_details(entity)),
            Text(f"“{' '.join(entity['source']['quote'].split())}”", "italic"),
        )
    waiting = _waiting(document["waiting"])
    if not document["entities"]:
        return Group(heading, *scan, *waiting, Text(""))
    heading.append(f"  {len(document['pages'])} page(s), {len(document['entities'])} findings", "dim")
    parts: list[Any] = [heading, *scan, table]
    dated = [entry for entry in document["timeline"] if entry["date"]]
    if dated:
        parts.append(Text("Timeline", "bold"))
        parts += [Text(f"  {entry['date']:<10}  {entry['title']}") for entry in dated[:TIMELINE_LINES]]
        if len(dated) > TIMELINE_LINES:
            parts.append(Text(f"  … and {len(dated) - TIMELINE_LINES} more, in --json", "dim"))
    if document["narrative"]:
        parts += [Text("In words", "bold"), Text(document["narrative"])]
    return Group(*parts, *waiting, Text(""))


def _waiting(reviews: Sequence[Mapping[str, Any]]) -> list[Text]:
    """What a person has to look at."""
    if any(review["reason"] == "other_person" for review in reviews):
        return [Text("It may be somebody else's: nothing of it counts until a person has said whose it is.", "yellow")]
    if not reviews:
        return []
    counts = Counter(review["reason"] for review in reviews)
    told = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(counts.items()))
    return [Text(f"Waiting for a person: {told} (docs/review.md)", "dim")]


def print_next_steps(console: Console, home: Path, json_path: Path | None) -> None:
    """Where to look next."""
    console.print("[bold]Next[/bold]")
    name = command()
    lines = [
        f"every word with its box, every fact with its place:  {name} process FILE --json {json_path or 'OUT.json'}",
        f"keep it running, with pages to look at:  {name} up  (and  {name} status,  {name} jobs)",
        f"what the services said:  {home / 'logs'}",
        f"your files and what was found stay in:  {home}",
        "how it works:  docs/architecture.md,  docs/job-contract.md",
    ]
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _details(entity: Mapping[str, Any]) -> str:
    """As one would say it: ``negated``, ``104 g/L (115 - 165) Low``, ``5 mg oral twice daily, since 2019``."""
    attributes = dict(entity["attributes"])

    def said(name: str) -> str:
        attribute = attributes.pop(name, None)
        return attribute["text"] if attribute else ""

    measured = " ".join(part for part in (said("value"), said("unit")) if part)
    expected = said("range")
    result = " ".join(part for part in (measured, f"({expected})" if expected else "", said("flag")) if part)
    taken = " ".join(part for part in (said("dose"), said("route"), said("frequency")) if part)
    when = attributes.pop("time", None)
    date = (when["normalised"] or when["text"]) if when else ""
    context = [
        entity["assertion"] if entity["assertion"] != "affirmed" else "",
        entity["subject"] if entity["subject"] != "patient" else "",
    ]
    rest = [f"{name} {attribute['text']}" for name, attribute in attributes.items()]
    return ", ".join(part for part in (*context, result, taken, *rest, date) if part)


def _cell(stages: list[dict[str, Any]]) -> Text:
    if not stages:
        return Text("·", "dim")
    parts = [stage for stage in stages if stage["job_type"] in PARTS_OF]
    unwell = [stage for stage in parts if stage["error_code"]]
    done = sum(stage["status"] == "completed" for stage in parts)
    if parts and not unwell:
        mark, style = _MARKS["completed" if done == len(parts) else "processing"]
        return Text(f"{mark} {done}/{len(parts)}", style)
    stage = unwell[-1] if unwell else stages[-1]
    mark, style = _MARKS[stage["status"]]
    if stage["worked_s"] is not None and stage["status"] in ("completed", "processing"):
        mark = f"{mark} {stage['worked_s']:.1f} s"
    if stage["error_code"]:
        mark = f"{mark}: {stage['error_code']}"
    return Text(mark, style)


def _unknown_types(stages: Mapping[UUID, list[dict[str, Any]]]) -> list[str]:
    seen = {stage["job_type"] for found in stages.values() for stage in found}
    return sorted(seen - STAGE_TITLES.keys() - PARTS_OF.keys())
