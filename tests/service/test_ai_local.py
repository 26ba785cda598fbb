"""The engine that needs no key: what it finds on a few pages of our own."""

import asyncio
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import BaseModel

from services.ai import dates, dosing, passes, units
from services.ai.local import engine, terminology
from services.ai.local.engine import Engine
from services.ai.local.words import words as words_of
from services.ai.providers import Task, open_provider
from services.ai.providers.local import LocalProvider
from services.ai.wire import DetectInputs, Inputs, Mentions, Passage
from shared.contract.findings import Enrichment, Entity, Narration
from shared.contract.pages import Page

LETTER = """St Elsewhere Hospital
Discharge Summary

Date of discharge: 14 March 2024
Date of birth: 02/05/1957

Dear Dr Jones,

Thank you for seeing this 66-year-old retired teacher, who was admitted on 9 March 2024 with a
three day history of productive cough, fever and mild shortness of breath. She denied chest pain
or haemoptysis. Chest X-ray showed consolidation in the right lower lobe. CRP was 145 mg/L.
Blood pressure 128/76 mmHg. Pulmonary embolism was ruled out by CT pulmonary angiogram.

Diagnosis: Community-acquired pneumonia

Past medical history: Type 2 diabetes, hypertension. Appendicectomy in 1987.

Allergies: Penicillin

Discharge medications:
- Doxycycline 100 mg PO once daily for 5 days
- Ramipril 5 mg OD

Plan: Repeat chest X-ray in 6 weeks. If fever recurs, please seek help.
"""

LAB = """LABORATORY REPORT
Patient: Jane Example   DOB: 02/05/1957   Sex: F
Collected: 2024-03-09
Test Result Units Reference Range Flag
Haemoglobin 10.2 g/dL 12.0 - 15.5 L
White cell count 12.8 x10^9/L 4.0 - 11.0 H
Potassium 5.9 mmol/L 3.5 - 5.3 H
eGFR 48 mL/min/1.73m2 >60 L
Calprotectin 320 ug/g 0 - 50 H
Hepatitis B surface antigen Negative
"""

MEDICINES = """Current medications
1. Atorvastatin 40 mg tablets, one at night
2. Apixaban 5mg twice a day
3. Salbutamol inhaler 2 puffs as required
4. Ferrous fumarate 210 mg PO TDS
5. Insulin glargine 20 units subcutaneously at bedtime
"""

RADIOLOGY = """RADIOLOGY REPORT
Examination: CT abdomen and pelvis with contrast
Date: 22/11/2023
Findings: There is a mass in the right kidney. No hydronephrosis. No lymphadenopathy or ascites.
Impression: Findings suspicious for renal cell carcinoma. Bone metastases cannot be excluded.
"""

FAMILY = """Family history: Father had a myocardial infarction at 52. Mother - breast cancer.
Social history: Ex-smoker, 20 pack years.

Her mother has asthma. The patient has psoriasis.
"""

NEGATIONS = """The patient denies fever, chills or night sweats but has a persistent cough.
Tumour cells were negative for CD31 and positive for S100. CT was negative for pulmonary embolism.
There is no evidence of recurrence. Biopsy was not performed. No known drug allergies. CRP was elevated.
Pneumonia cannot be excluded.
"""


def pages_of(*texts: str) -> list[Page]:
    return [
        Page(page=n, width=9, height=9, text=text, words=(), text_source="ocr", engine="t", engine_version="1")
        for n, text in enumerate(texts, start=1)
    ]


async def read(*texts: str) -> tuple[Enrichment, Narration]:
    provider = open_provider(provider="local", model=None, api_key=None, base_url=None, timeout_s=1)
    pages = pages_of(*texts)
    enrichment = await passes.enrich(pages, await passes.detect(pages, provider), provider)
    by_number = {page.page: page for page in pages}
    for entity in enrichment.entities:
        for source in (entity.source, *(attribute.source for attribute in entity.attributes.values())):
            assert source.quote == by_number[source.page].text[source.start : source.end]
    assert enrichment.rejected == ()
    return enrichment, await passes.narrate(enrichment, provider)


def named(enrichment: Enrichment, words: str) -> Entity:
    return next(entity for entity in enrichment.entities if entity.text == words)


def said(entity: Entity) -> dict[str, str]:
    return {name: attribute.text for name, attribute in entity.attributes.items()}


