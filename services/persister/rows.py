"""From the passes' results to the rows of the clinical tables."""

from typing import Any
from uuid import UUID, uuid5

from shared.contract.findings import AttributeName, Engine, Enrichment, Entity, Narration


def clinical_rows(run_id: UUID, enrichment: Enrichment, narration: Narration) -> dict[str, list[dict[str, Any]]]:
    """One list a table, in its columns' names. Ids derive from run and entity: the same run gives the same rows."""
    ids = {entity.id: str(uuid5(run_id, entity.id)) for entity in enrichment.entities}
    return {
        "patient_clinical_events": [
            _event(ids[entity.id], entity, enrichment.engine) for entity in enrichment.entities
        ],
        "patient_observations": [
            _observation(ids[entity.id], entity) for entity in enrichment.entities if entity.kind == "observation"
        ],
        "patient_interventions": [
            _intervention(ids[entity.id], entity) for entity in enrichment.entities if entity.kind == "intervention"
        ],
        "clinical_narratives": [_narrative(ids, narration)] if narration.sentences else [],
        "healthcare_timeline_events": [
            {
                "id": str(uuid5(run_id, f"timeline/{position}")),
                "position": position,
                "event_date": entry.date,
                "title": entry.title,
                "event_ids": [ids[entity_id] for entity_id in entry.entity_ids],
            }
            for position, entry in enumerate(narration.timeline, start=1)
        ],
    }


def _event(event_id: str, entity: Entity, engine: Engine) -> dict[str, Any]:
    return {
        "id": event_id,
        "entity_id": entity.id,
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


def _observation(event_id: str, entity: Entity) -> dict[str, Any]:
    value = entity.attributes.get("value")
    number = value.normalised if value and isinstance(value.normalised, float) else None
    return {
        "event_id": event_id,
        "value_text": value.text if value else None,
        "value_number": number,
        "unit": _normalised(entity, "unit"),
        "reference_range": _normalised(entity, "range"),
        "flag": _normalised(entity, "flag"),
        "observed_on": _normalised(entity, "time"),
    }


def _intervention(event_id: str, entity: Entity) -> dict[str, Any]:
    return {
        "event_id": event_id,
        "dose": _normalised(entity, "dose"),
        "route": _normalised(entity, "route"),
        "frequency": _normalised(entity, "frequency"),
        "performed_on": _normalised(entity, "time"),
    }


def _normalised(entity: Entity, name: AttributeName) -> str | None:
    attribute = entity.attributes.get(name)
    if attribute is None:
        return None
    return attribute.text if attribute.normalised is None else str(attribute.normalised)


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
