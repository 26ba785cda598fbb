"""What the sample records say: three invented patients. Drawn by ``make_samples.py``, compared with by the tests."""

from typing import NamedTuple


class Head(NamedTuple):
    """A hospital's or a section's name."""

    text: str
    size: float = 11


class Text(NamedTuple):
    """A paragraph, wrapped where the page ends."""

    text: str


class Table(NamedTuple):
    """Rows of cells; ``columns`` are the cells' left edges in millimetres from the left margin."""

    columns: tuple[float, ...]
    rows: tuple[tuple[str, ...], ...]


Page = tuple[Head | Text | Table, ...]

_FOOT = Text("Sample record of an invented person.")

DISCHARGE_LETTER: tuple[Page, ...] = (
    (
        Head("Northmere General Hospital", 15),
        Text("Department of Acute Medicine, 12 Quarry Road, Northmere NM4 7QT"),
        Head("Discharge letter", 13),
        Table(
            (0, 30, 95, 125),
            (
                ("Patient:", "Margaret Ellen Ashdown", "Hospital no.:", "NGH-204817"),
                ("Date of birth:", "14 March 1951", "Sex:", "Female"),
                ("Admitted:", "2 September 2025", "Discharged:", "9 September 2025"),
                ("Consultant:", "Dr Priya Raman", "GP:", "Dr Owen Tadley, Mill Lane Surgery"),
            ),
        ),
        Head("Diagnoses"),
        Text("1. Community-acquired pneumonia, right lower lobe, CURB-65 score 2."),
        Text("2. New atrial fibrillation, diagnosed 3 September 2025."),
        Text("3. Type 2 diabetes mellitus, since 2011."),
        Text("4. Essential hypertension, since 2004."),
        Head("Presenting complaint and history"),
        Text(
            "Mrs Ashdown was admitted with four days of productive cough, fever and increasing breathlessness. She "
            "had no chest pain, no haemoptysis and no leg swelling. There was no recent travel. She had a right total "
            "knee replacement on 18 May 2019 and an appendicectomy in 1968. She stopped smoking in 1995 after 20 "
            "pack-years and drinks 4 units of alcohol a week."
        ),
        Head("Family history"),
        Text(
            "Her mother had a stroke at the age of 72. Her father died of myocardial infarction at the age of 66. Her "
            "brother has type 2 diabetes. No family history of bowel cancer."
        ),
        Head("Allergies"),
        Text("Penicillin: widespread rash and facial swelling (1987). Codeine: nausea. No known latex allergy."),
        Head("Examination on admission"),
        Text(
            "Temperature 38.7 °C, blood pressure 148/86 mmHg, pulse 118 per minute and irregular, respiratory rate 24 "
            "per minute, oxygen saturation 91% on air. Weight 71.4 kg, height 162 cm. Coarse crackles at the right "
            "base. No ankle oedema. Abdomen soft and not tender."
        ),
        Head("Investigations and procedures"),
        Text(
            "Chest X-ray on 2 September 2025: consolidation of the right lower lobe, no pleural effusion. ECG on 3 "
            "September 2025: atrial fibrillation, rate 112. Echocardiogram on 5 September 2025: ejection fraction 55%, "
            "mildly dilated left atrium, no significant valve disease. Blood cultures: no growth after five days. "
            "Pulmonary embolism was considered and excluded by CT pulmonary angiogram on 4 September 2025."
        ),
        _FOOT,
    ),
    (
        Head("Margaret Ellen Ashdown, born 14 March 1951, NGH-204817", 10),
        Head("Blood results"),
        Table(
            (0, 55, 80, 105, 140),
            (
                ("Test", "2 Sep", "8 Sep", "Unit", "Reference range"),
                ("Haemoglobin", "118", "121", "g/L", "115 - 165"),
                ("White cell count", "17.2", "8.9", "10^9/L", "4.0 - 11.0"),
                ("Platelets", "342", "365", "10^9/L", "150 - 400"),
                ("C-reactive protein", "214", "31", "mg/L", "0 - 5"),
                ("Sodium", "133", "138", "mmol/L", "133 - 146"),
                ("Potassium", "4.1", "4.4", "mmol/L", "3.5 - 5.3"),
                ("Creatinine", "96", "78", "umol/L", "45 - 84"),
                ("eGFR", "54", "69", "mL/min", "over 60"),
                ("HbA1c", "58", "", "mmol/mol", "20 - 41"),
                ("TSH", "2.3", "", "mU/L", "0.3 - 4.2"),
            ),
        ),
        Head("Hospital course"),
        Text(
            "She was treated with intravenous levofloxacin 500 mg twice daily for three days because of her penicillin "
            "allergy, then by mouth, and needed oxygen until 5 September. On 3 September she was found to be in "
            "atrial fibrillation. The rate settled with bisoprolol. CHA2DS2-VASc score 4; apixaban was started on "
            "4 September after discussion of the risk of bleeding. She was afebrile from 6 September."
        ),
        Head("Medicines on discharge"),
        Table(
            (0, 42, 65, 92, 125),
            (
                ("Medicine", "Dose", "Route", "Frequency", "Comment"),
                ("Apixaban", "5 mg", "oral", "twice daily", "new, long term"),
                ("Bisoprolol", "2.5 mg", "oral", "once daily", "new"),
                ("Levofloxacin", "500 mg", "oral", "twice daily", "new, until 12 September 2025"),
                ("Metformin", "1 g", "oral", "twice daily", "unchanged"),
                ("Ramipril", "5 mg", "oral", "once daily", "restarted on 7 September"),
                ("Atorvastatin", "20 mg", "oral", "at night", "unchanged"),
                ("Paracetamol", "1 g", "oral", "as required", "up to four times daily"),
            ),
        ),
        Text("Stopped: aspirin 75 mg once daily (now on apixaban); amlodipine 5 mg once daily (ankle swelling)."),
        Head("Follow-up"),
        Text("1. GP: renal function and full blood count in two weeks; review of rate control."),
        Text("2. Chest X-ray at six weeks, on 21 October 2025, to confirm resolution."),
        Text("3. Atrial fibrillation clinic, Dr Helen Voss, on 4 November 2025 at 10:20."),
        Text("4. Influenza and pneumococcal vaccination recommended; not given during this admission."),
        Text(
            "Mrs Ashdown lives with her husband and walks with a stick. No package of care was needed. She was advised "
            "to return if she has chest pain, breathlessness or bleeding."
        ),
        Text("Dr Samir Okafor, specialty registrar, for Dr Priya Raman, consultant physician, 9 September 2025"),
        _FOOT,
    ),
)

