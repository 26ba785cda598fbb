"""What two models make of the same documents: found, lost, said otherwise; and who is right, where that is known."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg

from shared.contract.findings import Detection, Enrichment, Entity, Narration, finding_key, folded
from shared.errors import TerminalError

_OF_MODEL = """
select distinct on (r.shell_file_id) r.run_id
from public.ai_pass_results as r
where r.pass = 'enrich' and r.model = $1
order by r.shell_file_id, r.created_at desc
"""
_RESULTS = """
select r.run_id, r.shell_file_id, r.pass, r.model, r.result, f.file_name
from public.ai_pass_results as r join public.shell_files as f on f.id = r.shell_file_id
where r.run_id = any($1)
"""
_DECISIONS = """
select finding_key, shell_file_id, status, claim, correction from public.finding_reviews
where shell_file_id = any($1) and status in ('accepted', 'corrected', 'dismissed') and reason <> 'other_person'
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one run made of one document."""

    run_id: UUID
    shell_file_id: UUID
    file_name: str
    models: tuple[str, ...]
    """Of the three passes; one name where one model did them all."""
    entities: tuple[Entity, ...]
    rejected: int
    sentences: int


@dataclass(frozen=True, slots=True)
class Difference:
    """``change``: added, lost, altered. ``fields``: of what is altered, what each of the two says."""

    change: str
    quote: str
    page: int
    kind: str
    fields: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """How one run fares where it is known what is true."""

    right: int
    wrong: int
    missed: int

    @property
    def f1(self) -> float:
        return 2 * self.right / max(2 * self.right + self.wrong + self.missed, 1)


@dataclass(frozen=True, slots=True)
class Compared:
    """One document in both."""

    a: Reading
    b: Reading
    same: int
    differences: tuple[Difference, ...]

    def count(self, change: str) -> int:
        return sum(difference.change == change for difference in self.differences)


@dataclass(frozen=True, slots=True)
class Truth:
    """A document as people annotated it: stretches of its only page, with their kinds."""

    text: str
    entities: tuple[tuple[int, int, str], ...]


async def read_runs(connection: asyncpg.Connection, wanted: str) -> dict[UUID, Reading]:
    """By document: the run with this id, or each document's latest run in which the model of this name understood it.

    Raises TerminalError ``run_not_found``.
    """
    try:
        run_ids = [UUID(wanted)]
    except ValueError:
        run_ids = [row["run_id"] for row in await connection.fetch(_OF_MODEL, wanted)]
    passes: dict[UUID, dict[str, asyncpg.Record]] = {}
    for row in await connection.fetch(_RESULTS, run_ids):
        passes.setdefault(row["run_id"], {})[row["pass"]] = row
    readings = [_reading(done) for done in passes.values() if {"detect", "enrich"} <= done.keys()]
    if not readings:
        raise TerminalError(
            "run_not_found", f"{wanted}: no run has this id, and no model of this name has done pass 2."
        )
    return {reading.shell_file_id: reading for reading in readings}


def compare(a: Mapping[UUID, Reading], b: Mapping[UUID, Reading]) -> list[Compared]:
    """The documents that both have read, by name."""
    both = sorted(a.keys() & b.keys(), key=lambda document: (a[document].file_name, document))
    return [_compared(a[document], b[document]) for document in both]


async def by_reviewers(connection: asyncpg.Connection, readings: Sequence[Reading]) -> tuple[int, Score]:
    """How a model fares where a person decided: how many decisions, and with how many it agrees."""
    decisions = await connection.fetch(_DECISIONS, [reading.shell_file_id for reading in readings])
    entities = {
        finding_key(reading.shell_file_id, entity): entity for reading in readings for entity in reading.entities
    }
    right = wrong = missed = 0
    for decision in decisions:
        entity = entities.get(str(decision["finding_key"])) or _placed(decision, readings)
        if decision["status"] == "dismissed":
            wrong += entity is not None
        elif entity is None:
            missed += 1
        elif _agrees(entity, decision["correction"] or {}):
            right += 1
        else:
            wrong += 1
    return len(decisions), Score(right, wrong, missed)


async def by_annotations(
    connection: asyncpg.Connection, readings: Sequence[Reading], truths: Sequence[Truth]
) -> tuple[int, Score]:
    """How a model fares on annotated documents: the same kind, and a character in common, one to one."""
    pages = await connection.fetch(
        "select r.id as run_id, p.text from public.ocr_pages as p "
        "join chartloom.document_runs as r on r.ocr_run_id = p.run_id where r.id = any($1) and p.page = 1",
        [reading.run_id for reading in readings],
    )
    by_text = {truth.text.strip(): truth for truth in truths}
    texts = {row["run_id"]: row["text"] for row in pages}
    known = right = found = true = 0
    for reading in readings:
        text = texts.get(reading.run_id, "")
        truth = by_text.get(text.strip())
        if truth is None:
            continue
        known += 1
        # The page may begin after blank lines that the annotators' text has.
        shift = truth.text.find(text.strip()) - text.find(text.strip())
        spans = [(e.source.start + shift, e.source.end + shift, e.kind) for e in reading.entities]
        right += _matches(spans, truth.entities)
        found += len(spans)
        true += len(truth.entities)
    return known, Score(right, found - right, true - right)


def _matches(found: Sequence[tuple[int, int, str]], true: Sequence[tuple[int, int, str]]) -> int:
    free = sorted(true)
    count = 0
    for start, end, kind in sorted(found):
        match = next((span for span in free if span[2] == kind and span[0] < end and start < span[1]), None)
        if match:
            free.remove(match)
            count += 1
    return count


def _reading(passes: Mapping[str, asyncpg.Record]) -> Reading:
    detection = Detection.model_validate(passes["detect"]["result"])
    enrichment = Enrichment.model_validate(passes["enrich"]["result"])
    told = passes.get("narrate")
    row = passes["enrich"]
    return Reading(
        run_id=row["run_id"],
        shell_file_id=row["shell_file_id"],
        file_name=row["file_name"],
        models=tuple(dict.fromkeys(done["model"] for done in passes.values())),
        entities=enrichment.entities,
        rejected=len(detection.rejected) + len(enrichment.rejected),
        sentences=len(Narration.model_validate(told["result"]).sentences) if told else 0,
    )


def _compared(a: Reading, b: Reading) -> Compared:
    pairs = list(_pairs(a.entities, b.entities))
    differences: list[Difference] = []
    same = 0
    for before, after in pairs:
        if before is None or after is None:
            entity = before or after
            assert entity is not None
            change = "lost" if after is None else "added"
            differences.append(Difference(change, entity.source.quote, entity.source.page, entity.kind))
        elif fields := dict(_fields(before, after)):
            differences.append(Difference("altered", before.source.quote, before.source.page, before.kind, fields))
        else:
            same += 1
    return Compared(a, b, same, tuple(differences))


def _pairs(a: Sequence[Entity], b: Sequence[Entity]) -> Iterator[tuple[Entity | None, Entity | None]]:
    """The same words first; then what overlaps and is of one kind; then what has no counterpart."""
    left = {_name(entity): entity for entity in b}
    open_a: list[Entity] = []
    for entity in a:
        other = left.pop(_name(entity), None)
        if other is None:
            open_a.append(entity)
        else:
            yield entity, other
    for entity in open_a:
        found = next((name for name, other in left.items() if _overlap(entity, other)), None)
        yield entity, left.pop(found) if found else None
    for other in left.values():
        yield None, other


def _name(entity: Entity) -> tuple[int, str, int, str]:
    return entity.source.page, entity.kind, entity.occurrence, folded(entity.source.quote)


def _overlap(a: Entity, b: Entity) -> bool:
    return (
        a.kind == b.kind
        and a.source.page == b.source.page
        and a.source.start < b.source.end
        and b.source.start < a.source.end
    )


def _fields(a: Entity, b: Entity) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """What the two say otherwise. Attributes by their normal form where both have one: "bd" is "twice daily"."""
    if folded(a.source.quote) != folded(b.source.quote):
        yield "words", (a.source.quote, b.source.quote)
    for name in ("label", "assertion", "subject"):
        if getattr(a, name) != getattr(b, name):
            yield name, (getattr(a, name), getattr(b, name))
    codes = [sorted(f"{code.system} {code.code}" for code in entity.codes) for entity in (a, b)]
    if codes[0] != codes[1]:
        yield "codes", (codes[0], codes[1])
    for attribute in sorted(a.attributes.keys() | b.attributes.keys()):
        one, other = a.attributes.get(attribute), b.attributes.get(attribute)
        if one and other and (one.normalised or folded(one.text)) == (other.normalised or folded(other.text)):
            continue
        yield attribute, (one and one.text, other and other.text)


def _placed(decision: asyncpg.Record, readings: Sequence[Reading]) -> Entity | None:
    """Of a claim that a person found the words for: what a run has there."""
    place = (decision["correction"] or {}).get("place") or (decision["claim"] or {}).get("place")
    if not place:
        return None
    return next(
        (
            entity
            for reading in readings
            if reading.shell_file_id == decision["shell_file_id"]
            for entity in reading.entities
            if entity.source.page == place["page"]
            and entity.source.start < place["end"]
            and place["start"] < entity.source.end
        ),
        None,
    )


def _agrees(entity: Entity, correction: Mapping[str, Any]) -> bool:
    """Whether the entity says what the person said instead."""
    if any(correction.get(name, getattr(entity, name)) != getattr(entity, name) for name in ("kind", "label")):
        return False
    if any(correction.get(name, getattr(entity, name)) != getattr(entity, name) for name in ("assertion", "subject")):
        return False
    for name, said in (correction.get("attributes") or {}).items():
        attribute = entity.attributes.get(name)
        if said is None or attribute is None:
            if said is not None or attribute is not None:
                return False
        elif folded(attribute.text) != folded(said["text"]):
            return False
    return True