async def test_a_discharge_letter_is_read_with_its_sections() -> None:
    enrichment, narration = await read(LETTER)
    assert enrichment.document_date == "2024-03-14"
    for words, kind, assertion in [
        ("66-year-old", "context", "affirmed"),
        ("productive cough", "observation", "affirmed"),
        ("chest pain", "observation", "negated"),
        ("haemoptysis", "observation", "negated"),
        ("Pulmonary embolism", "event", "negated"),
        ("CT pulmonary angiogram", "observation", "affirmed"),
        ("Community-acquired pneumonia", "event", "affirmed"),
        ("Type 2 diabetes", "event", "historical"),
        ("Penicillin", "context", "affirmed"),
        ("Doxycycline", "intervention", "affirmed"),
        ("chest X-ray", "observation", "hypothetical"),
    ]:
        entity = named(enrichment, words)
        assert (words, entity.kind, entity.assertion) == (words, kind, assertion)
    assert [entity.assertion for entity in enrichment.entities if entity.text == "fever"] == [
        "affirmed",
        "hypothetical",
    ]
    assert said(named(enrichment, "Ramipril")) == {"dose": "5 mg", "frequency": "OD"}
    assert said(named(enrichment, "shortness of breath"))["severity"] == "mild"
    assert said(named(enrichment, "consolidation"))["site"] == "right lower lobe"
    assert named(enrichment, "admitted").attributes["time"].normalised == "2024-03-09"
    assert [code.code for code in named(enrichment, "Type 2 diabetes").codes] == ["E11.9"]
    dated = {entry.title: entry.date for entry in narration.timeline}
    assert dated["admitted"] == "2024-03-09"
    assert dated["Past: Appendicectomy"] == "1987"
    assert dated["CRP 145 mg/L"] == "2024-03-14"


async def test_headings_and_letterheads_are_no_findings() -> None:
    enrichment, _ = await read(LETTER)
    found = {entity.text.lower() for entity in enrichment.entities}
    assert not found & {
        "discharge",
        "allergies",
        "past medical history",
        "diagnosis",
        "date",
        "plan",
        "discharge medications",
    }


async def test_lab_rows_give_value_unit_range_and_flag() -> None:
    enrichment, narration = await read(LAB)
    hemoglobin = named(enrichment, "Haemoglobin")
    assert said(hemoglobin) == {"value": "10.2", "unit": "g/dL", "range": "12.0 - 15.5", "flag": "L"}
    assert hemoglobin.attributes["value"].normalised == 10.2
    assert named(enrichment, "White cell count").attributes["unit"].normalised == "10*9/L"
    assert said(named(enrichment, "eGFR"))["range"] == ">60"
    assert said(named(enrichment, "Calprotectin")) == {"value": "320", "unit": "ug/g", "range": "0 - 50", "flag": "H"}
    antigen = named(enrichment, "Hepatitis B surface antigen")
    assert (said(antigen)["value"], antigen.assertion) == ("Negative", "affirmed")
    assert {entity.label for entity in enrichment.entities} == {"test", "sex"}
    assert {entry.date for entry in narration.timeline} == {"2024-03-09"}


async def test_several_results_on_a_line_keep_their_own_values() -> None:
    enrichment, _ = await read(
        "Results of 4 February 2025\n\nC-reactive protein 28 mg/L (0 - 5). ESR 41 mm/h (1 - 15).\n\n"
        "ALT 34 U/L (10 - 50). Creatinine 81 umol/L (59 - 104).\n"
    )
    values = {entity.text: said(entity)["value"] for entity in enrichment.entities if entity.label == "test"}
    assert values == {"C-reactive protein": "28", "ESR": "41", "ALT": "34", "Creatinine": "81"}


async def test_a_medication_list_gives_dose_route_and_frequency() -> None:
    enrichment, _ = await read(MEDICINES)
    assert {entity.text: said(entity) for entity in enrichment.entities} == {
        "Atorvastatin": {"dose": "40 mg", "route": "tablets", "frequency": "at night"},
        "Apixaban": {"dose": "5mg", "frequency": "twice a day"},
        "Salbutamol inhaler": {"dose": "2 puffs", "frequency": "as required"},
        "Ferrous fumarate": {"dose": "210 mg", "route": "PO", "frequency": "TDS"},
        "Insulin glargine": {"dose": "20 units", "route": "subcutaneously", "frequency": "at bedtime"},
    }
    assert {entity.label for entity in enrichment.entities} == {"medication"}


async def test_radiology_keeps_doubt_apart_from_fact() -> None:
    enrichment, _ = await read(RADIOLOGY)
    assert enrichment.document_date == "2023-11-22"
    assert said(named(enrichment, "mass"))["site"] == "right kidney"
    assert {entity.text: entity.assertion for entity in enrichment.entities if entity.assertion != "affirmed"} == {
        "hydronephrosis": "negated",
        "lymphadenopathy": "negated",
        "ascites": "negated",
        "renal cell carcinoma": "possible",
        "metastases": "possible",
    }


