"""Runs over documents that were read already: again, by another model, beside each other."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import typer
from rich.table import Table
from rich.text import Text

from . import comparison
from .console import err, out, run
from .deployment import open_deployment

app = typer.Typer()

Documents = Annotated[list[UUID] | None, typer.Option("--document", help="Only this one; may be repeated.")]
PASSES = {1: "find", 2: "understand", 3: "tell"}
DIFFERENCES_SHOWN = 20


@app.command()
def reprocess(
    from_pass: Annotated[int, typer.Option(min=1, max=3, help="1 finds, 2 understands, 3 tells.")],
    model_was: Annotated[
        str | None, typer.Option(help="Only what this model did, in that pass or a later one.")
    ] = None,
    documents: Documents = None,
    everything: Annotated[bool, typer.Option("--all", help="All completed documents.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most, the oldest first.")] = 1000,
    dry_run: Annotated[bool, typer.Option(help="Only say how many.")] = False,
) -> None:
    """Do completed documents again from a pass on, with the model that the service has now.

    The pages are not read anew. What is found supersedes the rows of before, which stay readable.
    """
    if not (model_was or documents or everything):
        err.print("Say which: --model-was, --document or --all.")
        raise typer.Exit(2)

    async def work() -> int:
        async with open_deployment() as deployment, deployment.owner() as connection:
            transaction = connection.transaction()
            await transaction.start()
            rows = await connection.fetch(
                "select * from chartloom.reprocess_documents($1, $2, $3, $4)", from_pass, model_was, documents, limit
            )
            await (transaction.rollback() if dry_run else transaction.commit())
            return len(rows)

    count = run(work())
    if dry_run:
        out.print(f"{count} would be done again from pass {from_pass} ({PASSES[from_pass]}) on.")
        return
    out.print(f"{count} are queued again from pass {from_pass} ({PASSES[from_pass]}) on; services that run take them.")


@app.command()
def shadow(
    documents: Documents = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most, the latest first.")] = 20,
) -> None:
    """Let the candidate (AI_SHADOW_MODEL of the service) read completed documents; nothing clinical is written.

    When it has, compare it: ``chartloom compare MODEL CANDIDATE``.
    """

    async def work() -> int:
        async with open_deployment() as deployment, deployment.owner() as connection:
            return len(await connection.fetch("select * from chartloom.shadow_documents($1, $2)", documents, limit))

    out.print(f"{run(work())} are queued for the candidate, behind all other work.")


@app.command()
def compare(
    run_a: Annotated[str, typer.Argument(help="A run's id, or a model's name: its latest run of each document.")],
    run_b: Annotated[str, typer.Argument(help="The same, of the other.")],
    truth: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Annotated texts, JSONL as in bench/evaluation.")
    ] = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write every difference to this file.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print differences, with words of the records.")] = False,
) -> None:
    """What changes from A to B on the documents that both have read: found, lost, said otherwise; and who is right."""
    compared, scores = run(_compare(run_a, run_b, _truths(truth) if truth else []))
    if not compared:
        err.print("There is no document that both have read.")
        raise typer.Exit(1)
    out.print(_by_document(compared))
    out.print(_in_all(compared, scores))
    if show:
        for document in compared:
            for difference in document.differences[:DIFFERENCES_SHOWN]:
                out.print(Text(f"{document.a.file_name}, page {difference.page}: {_line(difference)}"))
    if json_out:
        json_out.write_text(json.dumps(_as_json(compared, scores), ensure_ascii=False, indent=1))
        out.print(f"Written: {json_out}", highlight=False, markup=False)


Scores = list[tuple[str, int, comparison.Score, comparison.Score]]
"""Whose word it is, on how many decisions or documents, and how each of the two fares."""


async def _compare(
    run_a: str, run_b: str, truths: Sequence[comparison.Truth]
) -> tuple[list[comparison.Compared], Scores]:
    async with open_deployment() as deployment, deployment.owner() as connection:
        a = await comparison.read_runs(connection, run_a)
        b = await comparison.read_runs(connection, run_b)
        compared = comparison.compare(a, b)
        return compared, await _scores(connection, compared, truths)


async def _scores(
    connection: asyncpg.Connection, compared: Sequence[comparison.Compared], truths: Sequence[comparison.Truth]
) -> Scores:
    of_a, of_b = [document.a for document in compared], [document.b for document in compared]
    scores: Scores = []
    decided, score_a = await comparison.by_reviewers(connection, of_a)
    if decided:
        scores.append(("reviewers' decisions", decided, score_a, (await comparison.by_reviewers(connection, of_b))[1]))
    known, score_a = await comparison.by_annotations(connection, of_a, truths)
    if known:
        _, score_b = await comparison.by_annotations(connection, of_b, truths)
        scores.append(("annotated documents", known, score_a, score_b))
    return scores


def _truths(path: Path) -> list[comparison.Truth]:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    return [
        comparison.Truth(
            text=line["text"],
            entities=tuple((entity["start"], entity["end"], entity["kind"]) for entity in line["entities"]),
        )
        for line in lines
    ]


def _by_document(compared: Sequence[comparison.Compared]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("document", "A", "B", "same", "altered", "added", "lost", "rejected A", "B", "sentences A", "B"):
        table.add_column(column, justify="left" if column == "document" else "right", overflow="fold")
    for document in compared:
        table.add_row(
            Text(document.a.file_name),
            *map(str, (len(document.a.entities), len(document.b.entities), document.same)),
            *(str(document.count(change)) for change in ("altered", "added", "lost")),
            *map(str, (document.a.rejected, document.b.rejected, document.a.sentences, document.b.sentences)),
        )
    return table


def _in_all(compared: Sequence[comparison.Compared], scores: Scores) -> Text:
    models = [
        ", ".join(dict.fromkeys(model for document in compared for model in getattr(document, side).models))
        for side in ("a", "b")
    ]
    counts = {change: sum(document.count(change) for document in compared) for change in ("altered", "added", "lost")}
    lines = [
        f"\nA: {models[0]}   B: {models[1]}   {len(compared)} documents",
        f"{sum(document.same for document in compared)} findings are the same, "
        f"{counts['altered']} altered, {counts['added']} added, {counts['lost']} lost.",
    ]
    for name, count, score_a, score_b in scores:
        told = "; ".join(
            f"{side}: {score.right} right, {score.wrong} wrong, {score.missed} missed, F1 {score.f1:.3f}"
            for side, score in (("A", score_a), ("B", score_b))
        )
        lines.append(f"By {count} {name}: {told}.")
    return Text("\n".join(lines))


def _line(difference: comparison.Difference) -> str:
    said = "; ".join(f"{name}: {a} → {b}" for name, (a, b) in difference.fields.items())
    return f"{difference.change} {difference.kind} “{' '.join(difference.quote.split())}” {said}".rstrip()


def _as_json(compared: Sequence[comparison.Compared], scores: Scores) -> dict[str, Any]:
    return {
        "documents": [
            {
                "file": document.a.file_name,
                "shell_file_id": str(document.a.shell_file_id),
                **{
                    side: {"run_id": str(reading.run_id), "models": reading.models, "findings": len(reading.entities)}
                    for side, reading in (("a", document.a), ("b", document.b))
                },
                "same": document.same,
                "differences": [
                    {
                        "change": difference.change,
                        "kind": difference.kind,
                        "page": difference.page,
                        "quote": difference.quote,
                        "fields": dict(difference.fields),
                    }
                    for difference in document.differences
                ],
            }
            for document in compared
        ],
        "scores": [
            {
                "by": name,
                "count": count,
                **{
                    side: {"right": score.right, "wrong": score.wrong, "missed": score.missed, "f1": round(score.f1, 3)}
                    for side, score in (("a", score_a), ("b", score_b))
                },
            }
            for name, count, score_a, score_b in scores
        ],
    }
