"""A document that names somebody else is told from one that OCR, a form or a marriage spells otherwise."""

import random
from datetime import date

import pytest

from services.persister.identity import Profile, contradictions

OWN = Profile("Margaret Ann O'Sullivan-Byrne", date(1950, 3, 12))


def fields(text: str, profile: Profile = OWN) -> list[str]:
    return [contradiction.field for contradiction in contradictions({1: text}, profile)]


@pytest.mark.parametrize(
    "text",
    [
        "Patient: Margaret O'Sullivan-Byrne   DOB: 12/03/1950",
        "PATIENT NAME: O'SULLIVAN-BYRNE, MARGARET ANN\nDate of birth: 12 March 1950",
        "Patient: Mrs M. O'Sullivan-Byrne\nD.O.B.: 12.03.50",
        "Patlent: Margarct OSullivan Byrne\nDOB: l2/O3/195O",
        "Re: Mrs Margaret Ann Byrne, DOB 03/12/1950, NHS No: 943 476 5919",
        "Patient: M. A. O'Sullivan-Byrne (F)",
        "Name: Dr J. Whitfield\nGMC: 1234567",
        "Referring physician name: John Whitfield",
        "Patient: Denies chest pain. Reports cough.",
        "Patient: 74-year-old woman with asthma",
        "Patient: Female\nPatient: Inpatient Ward Seven",
        "DOB: illegible",
        "SURNAME: O'Sullivan-Byrne   FIRST NAME: Margaret",
        "Surname: Kelly",
        "Patient details: see overleaf\nDate: 4 May 2024",
        "Mother's name: Bridget Kelly",
        "Patient: Margaret O'Sullivan-Byrne DOB: 12/03/1950\nSister\nPatient: Bridget Kelly DOB: 1/1/1948",
        "",
    ],
)
def test_what_does_not_contradict(text: str) -> None:
    assert fields(text) == []


@pytest.mark.parametrize(
    ("text", "contradicted"),
    [
        ("Patient: Bridget Kelly\nDOB: 12/03/1950", ["name"]),
        ("PATIENT NAME: KELLY, BRIDGET", ["name"]),
        ("Patient name; Bridget Kelly    Sex: F", ["name"]),
        ("Patient: Margaret O'Sullivan-Byrne   DOB: 12/03/1980", ["birth_date"]),
        ("Date of Birth: March 12, 1951", ["birth_date"]),
        ("date of birth 1951-03-12", ["birth_date"]),
        ("Name: Bridget Kelly\nD.O.B. 4 June 1988", ["name", "birth_date"]),
        ("Re: Ms Bridget Kelly, DOB: 04/06/88, 12 Hill Street", ["name", "birth_date"]),
        ("Patient: Margaret Kelly", ["name"]),
        ("FORENAME: Bridget   SURNAME: Kelly   DOB: 12/03/1950", ["name"]),
    ],
)
def test_what_contradicts(text: str, contradicted: list[str]) -> None:
    found = contradictions({1: "Clinic letter", 2: text}, OWN)
    assert [contradiction.field for contradiction in found] == contradicted
    for contradiction in found:
        assert contradiction.page == 2
        assert text[contradiction.start : contradiction.end] == contradiction.quote
        assert "Sullivan" not in contradiction.quote or contradiction.field == "name"


@pytest.mark.parametrize("profile", [Profile(None, None), Profile("Mum", None), Profile("", None)])
def test_a_profile_that_says_little_contradicts_nothing(profile: Profile) -> None:
    assert fields("Patient: Bridget Kelly\nDOB: 1/1/1990", profile) == []


FORENAMES = ("Margaret", "Bridget", "Thomas", "Aisha", "Chen", "Wilhelmina", "José", "Ngozi", "Piotr", "Fatima", "Liam")
SURNAMES = (
    "Kelly",
    "Okonkwo",
    "Whitfield",
    "García",
    "Nowak",
    "Al-Rashid",
    "Featherstonehaugh",
    "Wu",
    "Petrov",
    "Singh",
)
MISREAD = {"l": "1", "i": "l", "o": "0", "e": "c", "a": "o", "s": "5", "n": "m"}


def misread(source: random.Random, name: str) -> str:
    """As OCR reads it: one letter of each long word, never the first."""

    def read(word: str) -> str:
        places = [place for place, letter in enumerate(word) if place and letter in MISREAD]
        if len(word) < 5 or not places or source.random() < 0.3:
            return word
        place = source.choice(places)
        return word[:place] + MISREAD[word[place]] + word[place + 1 :]

    return " ".join(read(word) for word in name.split())


def test_noise_order_and_initials_never_make_somebody_else() -> None:
    source = random.Random(7)
    for _ in range(500):
        first, second, last = source.choice(FORENAMES), source.choice(FORENAMES), source.choice(SURNAMES)
        profile = Profile(f"{first} {second} {last}", None)
        printed = source.choice(
            [
                f"{first} {last}",
                f"{last.upper()}, {first}",
                f"{first[0]}. {last}",
                f"{first} {second[0]}. {last}",
                misread(source, f"{first} {last}"),
                misread(source, f"{first} {second} {last}"),
            ]
        )
        assert fields(f"Patient: {source.choice(['', 'Mr ', 'Mrs. '])}{printed}  Sex: F", profile) == [], printed


def test_somebody_else_is_seen_through_the_same_noise() -> None:
    source = random.Random(8)
    for _ in range(500):
        first, other = source.sample(FORENAMES, 2)
        last, others = source.sample(SURNAMES, 2)
        text = f"Patient: {misread(source, f'{other} {others}')}\nClinic letter"
        assert fields(text, Profile(f"{first} {last}", None)) == ["name"], text