async def test_a_relatives_disease_is_not_the_patients() -> None:
    enrichment, narration = await read(FAMILY)
    subjects = {entity.text: (entity.subject, entity.kind) for entity in enrichment.entities}
    assert subjects["myocardial infarction"] == ("family", "context")
    assert subjects["breast cancer"] == ("family", "context")
    assert subjects["asthma"] == ("family", "context")
    assert subjects["psoriasis"] == ("patient", "event")
    assert subjects["20 pack years"] == ("patient", "context")
    assert [entry.title for entry in narration.timeline] == ["psoriasis"]


async def test_a_negative_result_does_not_negate_its_test() -> None:
    enrichment, _ = await read(NEGATIONS)
    assertions = {entity.text: entity.assertion for entity in enrichment.entities}
    for absent in (
        "fever",
        "chills",
        "night sweats",
        "pulmonary embolism",
        "recurrence",
        "Biopsy",
        "No known drug allergies",
    ):
        assert (absent, assertions[absent]) == (absent, "negated")
    assert assertions["persistent cough"] == "affirmed"
    assert assertions["Pneumonia"] == "possible"
    for test, value in (("CD31", "negative"), ("S100", "positive"), ("CRP", "elevated")):
        assert (assertions[test], said(named(enrichment, test))["value"]) == ("affirmed", value)


@pytest.mark.parametrize(
    ("text", "assertions"),
    [
        (
            "Nausea, vomiting, abdominal pain, jaundice and weight loss were all denied.",
            dict.fromkeys(["Nausea", "vomiting", "abdominal pain", "jaundice", "weight loss"], "negated"),
        ),
        (
            "Pneumonia, pericarditis, pulmonary embolism and aortic dissection were excluded.",
            dict.fromkeys(["Pneumonia", "pericarditis", "pulmonary embolism", "aortic dissection"], "negated"),
        ),
        ("Aspirin was discontinued in May. Warfarin was started.", {"Aspirin": "historical", "Warfarin": "affirmed"}),
        ("Pulmonary embolism was excluded by CT.", {"Pulmonary embolism": "negated", "CT": "affirmed"}),
        ("Nausea, fever and a dry cough came on after the surgery.", {"Nausea": "affirmed", "fever": "affirmed"}),
    ],
)
async def test_a_cue_behind_a_list_speaks_of_all_of_it(text: str, assertions: dict[str, str]) -> None:
    enrichment, _ = await read(f"{text}\n")
    found = {entity.text: entity.assertion for entity in enrichment.entities}
    assert {words: found.get(words) for words in assertions} == assertions


@pytest.mark.parametrize(
    ("text", "labelled"),
    [
        ("Asthma annual review 04-Nov-2024\nWheeze at night.\n", {"Wheeze": "symptom"}),
        ("CT abdomen report\nNo free fluid.\n", {"CT abdomen": "imaging", "free fluid": "symptom"}),
        ("Asthma is reviewed today.\nNo wheeze.\n", {"Asthma": "disease", "wheeze": "symptom"}),
        ("warfarin was stopped after a review of his record\nNo bleeding.\n",
         {"warfarin": "medication", "bleeding": "symptom"}),
        ("Start warfarin after the clinic visit\nNo bleeding.\n", {"warfarin": "medication", "bleeding": "symptom"}),
        (
            "Culture: mixed growth\nSensitivities\n  Trimethoprim      R\n  Gentamicin        S\n",
            {"Trimethoprim": "test", "Gentamicin": "test"},
        ),
        ("FASTING (Serum)\nGlucose 5.4 mmol/L 3.9 - 5.5\n", {"Glucose": "test"}),
        ("Labs: A1c 7.1%, Cr 1.1 mg/dL, K 4.4 mmol/L, tTG negative, U&Es normal.\n",
         dict.fromkeys(["A1c", "Cr", "K", "tTG", "U&Es"], "test")),
        ("She received two units of packed red cells.\n", {"packed red cells": "procedure"}),
        ("Knee OA, Graves' disease, DM2.\n", dict.fromkeys(["OA", "Graves' disease", "DM2"], "disease")),
    ],
)  # fmt: skip
async def test_titles_and_sensitivities_are_no_findings_and_shorthand_is_known(
    text: str, labelled: dict[str, str]
) -> None:
    enrichment, _ = await read(text)
    found = {entity.text: entity.label for entity in enrichment.entities}
    assert {words: found.get(words) for words in labelled} == labelled
    assert found.keys() - labelled.keys() <= {"Culture", "mixed growth", "growth"}


