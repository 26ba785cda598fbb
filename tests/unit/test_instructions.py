"""What a model is told has a version, and its examples are true: a model copies what it is shown."""

import pytest

from services.ai import instructions


def test_the_examples_are_true_of_themselves() -> None:
    assert instructions.faults() == []


@pytest.mark.parametrize(
    ("task", "said", "instead", "fault"),
    [
        ("detect", '{"quote": "ECG"', '{"quote": "EEG"', "'EEG' does not stand in its passage"),
        ("detect", '"asthma", "occurrence": 2', '"asthma", "occurrence": 3', "'asthma' does not stand there 3 times"),
        ("detect", '"event", "label": "clinical_event"', '"event", "label": "test"', "test is no event"),
        ("detect", '{"quote": "58", "occurrence": 1', '{"quote": "58"', "ValidationError"),
        ("enrich", '"start": 96', '"start": 95', "e3 stands elsewhere"),
        ("enrich", '"quote": "500 mg"', '"quote": "600 mg"', "'600 mg' does not stand in its passage"),
        ("enrich", '"codes": ["J18.9"]', '"codes": ["J18.8"]', "e4: codes are not of its candidates"),
        ("enrich", '"to": "e4"', '"to": "e44"', "e5 is linked to nothing"),
        ("enrich", '"assertion": "negated"', '"assertion": "affirmed"', "0 examples of negated"),
        ("narrate", "You had gout", "You had gout and asthma", "says more than it cites"),
    ],
)
def test_an_example_that_is_not_true_is_told(
    task: str, said: str, instead: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = instructions.text(task).replace(said, instead)
    assert wrong != instructions.text(task)
    others = {name: instructions.text(name) for name in instructions.VERSIONS}
    monkeypatch.setattr(instructions, "text", lambda name: wrong if name == task else others[name])
    assert any(fault in found for found in instructions.faults())


def test_the_version_names_the_file_and_shows_a_silent_edit(monkeypatch: pytest.MonkeyPatch) -> None:
    version = instructions.version("detect")
    assert version.startswith("detect.v2+")
    monkeypatch.setattr(instructions, "text", lambda _: "other words")
    assert instructions.version("detect") != version


def test_a_copy_of_the_instructions_is_known_and_a_record_is_not() -> None:
    told = "never quote words that do NOT stand there"
    assert instructions.repeats(told, or_examples=False)
    assert instructions.repeats("was admitted with chest pain. No fever", or_examples=True)
    assert not instructions.repeats("was admitted with chest pain. No fever", or_examples=False)
    assert not instructions.repeats("The patient takes ramipril 5 mg once daily for hypertension.", or_examples=True)
