"""Sheets of paper whose every word is known: letters, and laboratory reports with ruled tables."""

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pypdfium2 as pdfium
import reportlab
from numpy.typing import NDArray
from reportlab.lib.pagesizes import A4
from reportlab.lib.units import mm
from reportlab.lib.utils import simpleSplit
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

_LEFT, _RIGHT, _TOP, _FOOT = 18 * mm, A4[0] - 18 * mm, A4[1] - 18 * mm, 14 * mm
FONTS = (
    ("Helvetica", "Helvetica-Bold"),
    ("Times-Roman", "Times-Bold"),
    ("Vera", "VeraBd"),
    ("Courier", "Courier-Bold"),
)


class Analyte(NamedTuple):
    """What a laboratory measures, its unit, where it is normal, and how many decimals are told."""

    name: str
    unit: str
    low: float
    high: float
    decimals: int


ANALYTES = tuple(
    Analyte(*row)
    for row in (
        ("Haemoglobin", "g/L", 115, 165, 0),
        ("Haematocrit", "L/L", 0.36, 0.47, 2),
        ("Red cell count", "10^12/L", 3.8, 5.5, 2),
        ("White cell count", "10^9/L", 4.0, 11.0, 1),
        ("Platelets", "10^9/L", 150, 400, 0),
        ("MCV", "fL", 80.0, 100.0, 1),
        ("MCH", "pg", 27.0, 32.0, 1),
        ("RDW", "%", 11.5, 14.5, 1),
        ("Neutrophils", "10^9/L", 2.0, 7.5, 2),
        ("Lymphocytes", "10^9/L", 1.0, 4.0, 2),
        ("Monocytes", "10^9/L", 0.2, 1.0, 2),
        ("Eosinophils", "10^9/L", 0.0, 0.5, 2),
        ("Basophils", "10^9/L", 0.0, 0.1, 2),
        ("ESR", "mm/h", 0, 20, 0),
        ("Sodium", "mmol/L", 133, 146, 0),
        ("Potassium", "mmol/L", 3.5, 5.3, 1),
        ("Chloride", "mmol/L", 95, 108, 0),
        ("Bicarbonate", "mmol/L", 22, 29, 0),
        ("Urea", "mmol/L", 2.5, 7.8, 1),
        ("Creatinine", "umol/L", 45, 84, 0),
        ("eGFR", "mL/min", 60, 120, 0),
        ("Glucose, fasting", "mmol/L", 3.9, 5.5, 1),
        ("HbA1c", "mmol/mol", 20, 41, 0),
        ("Calcium, adjusted", "mmol/L", 2.20, 2.60, 2),
        ("Phosphate", "mmol/L", 0.80, 1.50, 2),
        ("Magnesium", "mmol/L", 0.70, 1.00, 2),
        ("Albumin", "g/L", 35, 50, 0),
        ("Total protein", "g/L", 60, 80, 0),
        ("Bilirubin, total", "umol/L", 0, 21, 0),
        ("ALT", "U/L", 10, 50, 0),
        ("AST", "U/L", 10, 40, 0),
        ("ALP", "U/L", 30, 130, 0),
        ("Gamma GT", "U/L", 6, 42, 0),
        ("CRP", "mg/L", 0, 5, 0),
        ("Ferritin", "ug/L", 15, 200, 0),
        ("Iron", "umol/L", 10.7, 32.2, 1),
        ("Transferrin saturation", "%", 20, 50, 0),
        ("Vitamin B12", "ng/L", 180, 900, 0),
        ("Folate", "ug/L", 3.0, 20.0, 1),
        ("TSH", "mU/L", 0.27, 4.20, 2),
        ("Free T4", "pmol/L", 12.0, 22.0, 1),
        ("Cholesterol, total", "mmol/L", 0.0, 5.0, 1),
        ("HDL cholesterol", "mmol/L", 1.20, 2.30, 2),
        ("Triglycerides", "mmol/L", 0.40, 1.70, 2),
        ("Uric acid", "umol/L", 140, 360, 0),
        ("Troponin T", "ng/L", 0, 14, 0),
        ("INR", "", 0.9, 1.2, 1),
        ("D-dimer", "ng/mL", 0, 500, 0),
    )
)

Row = tuple[str, ...]


@dataclass(frozen=True)
class Sheet:
    """``pdf`` has one page; ``text`` are its words in reading order; ``tables`` the cells of each ruled table."""

    pdf: bytes
    text: str
    tables: tuple[tuple[Row, ...], ...] = ()