@pytest.mark.parametrize(
    ("text", "words", "label", "assertion", "details"),
    [
        ("O/E: abdomen soft, non tender.", "tender", "symptom", "negated", {"site": "abdomen"}),
        ("Calf swollen and tender, non-pitting.", "tender", "symptom", "affirmed", {}),
        ("Known non-Hodgkin lymphoma.", "non-Hodgkin lymphoma", "disease", "affirmed", {}),
        (
            "I cannot exclude a small pulmonary embolism.",
            "pulmonary embolism",
            "disease",
            "possible",
            {"severity": "small"},
        ),
        (
            "Stop indapamide, start ferrous fumarate 210mg BD.",
            "ferrous fumarate",
            "medication",
            "affirmed",
            {"dose": "210mg", "frequency": "BD"},
        ),
        ("Warfarin was not started.", "Warfarin", "medication", "negated", {}),
        ("1. Anaemia ?GI bleed 2. Hyponatraemia", "GI bleed", "symptom", "possible", {}),
        ("DVT ppx: enoxaparin 40 mg SC daily.", "DVT", "disease", "hypothetical", {}),
        ("Repeat U&Es 1/52.", "U&Es", "test", "affirmed", {}),
        ("Admitted with a 5 day hx of productive cough.", "productive cough", "symptom", "affirmed", {}),
        ("Impression: depression to be excluded.", "depression", "disease", "possible", {}),
        (
            "PMH: glaucoma. Meds: edoxaban 60 mg od.",
            "edoxaban",
            "medication",
            "affirmed",
            {"dose": "60 mg", "frequency": "od"},
        ),
        ("PMH: glaucoma. Differential: melanoma.", "melanoma", "disease", "possible", {}),
        ("Folic acid 5mg (not Mondays).", "Folic acid", "medication", "affirmed", {"dose": "5mg"}),
        ("- Zopiclone stopped", "Zopiclone", "medication", "historical", {}),
        ("Findings highly suspicious of malignancy.", "malignancy", "disease", "possible", {}),
        ("Warfarin held pending colonoscopy.", "colonoscopy", "examination", "hypothetical", {}),
        ("Treated for non-STEMI last year.", "non-STEMI", "disease", "affirmed", {}),
        ("She has non-small cell lung cancer.", "non-small cell lung cancer", "disease", "affirmed", {}),
        ("O: BP 142/90, P 84.", "P", "vital_sign", "affirmed", {"value": "84"}),
        ("O/E: T 37.2, HR 108, sats 93% on air.", "HR", "vital_sign", "affirmed", {"value": "108"}),
        ("Anxiety. PHQ-9 14 today.", "PHQ-9", "test", "affirmed", {"value": "14"}),
        ("CA 125 was raised.", "CA 125", "test", "affirmed", {"value": "raised"}),
        (
            "DH: metformin 1g BD, no allergies.",
            "metformin",
            "medication",
            "affirmed",
            {"dose": "1g", "frequency": "BD"},
        ),
        ("Echo: LV dilated, mild MR.", "MR", "symptom", "affirmed", {"severity": "mild"}),
        ("MR brain: normal.", "MR", "imaging", "affirmed", {"value": "normal"}),
    ],
)
async def test_the_shorthand_of_notes(
    text: str, words: str, label: str, assertion: str, details: dict[str, str]
) -> None:
    enrichment, _ = await read(f"Seen in clinic.\n{text}\n")
    entity = named(enrichment, words)
    assert (entity.label, entity.assertion) == (label, assertion)
    assert {name: words for name, words in said(entity).items() if name != "time"} == details


async def test_what_only_looks_like_a_finding_is_none() -> None:
    enrichment, _ = await read("S: well\nO: afebrile. Lungs CTA, abdo SNT.\nA/P: metformin MR 500mg BD.\n")
    assert [entity.text for entity in enrichment.entities] == ["afebrile", "metformin"]


async def test_a_part_of_one_finding_is_no_site_of_the_next() -> None:
    enrichment, _ = await read("Eye redness for 3 days, with fever and a rash on the left hand.\n")
    assert "site" not in named(enrichment, "fever").attributes
    assert said(named(enrichment, "rash"))["site"] == "left hand"


async def test_blank_pages_and_prose_without_medicine_give_nothing() -> None:
    enrichment, narration = await read(
        " \n ", "The committee will meet in the lead up to the summit, with tea and coffee."
    )
    assert enrichment.entities == ()
    assert narration.sentences == ()


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("9 March 2024", "2024-03-09"),
        ("March 9th, 2024", "2024-03-09"),
        ("2024-03-09", "2024-03-09"),
        ("22.11.2023", "2023-11-22"),
        ("11/22/2023", "2023-11-22"),
        ("03/04/2023", None),
        ("31/02/2023", None),
        ("March 2019", "2019-03"),
        ("in 1987", "1987"),
        ("3 days ago", "2024-03-11"),
        ("two months earlier", "2024-01"),
        ("5 years ago", "2019"),
        ("three days later", None),
        ("5 days", "P5D"),
    ],
)
def test_dates_are_resolved_as_far_as_they_are_known(text: str, resolved: str | None) -> None:
    assert dates.resolve(text, dates.Calendar(own="2024-03-14", day_first=None)) == resolved


