"""What notes that no rule had seen taught the engine that needs no key: each case was told wrongly once."""

import pytest

from services.ai import dates, dosing, passes
from services.ai.providers import open_provider
from shared.contract.findings import Enrichment, Entity
from shared.contract.pages import Page

FLAG_FIRST = """Collected: 2025-10-06
TEST              FLAG   RESULT    REFERENCE      UNITS
Hemoglobin         L       98      120-155        g/L
Calcium            H     2.74      2.10-2.55      mmol/L
LDH                       214      120-250        U/L
"""
UNIT_FIRST = """Test            Unit        2025/08/14   Flag   2025/02/20   Ref. interval
Creatinine      umol/L      88                  79           64 - 104
ALT             U/L         61           H      33           5 - 40
"""
RANGE_FIRST = """OGTT fasting glucose    (3.5 - 5.0)    5.4 mmol/L    High
"""
RANGE_THEN_UNIT = """Analyte              Result    Ref. interval   Unit      Status
Total bilirubin      46        < 21            umol/L    HIGH
ALT                  388       10 - 50         IU/L      HIGH
ALP                  129       30 - 130        IU/L
"""
WITHOUT_NAMES = """ALT                  388       10 - 50         IU/L
AFP                  5.2       < 10            kU/L
"""
PANELS = """TEST                  REFERENCE      UNITS     RESULT      FLAG
COMPLETE BLOOD COUNT
WBC                   4.5-11.0       K/uL      12.8        HIGH
URINALYSIS
Leukocyte esterase    Negative                 2+          ABN
"""
BARS = """Flag | Analyte       | Result | Units         | Ref interval
     | Sodium        | 139    | mmol/L        | 135-145
H    | Creatinine    | 118    | umol/L        | 60-110
"""
NAME_IN_THE_MIDDLE = """Flag  Result     Test                   Units      Normal range
HI    >128       tTG IgA                U/mL       0 - 7
      1.9        Total IgA              g/L        0.8 - 4.0
"""
SINCE = """Strength   Medicine         When            Reason             Since
100 mg     Aspirin          mane            angina             2019
25 mg      Atenolol         twice daily     hypertension       May 2021
"""
LEADERS = """Rheumatoid factor ........ 84 IU/mL (0-14)   *HIGH*
HLA-B27 .................. not detected
Leucocytes ............... 2+
Erythromycin ............. R
"""
LABELS = """[1] BIMATOPROST 0.03% eye drops 3 mL
    Instil ONE drop into the RIGHT eye at bedtime.
[2] ACETAZOLAMIDE tablets
    Take 250 mg by mouth three times a day.
"""
FREQUENCY_FIRST = """How often           Medication        Dose          Route
every 12 hours      Oxycodone         20 mg         oral
three times daily   Gabapentin        600 mg        oral
at bedtime          Nortriptyline     25 mg         oral
"""


async def read(text: str) -> Enrichment:
    provider = open_provider(provider="local", model=None, api_key=None, base_url=None, timeout_s=1)
    pages = [Page(page=1, width=9, height=9, text=text, words=(), text_source="ocr", engine="t", engine_version="1")]
    return await passes.enrich(pages, await passes.detect(pages, provider), provider)


def named(enrichment: Enrichment, words: str) -> Entity:
    return next(entity for entity in enrichment.entities if words in entity.text)


def said(entity: Entity) -> dict[str, str]:
    return {name: attribute.text for name, attribute in entity.attributes.items()}


