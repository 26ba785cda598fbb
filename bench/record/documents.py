"""Invented documents whose AI passes are done, so that only ``persist`` is left. A seed gives the same again."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from services.persister.handler import PersistHandler
from services.persister.rows import ClinicalRows
from shared.contract.base import Row
from shared.contract.findings import (
    Alignment,
    Assertion,
    Attribute,
    AttributeName,
    Code,
    Detection,
    Engine,
    Enrichment,
    Entity,
    Finding,
    Kind,
    Narration,
    RejectedFinding,
    Sentence,
    Source,
    TimelineEntry,
)
from shared.contract.payloads import DocumentPayload
from shared.jobs import ClaimedJob, Write, claim_jobs, complete_job

ENGINE = Engine(provider="bench", model="invented", prompt_version="1", schema_version="1")
FINDINGS = (60, 100)
"""As the samples' letters have: 73 on three pages and 92 on two, with 46 and 59 entries of the timeline."""
PAGES = 4
VARIANTS = 12
"""So many different results; the documents have them in turn."""

TERMS: dict[Kind, tuple[str, ...]] = {
    "event": ("Community-acquired pneumonia", "Fall at home", "Atrial fibrillation", "Admission", "Chest pain"),
    "observation": ("Potassium", "Haemoglobin A1c", "Systolic blood pressure", "C-reactive protein", "Creatinine"),
    "intervention": ("Metoprolol succinate", "Coronary angiography", "Amoxicillin", "Physiotherapy", "Apixaban"),
    "context": ("Lives alone", "Non-smoker", "Dr Invented", "Ward 7"),
}
ATTRIBUTES: dict[Kind, tuple[AttributeName, ...]] = {
    "event": ("time", "severity", "site"),
    "observation": ("value", "unit", "range", "flag", "time"),
    "intervention": ("dose", "route", "frequency", "time"),
    "context": (),
}
KINDS: tuple[Kind, ...] = ("event", "observation", "observation", "intervention", "context")
ASSERTIONS: tuple[Assertion, ...] = ("affirmed", "affirmed", "affirmed", "negated", "possible", "historical")
ALIGNMENTS: dict[Alignment, int] = {"exact": 16, "normalised": 3, "fuzzy": 1}
"""How often which."""
DATES = (None, "2019", "2023-11", "2024-03-09", "2024-03-10")


Shaped = tuple[ClaimedJob, ClinicalRows]
"""A claimed job and the rows that are to be written as it completes."""


@dataclass(frozen=True)
class Document:
    """A document, and the run over it whose passes are done."""

    patient_id: UUID
    shell_file_id: UUID
    run_id: UUID

    @property
    def payload(self) -> dict[str, Any]:
        return DocumentPayload(shell_file_id=self.shell_file_id, run_id=self.run_id).model_dump(mode="json")


@dataclass(frozen=True)
class PassResults:
    detection: Detection
    enrichment: Enrichment
    narration: Narration
    pages: tuple[str, ...]


class _Paper:
    """Pages on which whatever is found gets printed."""

    def __init__(self) -> None:
        self.pages = [""] * PAGES

    def print(self, random_source: random.Random, quote: str) -> Source:
        page = random_source.randrange(PAGES)
        start = len(self.pages[page])
        self.pages[page] += f"{quote} "
        top = random_source.randrange(2_000)
        box = (100.0, float(top), 100.0 + 9 * len(quote), top + 24.5)
        return Source(page=page + 1, start=start, end=start + len(quote), quote=quote, boxes=(box,))


# -- what the passes found --------------------------------------------------------------------------------------------


def pass_results(random_source: random.Random, findings: int) -> PassResults:
    paper = _Paper()
    entities = tuple(_entity(random_source, paper, number) for number in range(1, findings + 1))
    ids = [entity.id for entity in entities]

    def some() -> tuple[str, ...]:
        return tuple(random_source.sample(ids, min(len(ids), random_source.randint(1, 4))))

    found = tuple(Finding.model_validate(entity.model_dump(include=set(Finding.model_fields))) for entity in entities)
    rejected = tuple(
        RejectedFinding(kind="event", label="event", quote=f"Not on page {page}", page=page, reason="quote_not_found")
        for page in range(1, random_source.randint(1, 4))
    )
    return PassResults(
        Detection(engine=ENGINE, findings=found, rejected=rejected),
        Enrichment(engine=ENGINE, document_date="2024-03-09", entities=entities, rejected=rejected),
        Narration(
            engine=ENGINE,
            sentences=tuple(
                Sentence(text=f"Sentence {number} says what was found.", entity_ids=some())
                for number in range(1, 1 + min(findings, random_source.randint(6, 12)))
            ),
            timeline=tuple(
                TimelineEntry(
                    date=random_source.choice(DATES),
                    title=f"Entry {number}",
                    entity_ids=some(),
                    fact_key=f"test/affirmed/entry {number}///" if number % 2 else None,
                )
                for number in range(1, 1 + min(findings, random_source.randint(45, 60)))
            ),
        ),
        tuple(paper.pages),
    )


def _entity(random_source: random.Random, paper: _Paper, number: int) -> Entity:
    kind = random_source.choice(KINDS)
    term = random_source.choice(TERMS[kind])
    source = paper.print(random_source, term)
    return Entity(
        id=f"e{number}",
        kind=kind,
        label=kind,
        text=term,
        source=source,
        alignment=random_source.choices(list(ALIGNMENTS), weights=list(ALIGNMENTS.values()))[0],
        occurrence=number,
        codes=(Code(system="http://snomed.info/sct", code=str(100_000 + number), display=term),) if number % 3 else (),
        assertion=random_source.choice(ASSERTIONS),
        subject="family" if number % 20 == 0 else "patient",
        attributes={
            name: _attribute(random_source, paper, name) for name in ATTRIBUTES[kind] if random_source.random() < 0.7
        },
    )