def test_the_documents_other_dates_tell_day_from_month() -> None:
    calendar = dates.calendar(["Date: 03/04/2023\nSeen 22/11/2022"])
    assert (calendar.own, calendar.day_first) == ("2023-04-03", True)


def test_a_birthday_is_not_the_documents_date() -> None:
    assert (
        dates.calendar(["Name: X\nDOB: 2 May 1957\nHe took aspirin on 3 June 2022 for pain in the left foot"]).own
        is None
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("10.2", 10.2), ("10,2", 10.2), ("1,234", 1234.0), ("58%", 58.0), ("<0.5", None), ("120/80", None)],
)
def test_only_plain_numbers_become_numbers(text: str, value: float | None) -> None:
    assert units.number(text) == value


@pytest.mark.parametrize(
    ("text", "code"), [("mmHg", "mm[Hg]"), ("µmol/L", "umol/L"), ("x 10⁹/L", "10*9/L"), ("foo", None)]
)
def test_units_become_ucum(text: str, code: str | None) -> None:
    assert units.ucum(text) == code


def test_codes_come_from_the_terminology_or_not_at_all() -> None:
    assert [(code.system, code.code, code.display) for code in terminology.codes("hypertension", "disease")] == [
        ("ICD-10-CM", "I10", "Essential (primary) hypertension")
    ]
    assert [code.system for code in terminology.codes("Ramipril", "medication")] == ["MeSH tree"]
    assert terminology.codes("a disease nobody has", "disease") == ()
    medicines = frozenset({"medication"})
    by_brand = terminology.named(words_of("Tylenol or paracetamol"), medicines)
    assert by_brand.keys() == terminology.named(words_of("acetaminophen"), medicines).keys()
    assert len(by_brand) == 1


def test_the_terminology_compiles_once_for_many_processes(tmp_path: Path) -> None:
    commands = [
        subprocess.Popen(
            [sys.executable, "-m", "services.ai.local.terminology", str(tmp_path)], stdout=subprocess.DEVNULL
        )
        for _ in range(2)
    ]
    assert [command.wait(60) for command in commands] == [0, 0]
    assert len(list(tmp_path.iterdir())) == 1
    assert terminology.load(tmp_path).concept("aspirin") is not None


async def test_a_date_belongs_to_its_own_finding_only() -> None:
    enrichment, _ = await read(
        "He has CAD s/p CABG in 2015, hypertension and gout.\n\n"
        "Problems\n03 Mar 2020  Chronic obstructive pulmonary disease\n"
        "2011  Fracture of left wrist\nImmunisations\nInfluenza vaccination 10 Oct 2023\n"
    )
    times = {
        entity.text: entity.attributes["time"].normalised
        for entity in enrichment.entities
        if "time" in entity.attributes
    }
    assert times == {
        "CABG": "2015",
        "Chronic obstructive pulmonary disease": "2020-03-03",
        "Fracture": "2011",
        "Influenza vaccination": "2023-10-10",
    }
    assert named(enrichment, "Influenza vaccination").kind == "intervention"
    assert enrichment.document_date is None


def texts(enrichment: Enrichment, label: str) -> list[str]:
    return [entity.text for entity in enrichment.entities if entity.label == label]


async def test_a_title_is_no_scan() -> None:
    enrichment, _ = await read("Re: Mr Reyes. MR REYES and Mr. Jones came. Us two. MR of the brain was normal.")
    assert [entity.source.start for entity in enrichment.entities if entity.label == "imaging"] == [51]


async def test_only_the_patients_own_work_is_an_occupation() -> None:
    enrichment, narration = await read(
        "Sex: Female. No fever. She works as a joiner and sees our specialist nurse.\nNurse clinic on 25 March 2025.\n"
        "Occupation: retired teacher\n"
    )
    assert texts(enrichment, "occupation") == ["joiner", "retired teacher"]
    assert named(enrichment, "Female").assertion == "affirmed"
    assert "nurse" not in " ".join(sentence.text.lower() for sentence in narration.sentences)