CLINIC_LETTER: tuple[Page, ...] = (
    (
        Head("Harrow Vale Rheumatology Clinic", 15),
        Text("The Old Tannery, 3 Weir Street, Harrow Vale HV2 9LB. Telephone 01632 960 418"),
        Text("Clinic date: 11 February 2025. Typed: 13 February 2025."),
        Text("Dr Lena Castellan, Riverside Practice, 40 Bridge Street, Harrow Vale HV1 3DA"),
        Head("Re: Mr Tobias Reyes, born 27 August 1978, record number HV-55213"),
        Text("Dear Dr Castellan,"),
        Head("Diagnoses"),
        Text("1. Seropositive rheumatoid arthritis, diagnosed in June 2021."),
        Text("2. Gastro-oesophageal reflux disease."),
        Text("3. Vitamin D deficiency, treated in 2023."),
        Head("Current state"),
        Text(
            "I reviewed Mr Reyes today. Over the last three months he has had more pain and swelling in both wrists "
            "and in the small joints of the right hand, with morning stiffness of about 90 minutes. He denies fever, "
            "night sweats and weight loss. There is no eye redness, no mouth ulceration and no rash. He has not had "
            "any infection that needed antibiotics since last summer."
        ),
        Text(
            "He works as a joiner and finds it hard to grip his tools. He has never smoked. His grandmother had "
            "rheumatoid arthritis and his sister has psoriasis. There is no family history of multiple sclerosis."
        ),
        Head("Allergies"),
        Text("Sulfasalazine: generalised rash in September 2021. No other known drug allergies."),
        _FOOT,
    ),
    (
        Head("Mr Tobias Reyes, HV-55213, page 2", 10),
        Head("Examination"),
        Text(
            "Weight 84.2 kg, height 179 cm, blood pressure 126/78 mmHg, pulse 72 per minute. Synovitis of both wrists "
            "and of the second and third metacarpophalangeal joints on the right. 7 tender joints, 5 swollen joints. "
            "No rheumatoid nodules. Chest clear. DAS28-CRP 4.9, compared with 3.1 in October 2024."
        ),
        Head("Medicines before this visit"),
        Text("Methotrexate 20 mg by mouth once weekly, on Mondays."),
        Text("Folic acid 5 mg by mouth once weekly, on Thursdays."),
        Text("Omeprazole 20 mg by mouth once daily."),
        Text("Naproxen 500 mg by mouth twice daily as required."),
        Head("Results of 4 February 2025"),
        Text("C-reactive protein 28 mg/L (0 - 5). ESR 41 mm/h (1 - 15)."),
        Text("Haemoglobin 132 g/L (130 - 180). White cell count 6.8 x 10^9/L (4.0 - 11.0)."),
        Text("ALT 34 U/L (10 - 50). Creatinine 81 umol/L (59 - 104)."),
        Text("Rheumatoid factor 112 IU/mL (under 14). Anti-CCP antibodies over 340 U/mL (under 10)."),
        Text("Hepatitis B surface antigen negative. Hepatitis C antibody negative. HIV test negative."),
        Head("Imaging"),
        Text(
            "X-rays of hands and feet on 4 February 2025 show a new erosion at the right second metacarpal head. "
            "Ultrasound in clinic today shows grade 2 power Doppler signal in both wrists. Chest X-ray on 4 February "
            "2025 is normal, with no evidence of tuberculosis."
        ),
        _FOOT,
    ),
    (
        Head("Mr Tobias Reyes, HV-55213, page 3", 10),
        Head("Assessment"),
        Text(
            "Active rheumatoid arthritis despite methotrexate at full dose for more than two years. Hydroxychloroquine "
            "200 mg twice daily was tried from 2022 to 2023 and stopped for lack of effect."
        ),
        Head("Plan"),
        Text("1. Start adalimumab 40 mg by subcutaneous injection every two weeks, once the screening is complete."),
        Text("2. Continue methotrexate 20 mg once weekly and folic acid 5 mg once weekly."),
        Text("3. Stop naproxen. Start etoricoxib 60 mg by mouth once daily for four weeks only."),
        Text("4. Intramuscular methylprednisolone 120 mg was given in clinic today."),
        Text("5. Interferon gamma release assay taken today; result awaited."),
        Text("6. Blood tests every four weeks for three months: full blood count, liver function, creatinine."),
        Text("7. Pneumococcal vaccine in your surgery, please. Live vaccines must be avoided."),
        Head("Information given"),
        Text(
            "We discussed the risk of infection and of reactivated tuberculosis. He knows to hold adalimumab and to "
            "call the advice line if he has a fever. He does not plan to have surgery this year. He was given the "
            "leaflet and the telephone number of our specialist nurse, Ms Ruth Adeyemi."
        ),
        Head("Follow-up"),
        Text("Nurse clinic in six weeks, on 25 March 2025. My clinic in three months, on 13 May 2025."),
        Text("Yours sincerely,"),
        Text("Dr Anneke Vermeulen, consultant rheumatologist"),
        _FOOT,
    ),
)

