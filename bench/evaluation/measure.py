"""One document through the three passes, and what came of it beside the truth."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from services.ai import passes
from services.ai.local.engine import Engine
from services.ai.local.sections import sentences
from services.ai.providers import Provider
from services.ai.providers.local import LocalProvider
from services.ai.training import linking as training
from services.ai.training.corpus import Document, Truth
from shared.contract.findings import AttributeName, Detection, Enrichment, Entity, Finding, Narration, Source
from shared.contract.pages import Page

from .matching import pairs

HEADS = ("event", "observation", "intervention")
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a provider made of a document.

    ``understood`` is pass 2 on the truth's own findings, so that what it gets wrong is not pass 1's fault.
    """

    document: Document
    found: Enrichment
    understood: Enrichment
    narrated: Narration
    cpu_s: float
    wall_s: float
    usage: dict[str, int] = field(default_factory=dict)
    links: tuple[tuple[str, bool], ...] = ()
    """(name, right) of each of the truth's attributes, as the local engine links the truth's own words."""

    @property
    def rejected(self) -> int:
        """Quotes that stand nowhere."""
        return len(self.found.rejected)


def page_of(document: Document) -> Page:
    """The document as one page of plain text."""
    return Page(
        page=1,
        width=1,
        height=1,
        text=document.text,
        words=(),
        text_source="text_layer",
        engine="corpus",
        engine_version="1",
    )


async def read(document: Document, provider: Provider) -> Outcome:
    """All three passes, timed; then pass 2 once more on the truth."""
    pages = [page_of(document)]
    cpu, wall = time.process_time(), time.perf_counter()
    detection = await passes.detect(pages, provider)
    enrichment = await passes.enrich(pages, detection, provider)
    narration = await passes.narrate(enrichment, provider)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    usage: dict[str, int] = {}
    for part in (detection.usage, enrichment.usage, narration.usage):
        for name, count in part.items():
            usage[name] = usage.get(name, 0) + int(count)
    return Outcome(
        document=document,
        found=enrichment,
        understood=await passes.enrich(pages, _as_found(document, detection), provider),
        narrated=narration,
        cpu_s=cpu,
        wall_s=wall,
        usage=usage,
        links=tuple(_links(document, provider.engine)) if isinstance(provider, LocalProvider) else (),
    )


def _links(document: Document, engine: Engine) -> Iterator[tuple[str, bool]]:
    edges, heads = sentences(document.text), training.heads(document)
    for said, owners in training.links(document).items():
        head = engine.linking.head(document.text, said, heads, edges)
        yield said[0], head is not None and head.id in owners


def _as_found(document: Document, detection: Detection) -> Detection:
    """The truth in the shape of a result of pass 1."""
    return detection.model_copy(
        update={
            "findings": tuple(
                Finding(
                    id=f"e{number}",
                    kind=truth.kind,
                    label=truth.label,
                    text=" ".join(document.text[truth.start : truth.end].split()),
                    source=Source(
                        page=1,
                        start=truth.start,
                        end=truth.end,
                        quote=document.text[truth.start : truth.end],
                        boxes=(),
                    ),
                    alignment="exact",
                )
                for number, truth in enumerate(document.truths)
            )
        }
    )


@dataclass(slots=True)
class Count:
    """Found, true, and both at once."""

    found: int = 0
    true: int = 0
    both: int = 0

    @property
    def precision(self) -> float:
        return self.both / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        return self.both / self.true if self.true else 0.0

    @property
    def f1(self) -> float:
        return 2 * self.both / (self.found + self.true) if self.found + self.true else 0.0


def detection(outcomes: Sequence[Outcome], kinds: Sequence[str] = HEADS) -> tuple[Count, Count]:
    """Findings of these kinds: (overlapping, equal)."""
    overlap, exact = Count(), Count()
    for outcome in outcomes:
        found = [(e.source.start, e.source.end, e.kind) for e in outcome.found.entities if e.kind in kinds]
        true = [(t.start, t.end, t.kind) for t in outcome.document.truths if t.kind in kinds]
        matched = pairs(found, true)
        overlap.found, overlap.true, overlap.both = (
            overlap.found + len(found),
            overlap.true + len(true),
            overlap.both + len(matched),
        )
        exact.both += sum(found[mine][:2] == true[theirs][:2] for mine, theirs in matched)
    exact.found, exact.true = overlap.found, overlap.true
    return overlap, exact


def assertion(outcomes: Sequence[Outcome], value: str) -> Count:
    """Of the truth's own findings, those that the text states so."""
    count = Count()
    for truth, entity in _understood(outcomes):
        if truth.assertion is not None and truth.kind in HEADS:
            count.found += entity.assertion == value
            count.true += truth.assertion == value
            count.both += entity.assertion == truth.assertion == value
    return count


def attribute(outcomes: Sequence[Outcome], name: AttributeName, *, normalised: bool = False) -> Count:
    """Attributes of the truth's own findings: at the right finding, and the right words or the right normal form."""
    count = Count()
    for truth, entity in _understood(outcomes):
        wanted, said = truth.attributes.get(name), entity.attributes.get(name)
        count.found += said is not None
        count.true += wanted is not None
        if said is not None and wanted is not None:
            count.both += (
                said.normalised == wanted.normalised
                if normalised
                else said.source.start < wanted.end and wanted.start < said.source.end
            )
    return count


def linking(outcomes: Sequence[Outcome], name: AttributeName) -> Count:
    """Of the truth's own words about a finding, those that the engine links to it (``both`` of ``true``)."""
    answers = [right for outcome in outcomes for said, right in outcome.links if said == name]
    return Count(found=len(answers), true=len(answers), both=sum(answers))


def grounded(outcomes: Sequence[Outcome]) -> tuple[int, int]:
    """(findings whose quote is the text at its place, findings that the provider claimed)."""
    good = sum(
        outcome.document.text[entity.source.start : entity.source.end] == entity.source.quote
        for outcome in outcomes
        for entity in outcome.found.entities
    )
    return good, good + sum(outcome.rejected for outcome in outcomes)


def _understood(outcomes: Sequence[Outcome]) -> Iterator[tuple[Truth, Entity]]:
    for outcome in outcomes:
        yield from zip(outcome.document.truths, outcome.understood.entities, strict=True)