async def test_allergies_end_with_their_paragraph_and_are_substances() -> None:
    enrichment, _ = await read(
        "Allergies\n\nPenicillin: widespread rash (1987). Codeine: nausea. Peanuts.\n\n"
        "Seen in the clinic\nCoarse crackles at the right base and new atrial fibrillation, and warfarin was started.\n"
        "He has a penicillin allergy.\n"
    )
    assert texts(enrichment, "allergy") == ["Penicillin", "Codeine", "Peanuts", "penicillin"]
    assert (named(enrichment, "rash").label, named(enrichment, "rash").assertion) == ("symptom", "historical")
    crackles = named(enrichment, "Coarse crackles")
    assert (crackles.label, crackles.assertion) == ("symptom", "affirmed")
    assert named(enrichment, "warfarin").label == "medication"


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("Chest X-ray 04/02/2025 was done.", None),
        ("ECG 03/09/2025", None),
        ("CT head on 4 September 2025 at 10:20", None),
        ("ECG on 3 September\n2025: fast.", None),
        ("Chest X-ray on 4 February 2025 is normal.", "normal"),
        ("Haemoglobin 2 Sep 118 g/L", "118"),
    ],
)
async def test_a_number_of_a_date_is_no_value(line: str, value: str | None) -> None:
    enrichment, _ = await read(line)
    assert said(enrichment.entities[0]).get("value") == value


async def test_a_score_is_not_the_test_in_its_name() -> None:
    enrichment, _ = await read("DAS28-CRP 4.9, compared with 3.1 in October 2024. CHA2DS2-VASc score 4.")
    assert {entity.text: said(entity) for entity in enrichment.entities} == {
        "DAS28-CRP": {"value": "4.9"},
        "CHA2DS2-VASc score": {"value": "4"},
    }


async def test_a_tube_a_birth_and_a_diagnosis_are_no_findings_of_their_own() -> None:
    enrichment, _ = await read(
        "Born: 5 December 1989. Serum and EDTA blood.\nMr Reyes, born 27 August 1978.\n"
        "Gout, diagnosed in June 2021.\nAdmitted: 2 September 2025 Discharged: 9 September 2025\n"
    )
    assert [(e.text, e.attributes["time"].normalised) for e in enrichment.entities] == [
        ("Gout", "2021-06"),
        ("Admitted", "2025-09-02"),
        ("Discharged", "2025-09-09"),
    ]


async def test_each_event_of_a_form_has_the_date_behind_it() -> None:
    enrichment, _ = await read("Admitted 3 Mar 2024 Discharged 8 Mar 2024\n")
    assert [(e.text, e.attributes["time"].normalised) for e in enrichment.entities] == [
        ("Admitted", "2024-03-03"),
        ("Discharged", "2024-03-08"),
    ]


async def test_letterheads_and_longer_headings_are_no_findings() -> None:
    enrichment, _ = await read(
        "Calder Bay Pathology\nMill Lane Surgery\n\nExamination on admission\nNo rash.\n\n"
        "Investigations and procedures\nNone.\n\nMedicines before this visit\nGout clinic, in your surgery.\n"
    )
    assert [entity.text for entity in enrichment.entities] == ["rash"]


@pytest.mark.parametrize(
    "text",
    [
        "12 Mill Road, Northmead NM4 7QX\n\nShe has asthma.\n",
        "Patient: Anna Reyes, 22 Hill Street, Vale HV1 3AB. She has asthma.\n",
        "14 Heart Lane\nVale HV1 3AB\n\nShe has asthma.\n",
    ],
)
async def test_a_postcode_is_no_result_and_an_address_no_finding(text: str) -> None:
    enrichment, _ = await read(text)
    assert [entity.text for entity in enrichment.entities] == ["asthma"]


async def test_a_result_that_looks_like_a_postcode_is_one() -> None:
    enrichment, _ = await read("CD4 350 cells/uL\nVitamin B12 1MG daily\nHB 12 g/dL\n")
    assert {"CD4", "HB"} <= {entity.text for entity in enrichment.entities}


@pytest.mark.parametrize(
    "line", ["Department of Medicine", "Department of Heart Surgery, Ward 7", "Professor of Medicine", "GP"]
)
async def test_the_name_of_a_department_is_no_treatment(line: str) -> None:
    enrichment, _ = await read(f"{line}\n\nShe has asthma. She was seen in the {line} and is well.\n")
    assert [entity.text for entity in enrichment.entities] == ["asthma"]


async def test_a_forms_status_is_no_event_without_a_day() -> None:
    enrichment, _ = await read("Status: Discharged\n\nDischarged: 12 March 2024\n\nDischarged\n\nShe has asthma.\n")
    events = [entity for entity in enrichment.entities if entity.label == "clinical_event"]
    assert [said(entity) for entity in events] == [{"time": "12 March 2024"}]