@pytest.mark.parametrize(
    ("table", "test", "result"),
    [
        (FLAG_FIRST, "Hemoglobin", {"value": "98", "unit": "g/L", "range": "120-155", "flag": "L"}),
        (FLAG_FIRST, "LDH", {"value": "214", "unit": "U/L", "range": "120-250"}),
        (UNIT_FIRST, "Creatinine", {"value": "88", "unit": "umol/L", "range": "64 - 104", "time": "2025/08/14"}),
        (UNIT_FIRST, "ALT", {"value": "61", "unit": "U/L", "range": "5 - 40", "flag": "H", "time": "2025/08/14"}),
        (RANGE_FIRST, "glucose", {"value": "5.4", "unit": "mmol/L", "range": "3.5 - 5.0", "flag": "High"}),
        (RANGE_THEN_UNIT, "Total bilirubin", {"value": "46", "unit": "umol/L", "range": "< 21", "flag": "HIGH"}),
        (RANGE_THEN_UNIT, "ALP", {"value": "129", "unit": "IU/L", "range": "30 - 130"}),
        (WITHOUT_NAMES, "ALT", {"value": "388", "unit": "IU/L", "range": "10 - 50"}),
        (WITHOUT_NAMES, "AFP", {"value": "5.2", "unit": "kU/L", "range": "< 10"}),
        (PANELS, "WBC", {"value": "12.8", "unit": "K/uL", "range": "4.5-11.0", "flag": "HIGH"}),
        (PANELS, "Leukocyte esterase", {"value": "2+", "range": "Negative", "flag": "ABN"}),
        (BARS, "Sodium", {"value": "139", "unit": "mmol/L", "range": "135-145"}),
        (BARS, "Creatinine", {"value": "118", "unit": "umol/L", "range": "60-110", "flag": "H"}),
        (LEADERS, "Rheumatoid factor", {"value": "84", "unit": "IU/mL", "range": "0-14", "flag": "HIGH"}),
        (NAME_IN_THE_MIDDLE, "tTG", {"value": ">128", "unit": "U/mL", "range": "0 - 7", "flag": "HI"}),
        (LEADERS, "Leucocytes", {"value": "2+"}),
        (LEADERS, "Erythromycin", {"value": "R"}),
        (LEADERS, "HLA-B27", {"value": "not detected"}),
        ("Vitamin D: 38 nmol/L (normal >50) BELOW RANGE\n", "Vitamin D", {
            "value": "38", "unit": "nmol/L", "range": ">50", "flag": "BELOW RANGE"
        }),
        ("CULTURE: Klebsiella pneumoniae\n", "CULTURE", {"value": "Klebsiella pneumoniae"}),
        ("ALT was raised at 71 U/L.", "ALT", {"value": "71", "unit": "U/L"}),
        ("Temp 98.4 F, pulse 68.", "Temp", {"value": "98.4", "unit": "F"}),
        ("BP 96/60 mm Hg.", "BP", {"value": "96/60", "unit": "mm Hg"}),
        ("Pain score 7/10.", "Pain score", {"value": "7/10"}),
        ("Platelets 28,000 /cumm (15-09-2025)", "Platelets", {
            "value": "28,000", "unit": "/cumm", "time": "15-09-2025"
        }),
    ],
)  # fmt: skip
async def test_a_result_is_what_stands_in_its_column(table: str, test: str, result: dict[str, str]) -> None:
    assert said(named(await read(table), test)) == result


async def test_a_line_of_several_results_is_no_row_of_one() -> None:
    enrichment = await read("Blood pressure 126/74, pulse 68, weight 187 lb.\n")
    assert [said(entity).get("value") for entity in enrichment.entities] == ["126/74", "68", "187"]


