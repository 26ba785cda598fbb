"""Orders in a document are text on a page: whatever a model makes of them, nothing of it becomes a fact."""

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from services.ai import instructions, passes
from services.ai.providers import Provider
from services.ai.providers.local import LocalProvider
from services.ai.providers.openai import OpenAIProvider
from shared.contract.findings import Detection, Enrichment, Entity, Narration
from shared.contract.pages import Page
from tests.fakes.openai_server import FakeOpenAI
from tests.injected import EVIL_SENTENCES, INVENTIONS, Injected, documents, obey

DOCUMENTS = documents()
CONTEXT = "context"


@pytest.fixture
async def obedient() -> AsyncIterator[Provider]:
    async with FakeOpenAI().serving() as server:
        server.script = obey
        yield OpenAIProvider(model="obedient", api_key="k", base_url=server.url, timeout_s=5)


def page_of(text: str) -> Page:
    return Page(page=1, width=9, height=9, text=text, words=(), text_source="ocr", engine="t", engine_version="1")


async def read(
    text: str, provider: Provider, checker: Provider | None = None
) -> tuple[Detection, Enrichment, Narration]:
    page = page_of(text)
    detection = await passes.detect([page], provider, checker=checker)
    enrichment = await passes.enrich([page], detection, provider)
    return detection, enrichment, await passes.narrate(enrichment, provider)


def texts(value: Any) -> Iterator[str]:
    """Every text in a result, by itself."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts(part)


def copied(text: str) -> set[str]:
    """Runs of six words that stand in what the model was told."""
    prompts = " ".join(re.findall(r"\w+", " ".join(map(instructions.text, instructions.VERSIONS)).casefold()))
    words = re.findall(r"\w+", text.casefold())
    return {run for first in range(len(words) - 5) if (run := " ".join(words[first : first + 6])) in prompts}


def test_there_are_thirty_documents_each_with_orders() -> None:
    assert len(DOCUMENTS) == 30
    assert all(document.text[document.start : document.end].strip() for document in DOCUMENTS)
    assert len({document.text for document in DOCUMENTS}) == 30


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
async def test_a_model_that_obeys_persists_nothing_ungrounded_and_no_word_of_its_instructions(
    document: Injected, obedient: Provider
) -> None:
    detection, enrichment, narration = await read(document.text, obedient, LocalProvider())
    for entity in enrichment.entities:
        for source in (entity.source, *(said.source for said in entity.attributes.values())):
            assert document.text[source.start : source.end] == source.quote
        assert not entity.links
        assert {code.code for code in entity.codes} <= {c.code for f in detection.findings for c in f.codes}
    kept = [text for result in (detection, enrichment, narration) for text in texts(result.model_dump(mode="json"))]
    assert [text for text in kept if copied(text)] == []
    told = [sentence.text for sentence in narration.sentences]
    assert not set(told) & set(EVIL_SENTENCES)
    assert narration.dropped >= (len(EVIL_SENTENCES) if enrichment.entities else 0)
    facts = "\n".join([*(entity.text for entity in enrichment.entities), *told])
    assert not [words for words in (*INVENTIONS, "77777", "88888", "HACK-1") if words in facts]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
async def test_what_a_model_loses_against_the_local_engine_is_flagged(document: Injected, obedient: Provider) -> None:
    local = LocalProvider()
    detection, _, _ = await read(document.text, obedient, local)
    found = (await passes.detect([page_of(document.text)], local)).findings
    flagged = {finding.text.casefold() for finding in detection.missed}
    kept = {finding.text.casefold() for finding in detection.findings}
    lost = [
        finding.text
        for finding in found
        if (finding.kind != CONTEXT or finding.label == "allergy")
        and not any(
            one.source.start < finding.source.end and finding.source.start < one.source.end
            for one in detection.findings
        )
        and finding.text.casefold() not in flagged | kept
    ]
    assert lost == []
    if "silence" in document.name:
        assert flagged
        assert not detection.findings


async def test_inventions_wait_in_review_and_instructions_do_not(obedient: Provider) -> None:
    rejected = []
    for document in DOCUMENTS:
        detection, enrichment, _ = await read(document.text, obedient)
        rejected += [*detection.rejected, *enrichment.rejected]
    quotes = {claim.quote for claim in rejected}
    assert quotes >= {*INVENTIONS, "77777", "88888 mg", ""}
    assert {claim.reason for claim in rejected} >= {"quote_not_found", "attribute_not_found", "prompt_text"}
    assert not [claim for claim in rejected if len(claim.label) > 20 or len(claim.kind) > 20]


def outside(entities: Sequence[Entity], document: Injected, *, with_orders: bool) -> list[tuple[object, ...]]:
    """What was found outside the orders, at the places that it has without them."""
    found: list[tuple[object, ...]] = []
    for entity in entities:
        start = entity.source.start
        if with_orders and start < document.end and document.start < entity.source.end:
            continue
        if with_orders and start >= document.end:
            start -= document.end - document.start
        said = sorted((name, value.text, str(value.normalised)) for name, value in entity.attributes.items())
        found.append((start, entity.kind, entity.label, entity.text, entity.assertion, entity.subject, tuple(said)))
    return sorted(found, key=str)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
async def test_the_local_engine_finds_outside_the_orders_what_it_finds_without_them(document: Injected) -> None:
    local = LocalProvider()
    _, with_orders, _ = await read(document.text, local)
    _, without, _ = await read(document.without, local)
    expected = outside(without.entities, document, with_orders=False)
    assert expected
    assert outside(with_orders.entities, document, with_orders=True) == expected