def _attribute(random_source: random.Random, paper: _Paper, name: AttributeName) -> Attribute:
    text = f"{random_source.uniform(1, 200):.1f}"
    normalised = float(text) if name == "value" and random_source.random() < 0.8 else None
    return Attribute(text=text, normalised=normalised, source=paper.print(random_source, text))


# -- into the database ------------------------------------------------------------------------------------------------


async def add_documents(
    owner: asyncpg.Connection, random_source: random.Random, *, patients: int, documents: int
) -> list[Document]:
    """Patients, their documents in turn, and a run over each."""
    patient_ids = [_uuid(random_source) for _ in range(patients)]
    file_ids = [_uuid(random_source) for _ in range(documents)]
    owners = [patient_ids[number % patients] for number in range(documents)]
    await owner.execute(
        "insert into public.user_profiles (id, owner_user_id) select id, id from unnest($1::uuid[]) as id", patient_ids
    )
    await owner.execute(
        """
        insert into public.shell_files (
            id, patient_id, file_name, size_bytes, sha256, storage_path, status, uploaded_at, traceparent
        )
        select id, patient_id, 'letter.pdf', 1, sha256, patient_id || '/' || sha256, 'queued', now(),
            chartloom.new_traceparent()
        from (
            select id, patient_id, encode(sha256(id::text::bytea), 'hex') as sha256
            from unnest($1::uuid[], $2::uuid[]) as f (id, patient_id)
        ) as f
        """,
        file_ids,
        owners,
    )
    return await add_runs(owner, random_source, list(zip(owners, file_ids, strict=True)))


async def add_runs(
    owner: asyncpg.Connection, random_source: random.Random, files: list[tuple[UUID, UUID]]
) -> list[Document]:
    """A run over each of these (patient, document), which becomes its current one."""
    documents = [Document(patient_id, file_id, _uuid(random_source)) for patient_id, file_id in files]
    # One of them found nothing at all.
    sizes = [0, *(random_source.randint(*FINDINGS) for _ in range(VARIANTS - 1))]
    results = [pass_results(random_source, size) for size in sizes]
    await owner.executemany(
        "insert into chartloom.document_runs (id, shell_file_id, ocr_run_id) values ($1, $2, $1)",
        [(document.run_id, document.shell_file_id) for document in documents],
    )
    await owner.executemany(
        "update public.shell_files set current_run_id = $1, status = 'queued' where id = $2",
        [(document.run_id, document.shell_file_id) for document in documents],
    )
    await owner.executemany(
        """
        insert into public.ocr_pages (
            run_id, shell_file_id, patient_id, page, width, height, text, words, text_source, engine, engine_version
        )
        values ($1, $2, $3, $4, 1654, 2339, $5, '[]', 'ocr', 'bench', '1')
        """,
        [
            (document.run_id, document.shell_file_id, document.patient_id, number, text)
            for place, document in enumerate(documents)
            for number, text in enumerate(results[place % VARIANTS].pages, start=1)
        ],
    )
    passes: dict[str, Sequence[Row]] = {
        "detect": [result.detection for result in results],
        "enrich": [result.enrichment for result in results],
        "narrate": [result.narration for result in results],
    }
    for name, shapes in passes.items():
        texts = [shape.model_dump_json() for shape in shapes]
        await owner.executemany(
            """
            insert into public.ai_pass_results (
                run_id, pass, shell_file_id, patient_id, provider, model, prompt_version, schema_version, result
            )
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::jsonb)
            """,
            [
                (
                    document.run_id, name, document.shell_file_id, document.patient_id, ENGINE.provider, ENGINE.model,
                    ENGINE.prompt_version, ENGINE.schema_version, texts[place % VARIANTS],
                )
                for place, document in enumerate(documents)
            ],
        )  # fmt: skip
    return documents


async def enqueue(owner: asyncpg.Connection, documents: list[Document]) -> None:
    """The ``persist`` job of each. May be repeated: a job's key is its run."""
    await owner.execute(
        """
        select chartloom.enqueue_jobs_v3(
            'persist', 'ai', array_agg(payload::jsonb order by place),
            p_idempotency_keys => array_agg('persist:' || run_id order by place),
            p_traceparents => array_agg(f.traceparent order by place)
        )
        from unnest($1::text[], $2::uuid[], $3::uuid[]) with ordinality as d (payload, run_id, shell_file_id, place)
        join public.shell_files as f on f.id = d.shell_file_id
        """,
        [json.dumps(document.payload) for document in documents],
        [document.run_id for document in documents],
        [document.shell_file_id for document in documents],
    )


# -- and on, as the service does it -----------------------------------------------------------------------------------


class Persister:
    """``services/persister`` without its process: its two halves apart, so that each can be measured."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._handler = PersistHandler(pool=pool).handler()

    async def shape(self, documents: int) -> list[Shaped]:
        """Claims so many and makes their rows."""
        claimed = await claim_jobs(
            self._pool, worker_id="bench", job_types=["persist"], limit=documents, lease_seconds=3600
        )
        assert len(claimed) == documents
        return [(job, await self._handler.work(job, DocumentPayload.model_validate(job.payload))) for job in claimed]

    async def store(self, connection: PoolConnectionProxy, shaped: Shaped) -> None:
        """The statement that writes them and completes the job."""
        job, rows = shaped
        assert self._handler.store is not None
        write = self._handler.store(job, rows)
        assert isinstance(write, Write)
        await complete_job(connection, job, result=write, traceparent=None)


def _uuid(random_source: random.Random) -> UUID:
    return UUID(int=random_source.getrandbits(128), version=4)
