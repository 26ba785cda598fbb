"""What the passes take of an answer: words of the page, codes that were offered, links to what is there."""

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from services.ai import claims, passes
from services.ai.providers import Answer, Completion, Task
from services.ai.wire import Claims, EnrichInputs, Inputs, Mentions, Understandings
from shared.contract.findings import Attribute, Entity, Source
from shared.contract.pages import Page, Word
from shared.errors import TransientError

TEXT = (
    "Metformin 500 mg for type 2 diabetes. CRP <0.5 mg/L. CD31 negative. No fever. Potassium 5.9 mmol/L (3.5 - 5.3) H."
)


class Scripted:
    """Answers what it was given, in the order of the passes."""

    name = "scripted"
    window = 6000

    def __init__(self, model: str, *answers: dict[str, Any]) -> None:
        self.model = model
        self.answers = list(answers)
        self.asked: list[Inputs] = []

    def prompt_version(self, task: Task) -> str:
        return f"{task}.test"

    async def complete(self, task: Task, inputs: Inputs, schema: type[Answer]) -> Completion[Answer]:
        self.asked.append(inputs)
        parsed: BaseModel = schema.model_validate(self.answers.pop(0))
        assert isinstance(parsed, schema)
        return Completion(parsed, "", {}, self.model, None, "completed", 0.0)


def page_of(text: str, *, uncertain: str = "") -> Page:
    words, at = [], 0
    for token in text.split():
        at = text.index(token, at)
        words.append(
            Word(
                text=token, box=(at, 0, at + 1, 1), confidence=1, start=at, end=at + len(token),
                uncertain=token == uncertain,
            )
        )  # fmt: skip
        at += len(token)
    return Page(
        page=1, width=999, height=9, text=text, words=tuple(words), text_source="ocr", engine="t", engine_version="1"
    )


def mention(quote: str, label: str, kind: str = "observation") -> dict[str, Any]:
    return {"quote": quote, "occurrence": 1, "kind": kind, "label": label}


MENTIONS = {
    "mentions": [
        mention("Metformin", "medication", "intervention"),
        mention("type 2 diabetes", "disease", "event"),
        mention("CRP", "test"),
        mention("CD31", "test"),
        mention("fever", "symptom"),
        mention("Potassium", "test"),
    ]
}


def understood(number: int, assertion: str = "affirmed", **details: Any) -> dict[str, Any]:
    more = {name: details.pop(name) for name in ("links", "codes") if name in details}
    said = [{"name": name, "quote": quote, "occurrence": None} for name, quote in details.items()]
    return {"id": f"e{number}", "assertion": assertion, "subject": "patient", "details": said, **more}


async def entities(*answers: dict[str, Any], page: Page | None = None) -> dict[str, Entity]:
    page = page or page_of(TEXT)
    provider = Scripted("m", MENTIONS, {"entities": list(answers)})
    detection = await passes.detect([page], provider)
    enrichment = await passes.enrich([page], detection, provider)
    return {entity.text: entity for entity in enrichment.entities}


async def test_a_test_that_has_a_result_was_done_however_negative_it_is() -> None:
    found = await entities(understood(4, "negated", value="negative"), understood(5, "negated"))
    assert (found["CD31"].assertion, found["CD31"].attributes["value"].text) == ("affirmed", "negative")
    assert found["fever"].assertion == "negated"


async def test_a_test_without_a_result_may_not_have_been_done() -> None:
    found = await entities(understood(4, "negated"))
    assert found["CD31"].assertion == "negated"


async def test_a_bound_keeps_its_sign() -> None:
    found = await entities(understood(3, value="0.5", unit="mg/L"))
    value = found["CRP"].attributes["value"]
    assert (value.text, value.normalised, value.source.quote) == ("<0.5", None, "<0.5")


async def test_ranges_and_flags_get_their_normal_form() -> None:
    found = await entities(understood(6, value="5.9", unit="mmol/L", range="3.5 - 5.3", flag="H"))
    said = {name: (a.text, a.normalised) for name, a in found["Potassium"].attributes.items()}
    assert said == {
        "value": ("5.9", 5.9),
        "unit": ("mmol/L", "mmol/L"),
        "range": ("3.5 - 5.3", "3.5-5.3"),
        "flag": ("H", "high"),
    }


async def test_links_lead_to_findings_that_are_there() -> None:
    links = [{"relation": "treats", "to": "e2"}, {"relation": "causes", "to": "e1"}, {"relation": "shows", "to": "e99"}]
    found = await entities(understood(1, links=links), understood(2))
    assert [(link.relation, link.to) for link in found["Metformin"].links] == [("treats", "e2")]