async def test_what_is_told_twice_is_told_once_with_both_sources() -> None:
    enrichment, narration = await read(
        "Continue methotrexate. Apixaban was started on 4 September 2025.\nCurrent medications\n"
        "Methotrexate 20 mg by mouth once weekly\nApixaban 5 mg oral twice daily\n\nFerritin 6 ug/L.\nLow ferritin.\n"
    )
    spoken = [sentence.text for sentence in narration.sentences]
    assert spoken == [
        "Other results: ferritin 6 ug/L.",
        "Medicines: Methotrexate 20 mg by mouth once weekly and Apixaban 5 mg oral twice daily (4 September 2025).",
    ]
    assert {id_ for sentence in narration.sentences for id_ in sentence.entity_ids} == {
        entity.id for entity in enrichment.entities
    }
    assert [entry.title for entry in narration.timeline if "pixaban" in entry.title] == ["Apixaban 5 mg"]
    assert next(entry.date for entry in narration.timeline if "pixaban" in entry.title) == "2025-09-04"


async def test_the_same_fact_has_the_same_key_in_another_document() -> None:
    _, letter = await read(
        "Seen on 3 May 2024.\nPotassium 5.9 mmol/L on 3 May 2024. Gout.\nCurrent medications\nApixaban 5mg bd\n"
    )
    _, report = await read(
        "LABORATORY REPORT\nCollected: 2024-05-03\nPotassium 5.9 mmol/L 3.5 - 5.3 H\nSodium 140 mmol/L 133 - 146\n"
        "Apixaban 5 mg was started on 1 April 2024. Apixaban 2.5 mg was stopped on 2 April 2024. Gout.\n"
    )

    def keys(narration: Narration, words: str) -> set[str | None]:
        return {entry.fact_key for entry in narration.timeline if words in entry.title}

    assert keys(letter, "Potassium") == keys(report, "Potassium") != {None}
    assert keys(letter, "Potassium").isdisjoint(keys(report, "Sodium"))
    # With and without a date it is the same medicine; at another dose it is not.
    assert len(keys(letter, "pixaban")) == 1
    assert len(keys(letter, "pixaban") & keys(report, "pixaban")) == 1
    assert len(keys(report, "pixaban")) == 2
    # Without a date nobody knows whether it is the same attack.
    assert keys(letter, "Gout") == keys(report, "Gout") == {None}


async def test_a_finding_says_which_of_the_places_of_its_words_it_is() -> None:
    enrichment, _ = await read("Asthma since 2019. No fever. Her asthma is well controlled.\nFever denied.", "Asthma.")
    places = [(e.source.page, e.text, e.occurrence) for e in enrichment.entities]
    # "Fever" begins a sentence, and is the second of its words all the same.
    assert places == [(1, "Asthma", 1), (1, "fever", 1), (1, "asthma", 2), (1, "Fever", 2), (2, "Asthma", 1)]


async def test_a_bare_adjective_makes_no_sentence() -> None:
    _, narration = await read("Abdomen tender. Palpable. Mildly dilated left atrium. No known drug allergies.")
    assert [sentence.text for sentence in narration.sentences] == [
        "Symptoms and signs described: tender abdomen and mildly dilated left atrium.",
        "Allergies and intolerances: no known drug allergies.",
    ]


async def test_a_long_list_keeps_to_the_bounds_of_a_sentence() -> None:
    rows = [f"Some rather long and winded analyte {chr(97 + n)} {n}.5 mmol/L 0 - 900" for n in range(26)]
    _, narration = await read("Results of 4 February 2025\n" + "\n".join(rows))
    assert len(narration.sentences) > 2
    assert all(len(sentence.text) <= 600 for sentence in narration.sentences)


@pytest.mark.parametrize(
    ("kind", "text", "code"),
    [
        ("dose", "5mg", "5 mg"),
        ("dose", "100 micrograms", "100 ug"),
        ("dose", "1-2 tablets", "1-2 {tbl}"),
        ("dose", "5 mg/kg/day", "5 mg/kg/d"),
        ("dose", "5 spoons", None),
        ("frequency", "Twice daily", "2/d"),
        ("frequency", "b.d.", "2/d"),
        ("frequency", "once weekly", "1/wk"),
        ("frequency", "every two weeks", "1/2wk"),
        ("frequency", "q8h", "1/8h"),
        ("frequency", "twice daily as required", "2/d as needed"),
        ("frequency", "now and then", None),
        ("route", "P.O.", "oral"),
        ("route", "by mouth", "oral"),
        ("route", "injection", None),
    ],
)
def test_prescriptions_have_one_form(kind: str, text: str, code: str | None) -> None:
    assert {"dose": dosing.dose, "frequency": dosing.frequency, "route": dosing.route}[kind](text) == code


