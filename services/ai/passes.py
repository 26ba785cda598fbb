"""The three passes: find, understand, tell. Whoever answers, the same gates stand between an answer and a fact."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import TypeVar

from shared.contract.findings import (
    Attribute,
    AttributeName,
    Detection,
    Engine,
    Enrichment,
    Entity,
    Finding,
    Kind,
    Link,
    Narration,
    RejectedFinding,
    Sentence,
    Source,
    folded,
)
from shared.contract.pages import Page

from . import claims, dates, dosing, grades, grounding, instructions, timeline, units
from .local import sections, terminology
from .passages import Merger, halve, split
from .providers import OutputTruncatedError, Provider, Task, summed
from .wire import (
    KIND_OF_LABEL,
    SCHEMA_VERSION,
    Candidate,
    Claim,
    Claims,
    Detail,
    DetectInputs,
    EnrichInputs,
    Fact,
    Mention,
    Mentions,
    NarrateInputs,
    Passage,
    Target,
    Understanding,
    Understandings,
)

Item = TypeVar("Item")
Result = TypeVar("Result")

_KINDS: dict[str, Kind] = {kind: kind for kind in KIND_OF_LABEL.values()}
_FORMS: dict[AttributeName, Callable[[str], str | float | None]] = {
    "value": units.number,
    "unit": units.ucum,
    "range": grades.reference,
    "flag": grades.flag,
    "severity": grades.severity,
    "dose": dosing.dose,
    "frequency": dosing.frequency,
    "route": dosing.route,
}
_DONE_WITH_A_VALUE = frozenset({"test", "vital_sign", "imaging", "examination"})
"""What was done if it has a result: "CRP negative" negates the result, "no CRP was taken" the test."""
_DAY = re.compile(r"\d{4}(?:-\d\d|$)")
_SINCE = re.compile(r"\b(?:since|from)\b", re.I)
_MONTHS_PAST = 6
_OVER_WHEN_DATED = frozenset({"procedure", "clinical_event", "symptom"})
"""What a day years ago makes a thing of the past; a disease that was found then may last."""
_COMPARATOR = re.compile(r"[<>≤≥]=?\s?$")
_AT_ONCE = 4
"""Questions of one job under way together. Forty pages use forty workers; one job must not use up the rate limit."""
_CHARACTERS_A_TARGET = 100
"""Of a provider's window, for each finding in one question of pass 2: 60 in a window of 6,000, 5,000 tokens out."""
_FACTS = 150
"""Facts in one question of pass 3, and more where the window is larger: what is told twice should meet itself."""


async def detect(pages: Sequence[Page], provider: Provider, *, checker: Provider | None = None) -> Detection:
    """Pass 1: what stands on the pages. What cannot be found there is rejected, with the reason.

    ``checker`` reads the pages, too, while the provider does. What it finds and the provider passes over is no fact,
    but it is not lost.
    """
    if checker is None:
        return await _detected(pages, provider)
    checking = asyncio.create_task(_detected(pages, checker))
    try:
        detection = await _detected(pages, provider)
    except BaseException:
        checking.cancel()
        await asyncio.gather(checking, return_exceptions=True)
        raise
    checked = await checking
    return detection.model_copy(
        update={"missed": _missed(detection.findings, checked.findings), "checked_by": checked.engine}
    )


async def _detected(pages: Sequence[Page], provider: Provider) -> Detection:
    roles = _open_roles(pages)
    passages = [passage for page in pages for passage in split(page, provider.window, roles[page.page])]
    answers = await _each(passages, lambda passage: _mentions(passage, provider))
    by_number = {page.page: page for page in pages}
    ordinals = {page.page: grounding.Ordinals(page.text) for page in pages}
    merger = Merger()
    rejected: list[RejectedFinding] = []
    usages: list[dict[str, int]] = []
    for passage, mentions, usage in (part for parts in answers for part in parts):
        usages.append(usage)
        ground, page = grounding.Ground(passage.text), by_number[passage.page]
        for mention in mentions:
            number, places = len(merger.findings) + 1, ordinals[page.page]
            outcome = _finding(mention, ground, passage, page, ordinals=places, finding_id=f"e{number}")
            if isinstance(outcome, RejectedFinding):
                rejected.append(outcome)
            else:
                merger.add(outcome, passage)
    return Detection(
        engine=_engine(provider, Task.DETECT),
        findings=tuple(merger.findings),
        rejected=tuple(rejected),
        usage=summed(usages),
    )