@pytest.mark.parametrize(
    ("text", "finding", "time", "normalised"),
    [
        ("Pertinent labs (02/27/2025): LDL 142 mg/dL, A1c 5.9 %.", "A1c", "02/27/2025", "2025-02-27"),
        ("Labs (09/25/2025)\n  prolactin   68.4 ng/mL   H\n", "prolactin", "09/25/2025", "2025-09-25"),
        ("US 13/05/2025 - gallstones, dilated duct.", "gallstones", "13/05/2025", "2025-05-13"),
        ("Echo on 13/09/2025 showed an EF of 25% and ascites.", "ascites", "13/09/2025", "2025-09-13"),
        ("Kidney transplant 08/2022\n", "Kidney transplant", "08/2022", "2022-08"),
        ("Type 1 diabetes mellitus (2016); depression", "Type 1 diabetes", "2016", "2016"),
        ("Right hemithyroidectomy 2011 for goitre.", "hemithyroidectomy", "2011", "2011"),
        ("She had an ablation for SVT in 2018.", "ablation", "in 2018", "2018"),
        ("FBC and U&Es on 30 June 2025 were normal.", "FBC", "30 June 2025", "2025-06-30"),
        ("OCT 10 June 2025: drusen in the left macula.", "OCT", "10 June 2025", "2025-06-10"),
        ("Rigors and confusion since 2025-11-02.", "Rigors", "2025-11-02", "2025-11-02"),
        ("Seen 18/11/2025. 2/52 otalgia + reduced hearing.", "reduced hearing", "2/52", "P2W"),
        ("Seen 18/11/2025. Ear pain 12/24.", "Ear pain", "12/24", "PT12H"),
        ("Seen 18/11/2025. Clinical details: 6/12 joint pain and morning stiffness.", "stiffness", "6/12", "P6M"),
        ("30 lb weight gain in past year.", "weight gain", "in past year", "P1Y"),
        ("Consultation 18/11/2025\n\nDiarrhoea since Saturday.", "Diarrhoea", "since Saturday", "2025-11-15"),
        ("Discharged   : Sat 15/03/25\n\nHeadache since Sunday.", "Headache", "since Sunday", "2025-03-09"),
        ("Discharge date: 2025-Aug-13\n\nCT KUB (Aug 10) ruled out an abscess.", "abscess", "Aug 10", "2025-08-10"),
        ("Hx: 3d painful rash L side of chest.", "rash", "3d", "P3D"),
        (SINCE, "Aspirin", "2019", "2019"),
        (SINCE, "Atenolol", "May 2021", "2021-05"),
        ("Denosumab 60 mg for osteoporosis, last given 18 March 2025.", "Denosumab", "18 March 2025", "2025-03-18"),
        ("Date: 16 Oct 2025\n\nAbdominal pain after meals since August.", "pain", "since August", "2025-08"),
        ("Hydrocortisone ointment bd to elbows for a week.", "Hydrocortisone", "for a week", "P1W"),
        ("Admitted on 16 March 2025 with a 3-hour history of facial droop.", "facial droop", "3-hour", "PT3H"),
    ],
)
async def test_a_time_is_of_what_it_dates(text: str, finding: str, time: str, normalised: str) -> None:
    attribute = named(await read(text), finding).attributes["time"]
    assert (attribute.text, attribute.normalised) == (time, normalised)


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("Resident A Bara   Rm 9   DOB 27/06/1943   Weight 49.5 kg\n", "Weight"),
        ("Appendicectomy 2011 for appendicitis.", "appendicitis"),
        ("A coronary stent in 2018 and diverticular disease.", "diverticular disease"),
        ("LUTS 6/12: nocturia, poor stream. Seen 18/11/2025.", "nocturia"),
        ("24-hour tape: atrial fibrillation.", "atrial fibrillation"),
        (SINCE, "hypertension"),
        ("Denosumab 60 mg for osteoporosis, last given 18 March 2025.", "osteoporosis"),
        ("Ceftriaxone 2 g daily for four days along with clarithromycin 500 mg.", "clarithromycin"),
        ("VA right eye 6/12. Cataract. Seen 18/11/2025.", "Cataract"),
        ("HbA1c 12.1 % (prev 9.4 % Nov 2024).", "HbA1c"),
        ("Background of COPD and breast cancer 2009.", "COPD"),
        ("Consider a 3-hour glucose tolerance test.", "glucose tolerance test"),
        ("Temp 37.4  HR 112", "HR"),
    ],
)
async def test_a_wrong_time_is_worse_than_none(text: str, finding: str) -> None:
    assert "time" not in named(await read(text), finding).attributes


@pytest.mark.parametrize(
    ("page", "own", "day_first"),
    [
        ("Consultation, Thursday 05/06/2025, Dr Mei Santoro\n", "2025-06-05", True),
        ("VISIT NOTE - Family Medicine, Tucson AZ - 12/08/2025\n42 y.o. woman. Hgb 12.6\n", "2025-12-08", False),
        ("2025/05/27    Jane Doe, 6 yr girl, here with mum\n", "2025-05-27", None),
    ],
)
def test_a_paper_tells_its_own_day(page: str, own: str, day_first: bool | None) -> None:
    assert dates.calendar([page]) == dates.Calendar(own, day_first)


@pytest.mark.parametrize(
    ("text", "medicine", "details"),
    [
        ("Co-careldopa 25/100 mg PO QDS", "Co-careldopa", {"dose": "25/100 mg", "route": "PO", "frequency": "QDS"}),
        ("Rotigotine 4 mg/24h transdermal OD", "Rotigotine", {
            "dose": "4 mg/24h", "route": "transdermal", "frequency": "OD"
        }),
        ("Carmellose 0.5%  1 drop QDS", "Carmellose", {"dose": "1 drop", "frequency": "QDS"}),
        (LABELS, "BIMATOPROST", {"dose": "ONE drop", "frequency": "at bedtime"}),
        (LABELS, "ACETAZOLAMIDE", {"dose": "250 mg", "frequency": "three times a day"}),
        (FREQUENCY_FIRST, "Oxycodone", {"dose": "20 mg", "route": "oral", "frequency": "every 12 hours"}),
        (FREQUENCY_FIRST, "Nortriptyline", {"dose": "25 mg", "route": "oral", "frequency": "at bedtime"}),
    ],
)  # fmt: skip
async def test_a_medicine_has_the_dose_of_its_own_line(text: str, medicine: str, details: dict[str, str]) -> None:
    found = said(named(await read(text), medicine))
    assert details.items() <= found.items()


@pytest.mark.parametrize(
    ("printed", "code"),
    [("4 hrly", "1/4h"), ("6 monthly", "1/6mo"), ("5x/day", "5/d"), ("every Sunday", "1/wk"), ("SOS", "as needed")],
)
def test_how_often_has_one_form(printed: str, code: str) -> None:
    assert dosing.frequency(printed) == code