@dataclass
class Pen:
    """A page as it is drawn, and what has been written on it."""

    font: str
    bold: str
    size: float
    file: io.BytesIO = field(default_factory=io.BytesIO)
    said: list[str] = field(default_factory=list)
    y: float = _TOP

    def __post_init__(self) -> None:
        self.canvas = Canvas(self.file, pagesize=A4, invariant=1)

    def paragraph(self, text: str, *, bold: bool = False, size: float | None = None) -> None:
        size = size or self.size
        font = self.bold if bold else self.font
        self.canvas.setFont(font, size)
        for line in simpleSplit(text, font, size, _RIGHT - _LEFT):
            self.y -= 1.3 * size
            self.canvas.drawString(_LEFT, self.y, line)
        self.y -= 0.35 * size
        self.said.append(text)
        assert self.y > _FOOT, "the page is too full"

    def finished(self) -> tuple[bytes, str]:
        self.canvas.save()
        return self.file.getvalue(), " ".join(self.said)


@cache
def _with_vera() -> None:
    folder = Path(reportlab.__file__).parent / "fonts"
    for name in ("Vera", "VeraBd"):
        pdfmetrics.registerFont(TTFont(name, folder / f"{name}.ttf"))


def letter(seed: int) -> Sheet:
    """A page of prose with doses, dates and results in it."""
    return letters([seed])


def letters(seeds: Sequence[int]) -> Sheet:
    """A document with a letter on each page, all in the first one's font."""
    _with_vera()
    font, bold = FONTS[seeds[0] % 3]
    pen = Pen(font, bold, {"Helvetica": 10, "Times-Roman": 11, "Vera": 8.5}[font])
    for seed in seeds:
        _write_letter(pen, random.Random(f"letter {seed}"))
        pen.canvas.showPage()
        pen.y = _TOP
    return Sheet(*pen.finished())


def _write_letter(pen: Pen, source: random.Random) -> None:
    pen.paragraph(f"{source.choice(_PLACES)} {source.choice(_CLINICS)}", bold=True, size=15)
    pen.paragraph(
        f"Telephone 01632 960 {source.randint(100, 999)}. Clinic date: {_day(source)}. Typed: {_day(source)}."
    )
    pen.paragraph(f"Re: {source.choice(_NAMES)}, born {_day(source)}, record number NV-{source.randint(10000, 99999)}")
    for heading in ("Diagnoses", "History", "Examination", "Results", "Medicines", "Plan"):
        pen.paragraph(heading, bold=True, size=1.15 * pen.size)
        sentences = [source.choice(_SENTENCES)(source) for _ in range(6)]
        pen.paragraph(" ".join(sentences[:3]))
        pen.paragraph(" ".join(sentences[3:]))
    pen.paragraph(f"Dr {source.choice(_NAMES)}, consultant physician, {_day(source)}")


def two_columns(seed: int) -> Sheet:
    """Prose in two columns, side by side."""
    source = random.Random(f"columns {seed}")
    pen = Pen("Times-Roman", "Times-Bold", 10)
    pen.paragraph("Northmere Bulletin of Invented Cases", bold=True, size=15)
    top, width = pen.y - 10, (_RIGHT - _LEFT - 10 * mm) / 2
    for column in range(2):
        pen.y = top
        for _ in range(5):
            text = " ".join(source.choice(_SENTENCES)(source) for _ in range(5))
            pen.said.append(text)
            pen.canvas.setFont(pen.font, pen.size)
            for line in simpleSplit(text, pen.font, pen.size, width):
                pen.y -= 1.3 * pen.size
                pen.canvas.drawString(_LEFT + column * (width + 10 * mm), pen.y, line)
            pen.y -= 0.5 * pen.size
    return Sheet(*pen.finished())


def unruled_report(seed: int) -> Sheet:
    """Results in columns that white alone parts, as old laboratories print them."""
    source = random.Random(f"unruled {seed}")
    font, bold = source.choice(FONTS[:2])
    pen = Pen(font, bold, 10)
    style = _style(source)
    for analyte in source.sample(ANALYTES, 30):
        row = _row(source, analyte, style)
        pen.y -= 1.5 * pen.size
        pen.canvas.setFont(font, pen.size)
        left = _LEFT
        for name, cell in zip(style.columns, row, strict=True):
            pen.canvas.drawString(left, pen.y, cell)
            left += 5 * pen.size * _SHARES.get(name, 1.4)
        pen.said.append(" ".join(cell for cell in row if cell))
    return Sheet(*pen.finished())