async def test_codes_are_of_those_that_the_terminology_offers() -> None:
    page = page_of(TEXT)
    provider = Scripted("m", MENTIONS, {"entities": []})
    detection = await passes.detect([page], provider)
    await passes.enrich([page], detection, provider)
    asked = provider.asked[-1]
    assert isinstance(asked, EnrichInputs)
    (offered,) = [target.candidates for target in asked.targets if target.quote == "type 2 diabetes"]
    assert [candidate.code for candidate in offered] == ["E11.9"]

    for chosen, kept in (([offered[0].code, "Z99.9"], ["E11.9"]), (["Z99.9"], []), ([], []), (None, ["E11.9"])):
        found = await entities(understood(2, codes=chosen))
        assert [code.code for code in found["type 2 diabetes"].codes] == kept


async def test_a_figure_that_ocr_doubts_stays_doubted() -> None:
    found = await entities(understood(6, value="5.9", unit="mmol/L"), page=page_of(TEXT, uncertain="5.9"))
    potassium = found["Potassium"]
    assert potassium.attributes["value"].uncertain
    assert not potassium.attributes["unit"].uncertain
    assert not potassium.uncertain


async def test_open_fields_of_a_reply_keep_nothing_that_is_not_known() -> None:
    answer = {"mentions": [mention("gout", "a long story", "another"), mention("fever", "a long story", "observation")]}
    detection = await passes.detect([page_of(TEXT)], Scripted("m", answer))
    assert [(claim.kind, claim.label, claim.quote) for claim in detection.rejected] == [("unknown", "other", "gout")]
    assert [(finding.kind, finding.label) for finding in detection.findings] == [("observation", "other")]


async def test_what_the_checker_finds_and_the_model_does_not_is_kept_beside_the_findings() -> None:
    model = Scripted("m", {"mentions": [mention("diabetes", "disease", "event"), mention("fever", "symptom")]})
    detection = await passes.detect([page_of(TEXT)], model, checker=Scripted("rules", MENTIONS))
    assert [finding.text for finding in detection.findings] == ["diabetes", "fever"]
    assert [finding.text for finding in detection.missed] == ["Metformin", "CRP", "CD31", "Potassium"]
    assert detection.checked_by is not None
    assert (detection.engine.model, detection.checked_by.model) == ("m", "rules")


async def test_the_checker_reads_while_the_model_does_and_ends_where_the_model_fails() -> None:
    has_begun, is_over = asyncio.Event(), asyncio.Event()

    class Slow(Scripted):
        async def complete(self, task: Task, inputs: Inputs, schema: type[Answer]) -> Completion[Answer]:
            has_begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                is_over.set()
            raise AssertionError

    class Failing(Scripted):
        async def complete(self, task: Task, inputs: Inputs, schema: type[Answer]) -> Completion[Answer]:
            await has_begun.wait()
            raise TransientError("model_timeout", "The model endpoint did not answer in time.")

    async with asyncio.timeout(5):
        with pytest.raises(TransientError):
            await passes.detect([page_of(TEXT)], Failing("m"), checker=Slow("rules"))
        await is_over.wait()


@pytest.mark.parametrize("schema", [Mentions, Understandings, Claims])
def test_a_strict_schema_requires_every_field(schema: type[BaseModel]) -> None:
    form = schema.model_json_schema()
    for part in (form, *form["$defs"].values()):
        assert part["required"] == list(part["properties"])
        assert part["additionalProperties"] is False


def entity(text: str, **attributes: str) -> Entity:
    def source(quote: str) -> Source:
        return Source(page=1, start=0, end=len(quote), quote=quote, boxes=())

    said: Any = {name: Attribute(text=quote, source=source(quote)) for name, quote in attributes.items()}
    return Entity(
        id="e1", kind="event", label="disease", text=text, source=source(text), alignment="exact", attributes=said
    )


@pytest.mark.parametrize(
    ("sentence", "is_borne"),
    [
        ("The record names hypertension.", True),
        ("You have high blood pressure.", True),
        ("You had Hypertension, treated with 5 mg ramipril.", True),
        ("You had hypertension, treated with 5 mg bisoprolol.", False),
        ("Your heart attack was treated with ramipril.", False),
        ("Your hypertension turned into a stroke.", False),
        ("Your hypertension was seen by Doctor Blackadder.", False),
        ("See https://example.org for hypertension.", False),
        ("Write to me@example.org about hypertension.", False),
        ("Everything is fine.", False),
        ("Hypertension was seen in March 2024.", False),
        ("", False),
    ],
)
def test_a_sentence_says_what_it_cites_and_no_more(sentence: str, is_borne: bool) -> None:
    cited = [entity("hypertension"), entity("ramipril", dose="5 mg")]
    assert claims.holds(sentence, cited, None) == is_borne