def _missed(found: Sequence[Finding], checked: Sequence[Finding]) -> tuple[Finding, ...]:
    """Of what was checked, what overlaps nothing that was found, by its words once a page; background aside."""
    covered: dict[int, list[tuple[int, int]]] = {}
    named: set[tuple[int, str]] = set()
    for finding in found:
        covered.setdefault(finding.source.page, []).append((finding.source.start, finding.source.end))
        named.add((finding.source.page, folded(finding.text)))
    missed = []
    for finding in checked:
        page, words = finding.source.page, (finding.source.page, folded(finding.text))
        if (finding.kind == "context" and finding.label != "allergy") or words in named:
            continue
        if not any(start < finding.source.end and finding.source.start < end for start, end in covered.get(page, ())):
            named.add(words)
            missed.append(finding)
    return tuple(missed)


async def enrich(pages: Sequence[Page], detection: Detection, provider: Provider) -> Enrichment:
    """Pass 2: does it hold, for whom, when, how much. What the answer leaves out stays affirmed and bare."""
    by_number = {page.page: page for page in pages}
    known = dates.calendar(page.text for page in pages)
    roles = _open_roles(pages)
    questions = [
        inputs
        for page in pages
        for inputs in _questions(page, detection.findings, window=provider.window, role=roles[page.page])
    ]
    answers = await _each(questions, lambda inputs: _understandings(inputs, provider))
    usages = [usage for parts in answers for _, _, usage in parts]
    understood = {answer.id: (answer, passage) for parts in answers for passage, found, _ in parts for answer in found}
    grounds = {inputs.passage.place: grounding.Ground(inputs.passage.text) for inputs in questions}
    rejected: list[RejectedFinding] = []
    entities: list[Entity] = []
    for finding in detection.findings:
        if finding.id not in understood:
            entities.append(Entity(**vars(finding)))
            continue
        answer, passage = understood[finding.id]
        ground = grounds[passage.place]
        attributes: dict[AttributeName, Attribute] = {}
        for detail in answer.details:
            match = ground.find(detail.quote, occurrence=detail.occurrence, near=finding.source.end - passage.start)
            if match is None:
                rejected.append(_missing(detail, finding))
                continue
            page = by_number[passage.page]
            start, end = passage.start + match.start, passage.start + match.end
            if detail.name == "value" and (bound := _COMPARATOR.search(page.text[max(start - 3, 0) : start])):
                # "<0.5" is a bound: without its sign it would be a value that nobody measured.
                start -= len(bound.group())
            attributes.setdefault(detail.name, _attribute(detail.name, page, grounding.source(page, start, end), known))
        over = _is_past(attributes.get("time"), by_number[finding.source.page], known.own)
        entities.append(_entity(finding, answer, attributes, understood.keys(), over=over))
    return Enrichment(
        engine=_engine(provider, Task.ENRICH),
        document_date=known.own,
        entities=tuple(entities),
        rejected=tuple(rejected),
        usage=summed(usages),
    )