async def test_a_prescription_is_normalised_where_it_stands() -> None:
    enrichment, _ = await read(
        "Medications:\nNaproxen 500mg po bd as required\nIntravenous ceftriaxone 1 g, then by mouth"
    )
    assert {name: a.normalised for name, a in named(enrichment, "Naproxen").attributes.items()} == {
        "dose": "500 mg",
        "route": "oral",
        "frequency": "2/d as needed",
    }
    assert named(enrichment, "ceftriaxone").attributes["route"].normalised == "intravenous"


async def test_a_list_runs_on_over_the_edge_of_a_page() -> None:
    enrichment, _ = await read(
        "Past medical history:\nAsthma\nGout\n",
        "Psoriasis\nMedications:\nZyxolor 5 mg daily\n",
        "Quuxolor 5 mg daily\n",
    )
    assert named(enrichment, "Psoriasis").assertion == "historical"
    assert texts(enrichment, "medication") == ["Zyxolor", "Quuxolor"]


async def test_a_letters_end_ends_its_last_section() -> None:
    enrichment, _ = await read("Past medical history:\nAsthma\n\nYours sincerely,\nDr A B\n", "Psoriasis\n")
    assert named(enrichment, "Psoriasis").assertion == "affirmed"


@pytest.mark.parametrize(
    ("text", "code"),
    [("x 109/L", "10*9/L"), ("x 1012/L", "10*12/L"), ("109/L", "10*9/L"), ("per minute", "/min"), ("x 107/L", None)],
)
def test_a_lost_caret_is_found_again(text: str, code: str | None) -> None:
    assert units.ucum(text) == code


async def test_the_last_of_several_columns_has_its_own_date() -> None:
    enrichment, _ = await read(
        "Discharged: 9 September 2025\n\nBlood results\nTest 2 Sep 8 Sep Unit Reference range\n"
        "Haemoglobin 118 121 g/L 115 - 165\neGFR 54 69 mL/min over 60\nCA 125 35 30 U/mL 0 - 35\n"
    )
    for words, value in (("Haemoglobin", "121"), ("eGFR", "69"), ("CA 125", "30")):
        assert said(named(enrichment, words))["value"] == value
        assert named(enrichment, words).attributes["time"].normalised == "2025-09-08"
    assert said(named(enrichment, "eGFR"))["range"] == "over 60"


async def test_what_is_excluded_stopped_or_booked_is_not_what_the_patient_has() -> None:
    enrichment, _ = await read(
        "Pulmonary embolism was considered and excluded by CT.\n"
        "Stopped: aspirin 75 mg (now on apixaban); amlodipine 5 mg.\nLive vaccines must be avoided.\n"
        "Atrial fibrillation clinic on 4 November 2025.\n"
    )
    assert {entity.text: entity.assertion for entity in enrichment.entities if entity.label != "imaging"} == {
        "Pulmonary embolism": "negated",
        "aspirin": "historical",
        "apixaban": "affirmed",
        "amlodipine": "historical",
        "Live vaccines": "negated",
    }


async def test_the_event_loop_has_a_turn_between_two_pages_and_a_long_page_is_read_beside_it() -> None:
    """Forty pages wait for their answers; a heartbeat waits for one of them at most."""
    turns = 0
    at_answer: list[tuple[int, bool]] = []

    class Watched(Engine):
        def answer(self, inputs: Inputs) -> BaseModel:
            at_answer.append((turns, threading.current_thread() is threading.main_thread()))
            return super().answer(inputs)

    async def beat() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    models = engine.load()
    provider = LocalProvider(Watched(models.tagger, models.negation, models.linking))

    async def asked(text: str) -> int:
        inputs = DetectInputs(passage=Passage(page=1, start=0, text=text))
        return len((await provider.complete(Task.DETECT, inputs, Mentions)).parsed.mentions)

    heart = asyncio.create_task(beat())
    found = await asyncio.gather(*[asked(LETTER) for _ in range(40)])
    in_loop, at_answer = at_answer, []
    long = await asked(LETTER * 40)
    provider = LocalProvider(Watched(models.tagger, models.negation, models.linking), beside=True)
    await asked(LETTER)
    heart.cancel()

    assert len(set(found)) == 1
    assert found[0] > 10
    assert [here for _, here in in_loop] == [True] * 40
    beats = [turn for turn, _ in in_loop]
    assert all(before < after for before, after in pairwise(beats))
    assert [here for _, here in at_answer] == [False, False]
    assert long > 10 * found[0]
