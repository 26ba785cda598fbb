"""Reading a Bundle as its receiver does, by what docs/fhir.md promises."""

from typing import Any

EXTENSIONS = "https://chartloom.dev/fhir/StructureDefinition/"
FACTS = (
    "Condition", "Observation", "MedicationStatement", "Procedure", "AllergyIntolerance", "FamilyMemberHistory",
)  # fmt: skip


def resources(bundle: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == kind]


def facts(bundle: dict[str, Any]) -> list[dict[str, Any]]:
    return [resource for kind in FACTS for resource in resources(bundle, kind)]


def words_of(resource: dict[str, Any]) -> str:
    """What a fact is about, in the record's words."""
    concept = resource.get("code") or resource.get("medicationCodeableConcept") or resource["condition"][0]["code"]
    return str(concept["text"])


def provenance_rows(bundle: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each fact's id: the file, page, offsets, quote, boxes and attributes that its Provenance leads to."""
    found = {}
    for provenance in resources(bundle, "Provenance"):
        (entity,) = provenance["entity"]
        places = entity.get("extension", [])
        words = [place for place in places if place["url"] == EXTENSIONS + "source-words"]
        if words:
            # A second agent is the person who reviewed it.
            (target,), (agent, *_), (finding,) = provenance["target"], provenance["agent"], provenance["extension"]
            assert finding["url"] == EXTENSIONS + "finding"
            found[_id(target)] = {
                "file": _id(entity["what"]),
                "agent": agent["who"]["display"],
                **_parts(finding),
                **_place(words[0]),
                "attributes": {
                    _parts(place)["name"]: {key: value for key, value in _place(place).items() if key != "name"}
                    for place in places
                    if place["url"] == EXTENSIONS + "attribute-words"
                },
            }
    return found


def _id(reference: dict[str, str]) -> str:
    return reference["reference"].removeprefix("urn:uuid:")


def _parts(extension: dict[str, Any]) -> dict[str, Any]:
    return {part["url"]: _value(part) for part in extension["extension"]}


def _place(extension: dict[str, Any]) -> dict[str, Any]:
    boxes = [
        [float(number) for number in _value(part).split(" ")] for part in extension["extension"] if part["url"] == "box"
    ]
    return {name: value for name, value in _parts(extension).items() if name != "box"} | {"boxes": boxes}


def _value(part: dict[str, Any]) -> Any:
    (value,) = [value for name, value in part.items() if name.startswith("value")]
    return value