LAB_REPORT: tuple[Page, ...] = (
    (
        Head("Calder Bay Pathology", 17),
        Text("Laboratory report, final. Requested by Dr Femi Lindqvist, Calder Bay Health Centre"),
        Text("Patient: Ines Halvorsen. Born: 5 December 1989. Sex: Female. Report number: CB-7730-26"),
        Text("Sample taken: 19 January 2026, 08:40. Serum and EDTA blood, fasting. Reported: 20 January 2026."),
        Head("Haematology"),
        Table(
            (0, 48, 68, 85, 115),
            (
                ("Test", "Result", "Flag", "Unit", "Reference range"),
                ("Haemoglobin", "104", "Low", "g/L", "115 - 165"),
                ("White cell count", "6.1", "", "10*9/L", "4.0 - 11.0"),
                ("Platelets", "418", "High", "10*9/L", "150 - 400"),
                ("MCV", "74.6", "Low", "fL", "80.0 - 100.0"),
                ("Ferritin", "6", "Low", "ug/L", "15 - 200"),
            ),
        ),
        Head("Biochemistry"),
        Table(
            (0, 48, 68, 85, 115),
            (
                ("Test", "Result", "Flag", "Unit", "Reference range"),
                ("Sodium", "140", "", "mmol/L", "133 - 146"),
                ("Potassium", "4.2", "", "mmol/L", "3.5 - 5.3"),
                ("Creatinine", "62", "", "umol/L", "45 - 84"),
                ("Glucose, fasting", "5.1", "", "mmol/L", "3.9 - 5.5"),
                ("HbA1c", "37", "", "mmol/mol", "20 - 41"),
                ("Total cholesterol", "5.6", "High", "mmol/L", "under 5.0"),
                ("TSH", "6.8", "High", "mU/L", "0.3 - 4.2"),
                ("Free T4", "13.2", "", "pmol/L", "12.0 - 22.0"),
            ),
        ),
        Head("Comment"),
        Text(
            "Microcytic anaemia with low ferritin, in keeping with iron deficiency. No evidence of haemolysis. "
            "Raised TSH with normal free T4: suggest repeat in three months with thyroid peroxidase antibodies."
        ),
        Text("Authorised by Dr Jonas Ekwall, consultant pathologist"),
        _FOOT,
    ),
)


def truth(page: Page) -> str:
    """The page's words in reading order, tables row by row, a space between them."""
    texts: list[str] = []
    for part in page:
        if isinstance(part, Table):
            texts += [cell for row in part.rows for cell in row if cell]
        else:
            texts.append(part.text)
    return " ".join(texts)
