"""Documents that flow by the hundred: invented letters, as text or as digital PDF, and a few that cannot be read."""

import asyncio
import errno
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import asyncpg

from shared.database import CONNECTION_ERRORS
from shared.storage import Storage
from tests.conftest import Database
from tests.service.ocr_documents import encrypted_pdf, pdf, text
from tests.users import as_user

T = TypeVar("T")

FINAL = "not exists (select from shell_files where status not in ('completed', 'failed', 'quarantined', 'cancelled'))"
"""No document is on its way any more."""

DIAGNOSES = ("gout", "asthma", "atrial fibrillation", "pneumonia", "type 2 diabetes", "hypertension", "migraine")
MEDICINES = ("allopurinol", "amoxicillin", "metformin", "ramipril", "bisoprolol", "atorvastatin", "paracetamol")
TESTS = ("Haemoglobin", "Potassium", "Creatinine", "Glucose", "Sodium")
SYMPTOMS = ("chest pain", "cough", "fever", "headache", "nausea", "breathlessness")
TERMS = (*DIAGNOSES, *MEDICINES, *TESTS, *SYMPTOMS)
PATIENTS = 10
UNREADABLE = 0.03
AS_PDF = 0.6


@dataclass(frozen=True)
class Patient:
    """A profile and the user who owns it."""

    profile_id: UUID
    user_id: UUID


@dataclass(frozen=True)
class Letter:
    """A file, and how many seconds after the start its upload begins."""

    patient: Patient
    name: str
    content: bytes
    at: float

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def make_letters(
    random_source: random.Random, count: int, *, per_second: float, unreadable: float = UNREADABLE
) -> list[Letter]:
    patients = [Patient(_uuid(random_source), _uuid(random_source)) for _ in range(PATIENTS)]
    letters = []
    for number in range(count):
        name, content = _file(random_source, number, unreadable)
        letters.append(Letter(random_source.choice(patients), name, content, number / per_second))
    return letters


def _file(random_source: random.Random, number: int, unreadable: float) -> tuple[str, bytes]:
    if random_source.random() < unreadable:
        # The comment makes each a file of its own: the same bytes of the same patient are one document.
        return f"{number}.pdf", encrypted_pdf() + b"%% %d\n" % number
    lines = _lines(random_source, number)
    if random_source.random() >= AS_PDF:
        return f"{number}.txt", "\n".join(lines).encode()
    half = len(lines) // 2
    pages = [lines[:half], lines[half:]]
    drawn = [
        b"\n".join(text(line.encode(), at=b"1 0 0 1 50 %d" % (780 - 20 * place)) for place, line in enumerate(page))
        for page in pages
    ]
    return f"{number}.pdf", pdf(*drawn)


def _lines(random_source: random.Random, number: int) -> list[str]:
    def day() -> str:
        return f"{random_source.randint(1, 28)} March {random_source.randint(2015, 2024)}"

    def line() -> str:
        return random_source.choice(
            [
                f"Diagnosis: {random_source.choice(DIAGNOSES)}, first seen on {day()}.",
                f"Started {random_source.choice(MEDICINES)} {random_source.randint(1, 50) * 10} mg once daily.",
                f"{random_source.choice(TESTS)} {random_source.randint(10, 200) / 10} mmol/L on {day()}.",
                f"The patient reports {random_source.choice(SYMPTOMS)} since {day()}.",
                f"No {random_source.choice(SYMPTOMS)} at the visit of {day()}.",
            ]
        )

    return [f"Clinic letter {number} of {day()}.", *(line() for _ in range(random_source.randint(4, 9)))]


def _uuid(random_source: random.Random) -> UUID:
    return UUID(int=random_source.getrandbits(128), version=4)


class Owner:
    """The owner's connection, made anew where the server died: only for what may be repeated."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: asyncpg.Connection | None = None

    async def run(self, query: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        while True:
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await self._database.connect()
                return await query(self._connection)
            except CONNECTION_ERRORS:
                if self._connection is not None:
                    self._connection.terminate()
                await asyncio.sleep(0.1)

    async def fetchval(self, query: str, *arguments: object) -> object:
        return await self.run(lambda connection: connection.fetchval(query, *arguments))


async def announce(database: Database, letters: list[Letter]) -> dict[str, UUID]:
    """Patients and documents as they are before the first file: their ids are the same in every copy."""
    owner = await database.connect()
    for patient in {letter.patient for letter in letters}:
        await owner.execute(
            "insert into user_profiles (id, owner_user_id) values ($1, $2)", patient.profile_id, patient.user_id
        )
    ids = {}
    for letter in letters:
        created = await as_user(
            owner,
            letter.patient.user_id,
            "select create_upload($1, $2, $3, $4)",
            letter.patient.profile_id,
            letter.name,
            letter.sha256,
            len(letter.content),
        )
        ids[letter.sha256] = UUID(created["shell_file_id"])
    await owner.close()
    return ids


async def upload(owner: Owner, storage: Storage, letter: Letter, document: UUID) -> int:
    """As a client that does not give up; returns how often the disk was full."""

    async def content() -> AsyncIterator[bytes]:
        yield letter.content

    refused = 0
    while True:
        try:
            await storage.put(f"{letter.patient.profile_id}/{letter.sha256}", content())
            break
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            refused += 1
            await asyncio.sleep(0.2)
    await owner.run(
        lambda connection: as_user(connection, letter.patient.user_id, "select complete_upload($1)", document)
    )
    return refused
