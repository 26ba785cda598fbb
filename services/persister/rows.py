"""From the passes' results to the rows of the clinical tables."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid5

from shared.contract.findings import (
    Attribute,
    Detection,
    Engine,
    Enrichment,
    Entity,
    Narration,
    RejectedFinding,
    finding_key,
    folded,
)

from .identity import Contradiction

ClinicalRows = dict[str, list[dict[str, Any]]]


def clinical_rows(
    run_id: UUID,
    shell_file_id: UUID,
    enrichment: Enrichment,
    narration: Narration,
    rejected: Sequence[RejectedFinding],
    *,
    detection: Detection | None = None,
    contradictions: Sequence[Contradiction] = (),
) -> ClinicalRows:
    """One list a table, in its columns' names. Ids derive from run and entity: the same run gives the same rows.

    The spokes are made of the hub's rows, in SQL.
    """
    ids = {entity.id: str(uuid5(run_id, entity.id)) for entity in enrichment.entities}
    keys = {entity.id: finding_key(shell_file_id, entity) for entity in enrichment.entities}
    waiting = _waiting(shell_file_id, keys, enrichment, rejected)
    if detection is not None:
        _add_missed(waiting, shell_file_id, detection)
    if contradictions:
        waiting[str(uuid5(shell_file_id, "other_person"))] = {
            "reason": "other_person",
            "claim": {"contradictions": [contradiction.model_dump(mode="json") for contradiction in contradictions]},
        }
    return {
        "patient_clinical_events": [
            _event(ids, keys[entity.id], entity, enrichment.engine, detection.engine if detection else None)
            for entity in enrichment.entities
        ],
        "clinical_narratives": [_narrative(ids, narration)] if narration.sentences else [],
        "healthcare_timeline_events": [
            {
                "id": str(uuid5(run_id, f"timeline/{position}")),
                "position": position,
                "event_date": entry.date,
                "title": entry.title,
                "fact_key": entry.fact_key,
                "event_ids": [ids[entity_id] for entity_id in entry.entity_ids],
                **_engine(narration.engine),
            }
            for position, entry in enumerate(narration.timeline, start=1)
        ],
        "finding_reviews": [{"finding_key": key, **item} for key, item in waiting.items()],
    }


def _waiting(
    shell_file_id: UUID, keys: dict[str, str], enrichment: Enrichment, rejected: Sequence[RejectedFinding]
) -> dict[str, dict[str, Any]]:
    """What a person has to look at, by key: words that differ or OCR doubts, claims that are not on the page."""
    waiting: dict[str, dict[str, Any]] = {}
    for entity in enrichment.entities:
        doubted = [(name, said) for name, said in entity.attributes.items() if said.uncertain]
        if entity.uncertain or doubted:
            said = [{"name": name, "quote": attribute.source.quote} for name, attribute in doubted]
            waiting[keys[entity.id]] = {"reason": "number_uncertain", "claim": {"attributes": said}}
        if entity.alignment == "fuzzy":
            waiting[keys[entity.id]] = {"reason": "words_differ", "claim": None}
    for claim in rejected:
        if claim.finding_id is not None:
            if claim.finding_id in keys:
                item = waiting.setdefault(keys[claim.finding_id], {"reason": claim.reason, "claim": None})
                said = (item["claim"] or {"attributes": []})["attributes"]
                item["claim"] = {"attributes": [*said, {"name": claim.label, "quote": claim.quote}]}
            continue
        claimed = f"{claim.reason}/{claim.page}/{claim.kind}/{claim.label}/{folded(claim.quote)}"
        waiting[str(uuid5(shell_file_id, claimed))] = {
            "reason": claim.reason,
            "claim": {
                "kind": claim.kind,
                "label": claim.label,
                "quote": claim.quote,
                "page": claim.page,
                **enrichment.engine.model_dump(mode="json"),
            },
        }
    return waiting


def _add_missed(waiting: dict[str, dict[str, Any]], shell_file_id: UUID, detection: Detection) -> None:
    """What stands on the page and the model passed over: by the key that it has once somebody finds it."""
    for finding in detection.missed:
        source = finding.source
        waiting.setdefault(
            finding_key(shell_file_id, finding),
            {
                "reason": "missed",
                "claim": {
                    "kind": finding.kind,
                    "label": finding.label,
                    "quote": source.quote,
                    "page": source.page,
                    "place": {"page": source.page, "start": source.start, "end": source.end, "quote": source.quote},
                    **(detection.checked_by or detection.engine).model_dump(mode="json"),
                },
            },
        )


def _event(ids: dict[str, str], key: str, entity: Entity, engine: Engine, found_by: Engine | None) -> dict[str, Any]:
    return {
        "id": ids[entity.id],
        "entity_id": entity.id,
        "finding_key": key,
        "kind": entity.kind,
        "label": entity.label,
        "text": entity.text,
        "assertion": entity.assertion,
        "subject": entity.subject,
        "attributes": {name: _attribute(said) for name, said in entity.attributes.items()},
        "codes": [code.model_dump(mode="json") for code in entity.codes],
        "links": [{"relation": link.relation, "event_id": ids[link.to]} for link in entity.links],
        "page": entity.source.page,
        "char_start": entity.source.start,
        "char_end": entity.source.end,
        "quote": entity.source.quote,
        "boxes": entity.source.boxes,
        "alignment": entity.alignment,
        "uncertain": entity.uncertain,
        "found_by": found_by and found_by.model_dump(mode="json"),
        **_engine(engine),
    }


def _attribute(said: Attribute) -> dict[str, Any]:
    """``uncertain`` is there only where it is so."""
    return said.model_dump(mode="json", exclude=None if said.uncertain else {"uncertain"})


def _narrative(ids: dict[str, str], narration: Narration) -> dict[str, Any]:
    return {
        "narrative": "\n".join(sentence.text for sentence in narration.sentences),
        "sentences": [
            {"text": sentence.text, "event_ids": [ids[entity_id] for entity_id in sentence.entity_ids]}
            for sentence in narration.sentences
        ],
        **_engine(narration.engine),
    }


def _engine(engine: Engine) -> dict[str, Any]:
    """As columns."""
    return engine.model_dump(mode="json")