def laboratory_report(seed: int) -> Sheet:
    """A ruled table or two between a heading and a comment; fonts, sizes, rules and columns differ by the seed."""
    _with_vera()
    source = random.Random(f"report {seed}")
    font, bold = source.choices(FONTS, (4, 2, 2, 1))[0]
    size = source.choice([8.5, 9, 9.5, 10]) - (1 if font == "Vera" else 0.5 if font == "Courier" else 0)
    pen = Pen(font, bold, size)
    pen.paragraph(f"{source.choice(_PLACES)} Pathology", bold=True, size=15)
    pen.paragraph(f"Patient: {source.choice(_NAMES)}. Born: {_day(source)}. Report CB-{source.randint(1000, 9999)}-26")
    pen.paragraph(f"Sample taken: {_day(source)}, {source.randint(7, 17):02d}:{source.randint(0, 59):02d}.")
    analytes = source.sample(ANALYTES, source.randint(20, 30))
    split = source.choice([len(analytes), len(analytes) // 2])
    style = _style(source)
    tables = []
    for group in (analytes[:split], analytes[split:]):
        if group:
            pen.y -= 6
            tables.append(_table(pen, source, group, style))
            pen.y -= 6
    pen.paragraph("Comment: please repeat in three months. No evidence of haemolysis.")
    pen.paragraph(f"Authorised by Dr {source.choice(_NAMES)}, consultant pathologist")
    return Sheet(*pen.finished(), tuple(tables))


def render(sheet: Sheet, dpi: int) -> NDArray[np.uint8]:
    page = pdfium.PdfDocument(sheet.pdf)[0]
    pixels: NDArray[np.uint8] = page.render(scale=dpi / 72, grayscale=True).to_numpy().squeeze()
    return pixels


class _Style(NamedTuple):
    columns: tuple[str, ...]
    rule: float
    grey: float
    vertical: bool
    sides: bool
    shaded: bool
    leading: float
    range_form: str
    number_align: str


def _style(source: random.Random) -> _Style:
    columns = source.choice(
        [
            ("Test", "Result", "Flag", "Unit", "Reference range"),
            ("Test", "Result", "Unit", "Reference range", "Flag"),
            ("Test", "Result", "Unit", "Low", "High"),
            ("Test", "Result", "Previous", "Unit", "Reference range"),
            ("Test", "Unit", "Result", "Reference", "Previous", "Before that"),
        ]
    )
    return _Style(
        columns,
        rule=source.choice([0.4, 0.5, 0.75, 1.0, 1.5]),
        grey=source.choice([0, 0, 0, 0.3, 0.5]),
        vertical=source.random() < 0.85,
        sides=source.random() < 0.85,
        shaded=source.random() < 0.4,
        leading=source.choice([1.45, 1.6, 1.8, 2.0]),
        range_form=source.choice(["{} - {}", "{} - {}", "{}-{}", "{} – {}", "({} - {})"]),
        number_align=source.choice(["left", "left", "right", "centre"]),
    )


_SHARES = {"Test": 3.4, "Unit": 1.7, "Flag": 1.0, "Reference range": 2.4, "Reference": 2.2}


def _table(pen: Pen, source: random.Random, analytes: list[Analyte], style: _Style) -> tuple[Row, ...]:
    rows = [style.columns, *(_row(source, analyte, style) for analyte in analytes)]
    shares = [_SHARES.get(name, 1.4) for name in style.columns]
    edges = [_LEFT]
    for share in shares:
        edges.append(edges[-1] + (_RIGHT - _LEFT) * share / sum(shares))
    height = style.leading * pen.size
    top = pen.y
    if style.shaded:
        pen.canvas.setFillGray(0.85)
        pen.canvas.rect(edges[0], top - height, edges[-1] - edges[0], height, stroke=0, fill=1)
        pen.canvas.setFillGray(0)
    for index, row in enumerate(rows):
        baseline = top - (index + 0.5) * height - 0.35 * pen.size
        font = pen.bold if index == 0 else pen.font
        pen.canvas.setFont(font, pen.size)
        for place, cell in enumerate(row):
            left, right = edges[place] + 3, edges[place + 1] - 3
            is_number = style.columns[place] not in ("Test", "Unit", "Flag")
            if not is_number or style.number_align == "left":
                pen.canvas.drawString(left, baseline, cell)
            elif style.number_align == "right":
                pen.canvas.drawRightString(right, baseline, cell)
            else:
                pen.canvas.drawCentredString((left + right) / 2, baseline, cell)
    pen.canvas.setStrokeGray(style.grey)
    pen.canvas.setLineWidth(style.rule)
    bottom = top - len(rows) * height
    for index in range(len(rows) + 1):
        pen.canvas.line(edges[0], top - index * height, edges[-1], top - index * height)
    if style.vertical:
        for edge in edges if style.sides else edges[1:-1]:
            pen.canvas.line(edge, top, edge, bottom)
    pen.y = bottom
    pen.said += [cell for row in rows for cell in row if cell]
    assert pen.y > _FOOT + 4 * pen.size, "the page is too full"
    return tuple(rows)


def _row(source: random.Random, analyte: Analyte, style: _Style) -> Row:
    def told(value: float) -> str:
        return f"{value:.{analyte.decimals}f}"

    def result() -> tuple[str, str]:
        spread = (analyte.high - analyte.low) or 1
        value = max(0.0, source.triangular(analyte.low - 0.6 * spread, analyte.high + 0.8 * spread))
        if source.random() < 0.04:
            return f"< {told(analyte.low or spread / 10)}", "L"
        if source.random() < 0.03:
            return f">{told(analyte.high)}", "H"
        return told(value), "H" if value > analyte.high else "L" if value < analyte.low else ""

    value, flag = result()
    cells = {
        "Test": analyte.name,
        "Result": value,
        "Flag": flag,
        "Unit": analyte.unit,
        "Low": told(analyte.low),
        "High": told(analyte.high),
        "Previous": result()[0] if source.random() < 0.7 else "",
        "Before that": result()[0] if source.random() < 0.5 else "",
    }
    reference = (
        f"< {told(analyte.high)}"
        if analyte.low == 0 and source.random() < 0.5
        else style.range_form.format(told(analyte.low), told(analyte.high))
    )
    cells["Reference range"] = cells["Reference"] = reference
    return tuple(cells[name] for name in style.columns)


# -- prose ------------------------------------------------------------------------------------------------------------

_PLACES = ("Harrow Vale", "Calder Bay", "Northmere", "Quarry Hill", "Mill Lane")
_CLINICS = ("Rheumatology Clinic", "General Hospital", "Department of Acute Medicine", "Diabetes Centre")
_NAMES = (
    "Margaret Ashdown",
    "Tobias Reyes",
    "Ines Halvorsen",
    "Owen Tadley",
    "Priya Raman",
    "Jonas Ekwall",
    "Ruth Adeyemi",
)
_PROBLEMS = (
    "type 2 diabetes mellitus", "essential hypertension", "paroxysmal atrial fibrillation", "rheumatoid arthritis",
    "community-acquired pneumonia", "iron deficiency anaemia", "gastro-oesophageal reflux disease", "migraine",
)  # fmt: skip
_SIGNS = ("chest pain", "breathlessness", "night sweats", "weight loss", "ankle swelling", "fever", "morning stiffness")
_MEDICINES = ("metformin", "ramipril", "bisoprolol", "atorvastatin", "levothyroxine", "methotrexate", "omeprazole")


def _day(source: random.Random) -> str:
    months = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October")
    return f"{source.randint(1, 28)} {source.choice(months)} {source.randint(1951, 2026)}"


def _result(source: random.Random) -> str:
    analyte = source.choice(ANALYTES)
    value = source.uniform(analyte.low, 1.5 * analyte.high)
    low, high, told = (f"{number:.{analyte.decimals}f}" for number in (analyte.low, analyte.high, value))
    return f"{analyte.name} {told} {analyte.unit} ({low} - {high}).".replace("  ", " ")


_SENTENCES = (
    lambda s: f"{s.choice(_PROBLEMS).capitalize()}, diagnosed in {s.randint(1995, 2025)} and reviewed on {_day(s)}.",
    lambda s: f"The patient reports {s.choice(_SIGNS)} for {s.randint(2, 14)} days, but no {s.choice(_SIGNS)}.",
    lambda s: f"Blood pressure {s.randint(105, 170)}/{s.randint(60, 98)} mmHg, pulse {s.randint(54, 118)} per minute.",
    lambda s: f"Started {s.choice(_MEDICINES)} {s.randint(1, 40) * 5 / 2:g} mg by mouth once daily.",
    lambda s: f"Continue {s.choice(_MEDICINES)} {s.randint(1, 20) * 25} mg twice daily until {_day(s)}.",
    _result,
    lambda s: f"Weight {s.randint(450, 1100) / 10} kg, height {s.randint(150, 195)} cm, temperature 36.8 °C.",
    lambda s: "There is no family history of bowel cancer, and the chest was clear on both sides.",
    lambda s: "She lives with her husband, walks with a stick and drinks little alcohol; he has never smoked.",
    lambda s: f"Her sister has {s.choice(_PROBLEMS)}, and her father died at the age of {s.randint(50, 92)}.",
    lambda s: "We discussed the risk of infection; a leaflet and the nurse's telephone number were given.",
)