@pytest.mark.parametrize(
    ("text", "finding", "assertion"),
    [
        ("Comment: Repeat blood cultures advised at 48 hours.", "blood cultures", "hypothetical"),
        ("Repeat CXR showed consolidation.", "CXR", "affirmed"),
        ("Repeat troponin 12 ng/L.", "troponin", "affirmed"),
        ("Suggest liver ultrasound and HCV genotype.", "HCV genotype", "hypothetical"),
        ("Please check sodium in two weeks.", "sodium", "hypothetical"),
        ("Methotrexate planned.", "Methotrexate", "hypothetical"),
        ("Lithium could be added later.", "Lithium", "hypothetical"),
        ("I would suggest a bone biopsy.", "biopsy", "hypothetical"),
        ("Return to ER for new weakness or seizure.", "seizure", "hypothetical"),
        ("I should be grateful if you would see this man whose psoriasis is worse.", "psoriasis", "affirmed"),
        ("Favor glioma.", "glioma", "possible"),
        ("Rule out tumor.", "tumor", "possible"),
        ("I suspect pemphigus vulgaris.", "pemphigus", "possible"),
        ("Date: 4 March 2025\n\nBack pain since 2019.", "Back pain", "affirmed"),
        ("Date: 4 March 2025\n\nBack pain since 2023-05-01.", "Back pain", "affirmed"),
        ("1/7 history of fever.", "fever", "affirmed"),
        ("PMH eczema, hernia repair.\nPlan: none", "eczema", "historical"),
        ("Ramipril was stopped because of cough.", "cough", "historical"),
        ("Chest pain is relieved by nitroglycerin.", "nitroglycerin", "affirmed"),
        ("To do: stone analysis; CT in 4/52.", "CT", "hypothetical"),
        ("S/N: drowsy, rash, seizure.", "seizure", "hypothetical"),
        ("Cholecystectomy should be considered if it grows.", "Cholecystectomy", "hypothetical"),
        ("CT head ruled out a bleed.", "CT head", "affirmed"),
        ("CT sinuses if not resolved.", "CT", "hypothetical"),
        ("Liver results may reflect steatosis.", "steatosis", "possible"),
        ("Discharge medicines\nAspirin 100 mg daily\nMeloxicam - ceased\n", "Meloxicam", "historical"),
        ("Date: 4 March 2025\n\nTonsillectomy in 2012.", "Tonsillectomy", "historical"),
        ("PMHx: asthma, hernia repair 1998. Takes metformin 1 g daily.", "metformin", "affirmed"),
        ("Past history: gout.\n\nGoing home on\n  • Aspirin 100 mg mane\n", "Aspirin", "affirmed"),
        ("Flu jab offered, declined.", "Flu jab", "negated"),
        ("Dx        Parkinson's disease, osteoporosis, constipation, dementia\nAvoid     metoclopramide\n", "dementia",
         "affirmed"),
    ],
)  # fmt: skip
async def test_what_is_asked_for_is_not_done_and_what_is_over_is_over(text: str, finding: str, assertion: str) -> None:
    assert named(await read(text), finding).assertion == assertion


@pytest.mark.parametrize(
    ("text", "finding", "label"),
    [
        ("ALLERGIES: erythromycin, latex\n\nMEDICINE     DOSE    ROUTE   TIMES\nFurosemide   20mg    oral    mane\n",
         "Furosemide", "medication"),
        ("NOT TAKING: methocarbamol\nALLERGIES: latex\n", "methocarbamol", "medication"),
        ("FH: sister psoriasis.\nReview sooner if pain or blisters.\n", "pain", "symptom"),
        ("Blood culture   Streptococcus\n   Cefotaxime         S\n   Clindamycin        R\n", "Clindamycin", "test"),
        ("A swab grew staphylococcus, sensitive to flucloxacillin.", "flucloxacillin", "test"),
        ("Adverse drug reactions: cefalexin (hives)\n", "cefalexin", "allergy"),
        ("Hx   58M bus driver. Otalgia.", "58M", "age"),
        ("Hx   58M bus driver. Otalgia.", "bus driver", "occupation"),
        ("67 y.o. woman.", "67 y.o.", "age"),
    ],
)  # fmt: skip
async def test_a_section_ends_where_its_words_do(text: str, finding: str, label: str) -> None:
    assert named(await read(text), finding).label == label


async def test_a_letterhead_names_no_tests() -> None:
    enrichment = await read("Coolibah Eye & Optical\nBronte Hallam, Mesa AZ\n\nHypertension is well controlled.\n")
    assert [entity.text for entity in enrichment.entities] == ["Hypertension"]
