"""Standard output, standard error, and how a command fails: one line with advice, no traceback."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

import asyncpg
import typer
from rich.console import Console

from shared.errors import ChartloomError

from .supervisor import ServicesRefusedError

# Through a pipe nobody sees where a line would break, and a broken code can't be searched for.
PIPE_WIDTH = 200
out = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, width=None if sys.stderr.isatty() else PIPE_WIDTH)

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a command's work. An error that has advice ends it with exit code 2."""
    try:
        return asyncio.run(work)
    except ChartloomError as error:
        err.print(f"[red]{error.code}[/red]: {error.message}", highlight=False)
        raise typer.Exit(2) from None
    except asyncpg.PostgresError as error:
        err.print(f"[red]the database refused[/red] (SQLSTATE {error.sqlstate}): {error.args[0]}", highlight=False)
        raise typer.Exit(2) from None
    except ServicesRefusedError as error:
        err.print(f"[red]a service refused to start[/red]: {error}", highlight=False)
        raise typer.Exit(2) from None
