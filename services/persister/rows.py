"""From the passes' results to the rows of the clinical tables."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid5

from shared.contract.findings import Engine, Enrichment, Entity, Finding, Narration, RejectedFinding, folded


def clinical_rows(
    run_id: UUID, shell_file_id: UUID, enrichment: Enrichment, narration: Narration, rejected: Sequence[RejectedFinding]
) -> dict[str, list[dict[str, Any]]]:
    """One list a table, in its columns' names. Ids derive from run and entity: the same run gives the same rows.

    The spokes are made of the hub's rows, in SQL.
    """
    ids = {entity.id: str(uuid5(run_id, entity.id)) for entity in enrichment.entities}
    keys = {entity.id: finding_key(shell_file_id, entity) for entity in enrichment.entities}
    return {
        "patient_clinical_events": [
            _event(ids[entity.id], keys[entity.id], entity, enrichment.engine) for entity in enrichment.entities
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
            }
            for position, entry in enumerate(narration.timeline, start=1)
        ],
        "finding_reviews": _waiting(shell_file_id, keys, enrichment, rejected),
    }


def finding_key(shell_file_id: UUID, finding: Finding) -> str:
    """The finding's name in every run over the document, whichever model finds it."""
    words = folded(finding.source.quote)
    return str(uuid5(shell_file_id, f"{finding.source.page}/{finding.kind}/{finding.occurrence}/{words}"))


def _waiting(
    shell_file_id: UUID, keys: dict[str, str], enrichment: Enrichment, rejected: Sequence[RejectedFinding]
) -> list[dict[str, Any]]:
    """What a person has to look at: words that differ, attributes or whole claims that are not on the page."""
    waiting: dict[str, dict[str, Any]] = {
        keys[entity.id]: {"reason": "words_differ", "claim": None}
        for entity in enrichment.entities
        if entity.alignment == "fuzzy"
    }
    for claim in rejected:
        if claim.reason == "attribute_not_found":
            if claim.finding_id in keys:
                item = waiting.setdefault(keys[claim.finding_id], {"reason": claim.reason, "claim": None})
                said = (item["claim"] or {"attributes": []})["attributes"]
                item["claim"] = {"attributes": [*said, {"name": claim.label, "quote": claim.quote}]}
            continue
        claimed = f"{claim.reason}/{claim.page}/{claim.kind}/{claim.label}/{folded(claim.quote)}"
        key = str(uuid5(shell_file_id, claimed))
        waiting[key] = {
            "reason": claim.reason,
            "claim": {
                "kind": claim.kind,
                "label": claim.label,
                "quote": claim.quote,
                "page": claim.page,
                **enrichment.engine.model_dump(mode="json"),
            },
        }
    return [{"finding_key": key, **item} for key, item in waiting.items()]


def _event(event_id: str, key: str, entity: Entity, engine: Engine) -> dict[str, Any]:
    return {
        "id": event_id,
        "entity_id": entity.id,
        "finding_key": key,
        "kind": entity.kind,
        "label": entity.label,
        "text": entity.text,
        "assertion": entity.assertion,
        "subject": entity.subject,
        "attributes": {name: value.model_dump(mode="json") for name, value in entity.attributes.items()},
        "codes": [code.model_dump(mode="json") for code in entity.codes],
        "page": entity.source.page,
        "char_start": entity.source.start,
        "char_end": entity.source.end,
        "quote": entity.source.quote,
        "boxes": entity.source.boxes,
        "alignment": entity.alignment,
        "provider": engine.provider,
        "model": engine.model,
        "prompt_version": engine.prompt_version,
        "schema_version": engine.schema_version,
    }


def _narrative(ids: dict[str, str], narration: Narration) -> dict[str, Any]:
    return {
        "narrative": "\n".join(sentence.text for sentence in narration.sentences),
        "sentences": [
            {"text": sentence.text, "event_ids": [ids[entity_id] for entity_id in sentence.entity_ids]}
            for sentence in narration.sentences
        ],
        "provider": narration.engine.provider,
        "model": narration.engine.model,
        "prompt_version": narration.engine.prompt_version,
    }