async def narrate(enrichment: Enrichment, provider: Provider) -> Narration:
    """Pass 3: sentences that cite, each checked against what it cites, and the timeline of what is dated."""
    entities = {entity.id: entity for entity in enrichment.entities}
    facts = [_fact(entity) for entity in enrichment.entities]
    at_once = max(_FACTS, provider.window // _CHARACTERS_A_TARGET)
    questions = [
        NarrateInputs(document_date=enrichment.document_date, facts=facts[first : first + at_once])
        for first in range(0, len(facts), at_once)
    ]
    answers = await _each(questions, lambda inputs: _claims(inputs, provider))
    told = [claim for parts in answers for found, _ in parts for claim in found]
    sentences = [claim for claim in told if _borne(claim, entities, enrichment.document_date)]
    return Narration(
        engine=_engine(provider, Task.NARRATE),
        sentences=tuple(Sentence(text=claim.text, entity_ids=tuple(claim.entity_ids)) for claim in sentences),
        dropped=len(told) - len(sentences),
        timeline=timeline.entries(enrichment.entities, enrichment.document_date),
        usage=summed([usage for parts in answers for _, usage in parts]),
    )


async def _each(items: Sequence[Item], work: Callable[[Item], Awaitable[Result]]) -> list[Result]:
    """``work`` on all items, a few at once, results in order.

    After a failure none is begun, and it is raised when those under way have ended: what they bring is kept.
    """
    if len(items) == 1:
        return [await work(items[0])]
    left = iter(enumerate(items))
    results: dict[int, Result] = {}
    failures: list[Exception] = []

    async def go_on() -> None:
        for place, item in left:
            try:
                results[place] = await work(item)
            except Exception as error:
                failures.append(error)
            if failures:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(min(_AT_ONCE, len(items))):
            group.create_task(go_on())
    if failures:
        raise failures[0]
    return [results[place] for place in range(len(items))]


def _engine(provider: Provider, task: Task) -> Engine:
    return Engine(
        provider=provider.name,
        model=provider.model,
        prompt_version=provider.prompt_version(task),
        schema_version=SCHEMA_VERSION,
        terminology=terminology.version(),
    )


async def _mentions(passage: Passage, provider: Provider) -> list[tuple[Passage, list[Mention], dict[str, int]]]:
    try:
        completion = await provider.complete(Task.DETECT, DetectInputs(passage=passage), Mentions)
    except OutputTruncatedError:
        halves = halve(passage)
        if not halves:
            raise
        return [part for half in halves for part in await _mentions(half, provider)]
    return [(passage, completion.parsed.mentions, completion.usage)]


def _finding(
    mention: Mention,
    ground: grounding.Ground,
    passage: Passage,
    page: Page,
    *,
    ordinals: grounding.Ordinals,
    finding_id: str,
) -> Finding | RejectedFinding:
    match = ground.find(mention.quote, occurrence=mention.occurrence)
    # The label decides where it can: a model that says "context, medication" means a medication.
    kind = KIND_OF_LABEL.get(mention.label) or _KINDS.get(mention.kind)
    # Open fields of a reply may hold anything; what is kept of them is what is known.
    label = mention.label if mention.label in KIND_OF_LABEL else "other"
    if match is None or kind is None:
        copied = match is None and instructions.repeats(mention.quote, or_examples=True)
        return RejectedFinding(
            kind=kind or "unknown",
            label=label,
            quote="" if copied else mention.quote,
            page=passage.page,
            reason="prompt_text" if copied else "quote_not_found" if match is None else "kind_unknown",
        )
    source = grounding.source(page, passage.start + match.start, passage.start + match.end)
    return Finding(
        id=finding_id,
        kind=kind,
        label=label,
        text=" ".join(source.quote.split()),
        source=source,
        alignment=match.alignment,
        occurrence=ordinals.of(source),
        codes=terminology.codes(source.quote, mention.label),
        uncertain=grounding.is_uncertain(page, source),
    )


def _open_roles(pages: Sequence[Page]) -> dict[int, str]:
    """The section that is open where each page begins."""
    roles, role = {}, "other"
    for page in pages:
        roles[page.page] = role
        role = sections.open_role(page.text, role)
    return roles


def _questions(page: Page, findings: Sequence[Finding], *, window: int, role: str) -> list[EnrichInputs]:
    """Each finding of the page once, in the passage in which it lies deepest, a bounded number in a question."""
    passages = split(page, window, role)
    targets_of: list[list[Target]] = [[] for _ in passages]
    parted = len(passages) > 1
    for finding in findings:
        if finding.source.page != page.page:
            continue
        number = max(range(len(passages)), key=lambda number: _margin(passages[number], finding)) if parted else 0
        home = passages[number]
        target = Target(
            id=finding.id,
            quote=finding.source.quote,
            kind=finding.kind,
            label=finding.label,
            start=finding.source.start - home.start,
            end=finding.source.end - home.start,
            candidates=[Candidate(code=code.code, display=code.display) for code in finding.codes],
        )
        targets_of[number].append(target)
    size = max(window // _CHARACTERS_A_TARGET, 1)
    return [
        EnrichInputs(passage=home, targets=targets[first : first + size])
        for home, targets in zip(passages, targets_of, strict=True)
        for first in range(0, len(targets), size)
    ]


def _margin(passage: Passage, finding: Finding) -> int:
    """Characters between the finding and the nearer edge of the passage; negative where it lies outside."""
    return min(finding.source.start - passage.start, passage.start + len(passage.text) - finding.source.end)


async def _understandings(
    inputs: EnrichInputs, provider: Provider
) -> list[tuple[Passage, list[Understanding], dict[str, int]]]:
    try:
        completion = await provider.complete(Task.ENRICH, inputs, Understandings)
    except OutputTruncatedError:
        middle = len(inputs.targets) // 2
        if not middle:
            raise
        return [
            part
            for targets in (inputs.targets[:middle], inputs.targets[middle:])
            for part in await _understandings(inputs.model_copy(update={"targets": targets}), provider)
        ]
    asked = {target.id for target in inputs.targets}
    return [(inputs.passage, [one for one in completion.parsed.entities if one.id in asked], completion.usage)]


def _entity(
    finding: Finding,
    answer: Understanding,
    attributes: dict[AttributeName, Attribute],
    known_ids: Collection[str],
    *,
    over: bool,
) -> Entity:
    """The finding with what holds of the answer: links to what exists, codes that were offered."""
    assertion = answer.assertion
    if assertion == "negated" and finding.label in _DONE_WITH_A_VALUE and "value" in attributes:
        assertion = "affirmed"
    if assertion == "affirmed" and finding.label in _OVER_WHEN_DATED and over:
        assertion = "historical"
    links = {(link.relation, link.to) for link in answer.links if link.to in known_ids and link.to != finding.id}
    codes = finding.codes
    if answer.codes is not None:
        codes = tuple(code for code in codes if code.code in answer.codes)
    return Entity(
        **vars(finding) | {"codes": codes},
        assertion=assertion,
        subject=answer.subject,
        attributes=attributes,
        links=tuple(Link(relation=relation, to=to) for relation, to in sorted(links)),
    )


def _is_past(time: Attribute | None, page: Page, document_date: str | None) -> bool:
    """Whether a day lies so far before the document's own that what was then is no part of its story.

    What has been so since then still is.
    """
    if time is None or _SINCE.search(page.text[max(time.source.start - 12, 0) : time.source.end]):
        return False
    day = time.normalised
    if document_date is None or not isinstance(day, str) or not _DAY.match(day):
        return False
    if len(day) == len("2011"):
        return day < document_date[:4]
    months = [int(iso[:4]) * 12 + int(iso[5:7]) for iso in (day, document_date)]
    return months[1] - months[0] >= _MONTHS_PAST


def _attribute(name: AttributeName, page: Page, source: Source, known: dates.Calendar) -> Attribute:
    text = " ".join(source.quote.split())
    return Attribute(
        text=text,
        normalised=_normalised(name, text, known),
        source=source,
        uncertain=grounding.is_uncertain(page, source),
    )


def _normalised(name: AttributeName, text: str, known: dates.Calendar) -> str | float | None:
    """Normal forms are computed here from the page's words, never taken from a provider."""
    if name == "time":
        return dates.resolve(text, known)
    form = _FORMS.get(name)
    return form(text) if form else None


def _missing(detail: Detail, finding: Finding) -> RejectedFinding:
    copied = instructions.repeats(detail.quote, or_examples=True)
    return RejectedFinding(
        kind=finding.kind,
        label=detail.name,
        quote="" if copied else detail.quote,
        page=finding.source.page,
        finding_id=finding.id,
        reason="prompt_text" if copied else "attribute_not_found",
    )


def _fact(entity: Entity) -> Fact:
    details: dict[str, str] = {name: attribute.text for name, attribute in entity.attributes.items()}
    time = entity.attributes.get("time")
    if time is not None and isinstance(time.normalised, str):
        details["date"] = time.normalised
    return Fact(
        id=entity.id,
        kind=entity.kind,
        label=entity.label,
        text=entity.text,
        assertion=entity.assertion,
        subject=entity.subject,
        details=details,
    )


async def _claims(inputs: NarrateInputs, provider: Provider) -> list[tuple[list[Claim], dict[str, int]]]:
    try:
        completion = await provider.complete(Task.NARRATE, inputs, Claims)
    except OutputTruncatedError:
        middle = len(inputs.facts) // 2
        if not middle:
            raise
        return [
            part
            for facts in (inputs.facts[:middle], inputs.facts[middle:])
            for part in await _claims(inputs.model_copy(update={"facts": facts}), provider)
        ]
    return [(completion.parsed.sentences, completion.usage)]


def _borne(claim: Claim, entities: dict[str, Entity], document_date: str | None) -> bool:
    """Whether a sentence cites, cites only what exists, and says only what that bears."""
    if not claim.text.strip() or not claim.entity_ids or any(cited not in entities for cited in claim.entity_ids):
        return False
    cited = [entities[cited] for cited in claim.entity_ids]
    return claims.holds(claim.text, cited, document_date) and not instructions.repeats(claim.text, or_examples=False)
