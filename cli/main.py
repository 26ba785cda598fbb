"""The ``chartloom`` command."""

import asyncio
import contextlib
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from . import operations, patients, runs
from .capacity.app import app as capacity
from .console import err, out, run
from .deployment import open_deployment
from .process import Request, interruptible
from .process import process as process_documents
from .supervisor import Supervisor

app = typer.Typer(
    name="chartloom",
    help="Health records in, a source-linked clinical timeline out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.command()
def process(
    files: Annotated[
        list[Path], typer.Argument(exists=True, dir_okay=False, readable=True, help="PDF, JPEG, PNG, TIFF or text.")
    ],
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Write everything that was found to this file.")
    ] = None,
    patient: Annotated[UUID | None, typer.Option(help="Whose record it is; a new patient where none is given.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds to wait for all documents.")] = 1800,
) -> None:
    """Submit files, wait, show what was found. Starts what isn't running.

    Exits 0 only if every document completed.
    """
    described = run(process_documents(Request(files, json_out, patient, timeout), out, err))
    if any(document["status"] != "completed" for document in described):
        raise typer.Exit(1)


@app.command()
def up() -> None:
    """Run the database, the services and the console in the foreground, with their logs. Ctrl-C drains them."""
    run(_up())


async def _up() -> None:
    interrupted = interruptible()
    async with open_deployment("apply") as deployment:
        supervisor = Supervisor(
            deployment, on_line=lambda service, line: out.print(f"{service:<10} {line}", markup=False, highlight=False)
        )
        if not supervisor.acquire():
            err.print("The services of this folder run already, in another terminal.")
            raise typer.Exit(1)
        supervisor.start(deployment.services)
        err.print("[bold]Chartloom is up[/bold]; process files from another terminal, ctrl-C drains and stops.")
        if supervisor.console_address:
            err.print(f"The console: {supervisor.console_address}", highlight=False, soft_wrap=True)
        try:
            while not interrupted.is_set():
                supervisor.check()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await interrupted.wait()
        finally:
            err.print("draining …")
            await supervisor.stop()


app.add_typer(operations.app)
app.add_typer(runs.app)
app.add_typer(patients.app)
app.add_typer(capacity)


def main() -> None:
    """Entry point of ``.venv/bin/chartloom``."""
    app()


if __name__ == "__main__":
    main()
