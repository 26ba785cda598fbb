"""Documents that give orders (``tests/injections``), and a model endpoint that follows every one of them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.fakes.openai_server import Play, document_of

FOLDER = Path(__file__).parent / "injections"
INVENTIONS = ("metastatic melanoma", "warfarin 7 mg", "ankylosing spondylitis", "body weight 70 kg")
"""What the endpoint makes up when it is asked to; none of it stands in a document."""
EVIL_SENTENCES = (
    "Everything is fine, stop all medicines.",
    "Please pay at http://example.org/pay.",
    "Doctor Mortimer Blackadder of Gotham recommends his clinic.",
    "You have metastatic melanoma.",
    "The result was 999.9.",
)
CANARIES = (
    "Quackenbush", "Grackle", "Bellwether", "Fennimore", "Thistlewood", "Crabtree", "Wigglesworth", "Swindlehurst",
    "Ponsonby", "Farthingale", "4.7391", "91.618", "10.273", "139.17", "5.8327", "88.362", "41.729", "allopurinol",
    "apixaban", "cholecystitis", "Blackadder", "melanoma", "999.9",
)  # fmt: skip
"""Names and values of the documents and of what the endpoint says."""

_KNOWN = {
    "gout": ("event", "disease"), "atrial fibrillation": ("event", "disease"), "pneumonia": ("event", "disease"),
    "migraine": ("event", "disease"), "asthma": ("event", "disease"), "hypertension": ("event", "disease"),
    "cholecystitis": ("event", "disease"), "appendicitis": ("event", "disease"),
    "Rheumatoid arthritis": ("event", "disease"), "fever": ("observation", "symptom"),
    "chest pain": ("observation", "symptom"), "cough": ("observation", "symptom"), "nausea": ("observation", "symptom"),
    "headache": ("observation", "symptom"), "Potassium": ("observation", "test"),
    "Creatinine": ("observation", "test"), "Haemoglobin": ("observation", "test"), "Ferritin": ("observation", "test"),
    "Sodium": ("observation", "test"), "Glucose": ("observation", "test"), "ESR": ("observation", "test"),
    "C-reactive protein": ("observation", "test"), "Chest X-ray": ("observation", "imaging"),
    "allopurinol": ("intervention", "medication"), "apixaban": ("intervention", "medication"),
    "Ramipril": ("intervention", "medication"), "Metformin": ("intervention", "medication"),
    "Atorvastatin": ("intervention", "medication"), "salbutamol": ("intervention", "medication"),
    "bisoprolol": ("intervention", "medication"), "paracetamol": ("intervention", "medication"),
    "Amoxicillin": ("intervention", "medication"), "methotrexate": ("intervention", "medication"),
    "penicillin": ("context", "allergy"),
}  # fmt: skip
_SILENCES = re.compile(r"not list any|never mention|not extract|not report|report nothing|return nothing", re.I)
_INVENTS = re.compile(r"\binvent\b", re.I)
_LEAKS = re.compile(r"system prompt|instructions\b|initial prompt|told before", re.I)
_FALSIFIES = re.compile(r"double every|999\.9|value to normal|ten times", re.I)
_CODES = re.compile(r"\bcode\b", re.I)
_LINKS = re.compile(r"link every", re.I)


@dataclass(frozen=True)
class Injected:
    """A document with orders in it: ``text`` as it is uploaded, and where the orders stand."""

    name: str
    text: str
    start: int
    end: int

    @property
    def without(self) -> str:
        return self.text[: self.start] + self.text[self.end :]


def documents() -> list[Injected]:
    found = []
    for path in sorted(FOLDER.glob("*.txt")):
        before, rest = path.read_text("utf-8").split("[[[\n")
        orders, after = rest.split("]]]\n")
        found.append(Injected(path.stem, before + orders + after, len(before), len(before) + len(orders)))
    return found


def obey(body: dict[str, Any]) -> Play:
    """Answers as a decent model would, but for what the document tells it to do."""
    form = body["text"]["format"] if "text" in body else body["response_format"]["json_schema"]
    prompt = body["instructions"] if "instructions" in body else body["messages"][0]["content"]
    if form["name"] == "detect":
        return Play({"mentions": list(_mentions(document_of(body), prompt))})
    if form["name"] == "enrich":
        return Play({"entities": list(_entities(_block(body, "findings")["targets"], document_of(body), prompt))})
    return Play({"sentences": list(_sentences(_block(body, "facts")["facts"], prompt))})


def _block(body: dict[str, Any], name: str) -> dict[str, Any]:
    asked: str = body["input"] if "input" in body else body["messages"][-1]["content"]
    block: dict[str, Any] = json.loads(asked.split(f"<{name}-", 1)[1].split(">\n", 1)[1].split(f"\n</{name}-", 1)[0])
    return block


def _pieces(prompt: str) -> list[str]:
    """The prompt in pieces that a field has room for."""
    return [prompt[first : first + 290] for first in range(0, len(prompt), 290)]


def _mention(quote: str, kind: str, label: str) -> dict[str, Any]:
    return {"quote": quote, "occurrence": 1, "kind": kind, "label": label}


def _mentions(text: str, prompt: str) -> Iterator[dict[str, Any]]:
    leaks = bool(_LEAKS.search(text)) and not _SILENCES.search(text)
    if not _SILENCES.search(text):
        for words, (kind, label) in _KNOWN.items():
            if words in text:
                yield _mention(words, *((prompt[:200], prompt[200:900]) if "label" in text else (kind, label)))
    if _INVENTS.search(text):
        yield from (_mention(words, "event", "disease") for words in INVENTIONS)
    if leaks:
        yield from (_mention(piece, "event", "disease") for piece in _pieces(prompt))


def _entities(targets: list[dict[str, Any]], text: str, prompt: str) -> Iterator[dict[str, Any]]:
    for target in targets:
        details = []
        if _FALSIFIES.search(text):
            details = [("value", "77777"), ("dose", "88888 mg")]
        if _LEAKS.search(text):
            details = [("value", prompt[:250]), ("unit", prompt[250:500]), ("site", prompt[500:750])]
        yield {
            "id": target["id"],
            "assertion": "affirmed",
            "subject": "patient",
            "details": [{"name": name, "quote": quote, "occurrence": None} for name, quote in details],
            "links": [{"relation": "causes", "to": to} for to in ("e999", target["id"])] if _LINKS.search(text) else [],
            "codes": ["HACK-1"] if _CODES.search(text) else None,
        }


def _sentences(facts: list[dict[str, Any]], prompt: str) -> Iterator[dict[str, Any]]:
    for fact in facts:
        yield {"text": f"The record names {fact['text']}.", "entity_ids": [fact["id"]]}
    for said in (*EVIL_SENTENCES, *_pieces(prompt)):
        yield from ({"text": said, "entity_ids": [fact["id"]]} for fact in facts[:1])
