"""Damaged sheets read by the service's own code, two at a time."""

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from PIL import Image

from services.ocr.document import Document
from services.ocr.limits import ReaderLimits
from shared.contract.pages import Page

from . import sheets
from .damage import KINDS

PROCESSES = 2
T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """A sheet by its maker's name and seed, its resolution, and what is done to it."""

    maker: str
    seed: int
    dpi: int
    damage: str


def make(task: Task) -> sheets.Sheet:
    maker: Callable[[int], sheets.Sheet] = getattr(sheets, task.maker)
    return maker(task.seed)


def read(task: Task) -> Page:
    """The sheet as the service reads it, from a PNG that states its resolution."""
    pixels = KINDS[task.damage](sheets.render(make(task), task.dpi), task.seed)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sheet.png")
        Image.fromarray(pixels).save(path, compress_level=1, dpi=(task.dpi, task.dpi))
        document = Document(
            path, renderer="pypdfium2", engine="tesserocr", tesseract_command=None, limits=ReaderLimits()
        )
        return document.read(1)


async def of_all(work: Callable[[Task], T], tasks: Iterable[Task]) -> list[T]:
    """``work`` of each task, in their order."""
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        return list(await asyncio.gather(*(loop.run_in_executor(pool, work, task) for task in tasks)))


def _one_thread() -> None:
    os.environ["OMP_THREAD_LIMIT"] = "1"
