"""The trained models that ship: what they must still find, and that they are what they say."""

import json
from collections.abc import Set
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from bench.evaluation import measure
from bench.evaluation.matching import pairs
from services.ai.local import engine, linking, negation, tagger
from services.ai.local.linking import Head
from services.ai.local.sections import sentences
from services.ai.local.tokens import tokens
from services.ai.providers.local import LocalProvider
from services.ai.training import corpus
from services.ai.training.tagger import sequences

Feature = TypeVar("Feature", str, tuple[str, ...])
EVALUATION = Path(__file__).parents[2] / "bench/evaluation"
NOTES, LATER = EVALUATION / "notes", EVALUATION / "later"
REPORT = (
    "A 54-year-old woman presented with a two-week history of dyspnea and chest pain.\n"
    "She denied fever, chills or night sweats.\n"
    "Echocardiography revealed severe mitral regurgitation and she underwent mitral valve replacement.\n"
    "She was treated with oral prednisolone (40 mg daily) and intravenous ceftriaxone 2 g.\n"
)


def found(text: str) -> dict[str, str]:
    return {text[one.start : one.end]: one.label for one in tagger.load().find(text)}


@pytest.mark.parametrize("folder", [NOTES, LATER], ids=lambda folder: folder.name)
async def test_the_shipped_models_still_read_our_notes(folder: Path) -> None:
    outcomes = [await measure.read(document, LocalProvider()) for document in corpus.read(folder)[::3]]
    overlap, exact = measure.detection(outcomes)
    assert overlap.f1 >= 0.75
    assert exact.f1 >= 0.60
    assert measure.attribute(outcomes, "unit", normalised=True).f1 >= 0.85
    assert measure.attribute(outcomes, "time", normalised=True).f1 >= 0.75
    good, claimed = measure.grounded(outcomes)
    assert good == claimed


def test_the_tagger_reads_prose() -> None:
    labels = found(REPORT)
    assert labels["dyspnea"] == "symptom"
    assert labels["Echocardiography"] == "test"
    assert labels["prednisolone"] == "medication"
    assert labels["oral"] == "route"


def test_a_mark_alone_is_no_finding() -> None:
    text = "Patient  : Theo Marsh          Sex: M    D.O.B. 30/07/2021\nAdmission: 18/11/2024"
    assert [quote for quote in found(text) if not any(map(str.isalnum, quote))] == []


def test_a_page_is_read_the_same_again_and_without_its_neighbours() -> None:
    reader = tagger.load()
    first = reader.find(REPORT)
    reader.find("Nothing else.\n" * 3)
    assert reader.find(REPORT) == first
    alone = REPORT.splitlines(keepends=True)[1]
    shift = REPORT.index(alone)
    assert [(one.start + shift, one.end + shift, one.label) for one in reader.find(alone)] == [
        (one.start, one.end, one.label) for one in first if shift <= one.start < shift + len(alone)
    ]


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00" * 40, "." * 5000, "a " * 5000, "é" * 300 + "\u200b" + "日本語"])
def test_no_page_is_too_strange_to_be_read(text: str) -> None:
    for one in tagger.load().find(text):
        assert 0 <= one.start < one.end <= len(text)


def test_likelihoods_are_those_of_the_whole_sentence() -> None:
    """Forward and backward in batches give what summing over all paths of a short sentence gives."""
    draw = np.random.default_rng(3)
    scores, steps = draw.normal(size=(5, 3)).astype(np.float32), draw.normal(size=(3, 3)).astype(np.float32)
    runs = [(0, 3), (3, 5)]
    likely = tagger.likelihoods(scores, runs, steps)
    for start, end in runs:
        paths = np.indices((3,) * (end - start)).reshape(end - start, -1)
        weight = np.exp(
            sum(scores[start + place, paths[place]] for place in range(end - start))
            + sum(steps[paths[place], paths[place + 1]] for place in range(end - start - 1))
        )
        for place in range(end - start):
            expected = [weight[paths[place] == label].sum() / weight.sum() for label in range(3)]
            assert likely[start + place] == pytest.approx(expected, rel=1e-3)


def test_the_tagger_sums_the_features_that_it_was_trained_on() -> None:
    text = f"{REPORT}The salpingo-oophorectomy (2 hrs) was on 3/4.\n"
    sentences_of, _ = sequences([corpus.Document("1", text, ())])
    attributes = {feature for sentence in sentences_of for place in sentence for feature in place}
    of_labels = [drawn(attributes, seed) for seed in range(3)]
    weight = {feature: np.array([weights[feature] for weights in of_labels], np.float32) for feature in attributes}
    learnt = tagger.Tagger(
        ["O", "test", "dose"], list(weight), np.array(list(weight.values())), np.zeros((3, 3), np.float32)
    )
    page = tokens(text)
    expected = [sum(weight[feature] for feature in place) for sentence in sentences_of for place in sentence]
    assert learnt.scores(text, page, tagger.runs_of(page, text)) == pytest.approx(np.array(expected), rel=1e-4)


def test_negation_sums_the_features_that_it_was_trained_on() -> None:
    text = (
        "She had no fever, but denied any other pain or rash, without lack of appetite; edema was absent.\n"
        "Later she had a cough.\n"
    )
    places = [(start, end) for start, end in zip(tokens(text).starts, tokens(text).ends, strict=True)]
    around = [
        negation.around(text, start, end, label="symptom", rule=rule, sentence=(0, len(text)))
        for start, end in places
        for rule in (False, True)
    ]
    weight = drawn({feature for here in around for feature in negation.features(here)})
    assert {here.doubted for here in around} == {True, False}
    for here in around:
        if not here.doubted:
            assert not negation.Negation({}, 1e-9).absent(here)
            continue
        said = sum(weight[feature] for feature in negation.features(here))
        for threshold, absent in ((said - 1e-6, True), (said + 1e-6, False)):
            learnt = negation.Negation(
                {"\t".join(feature): one for feature, one in weight.items()}, 1 / (1 + np.exp(-threshold))
            )
            assert learnt.absent(here) == absent, (here, said)


def test_linking_chooses_by_the_features_that_it_was_trained_on() -> None:
    text = "Vancomycin (1 g), then oral prednisolone with or without aspirin and 40 mg of morphine by mouth.\n"
    heads = [
        Head(words, text.index(words), text.index(words) + len(words), "intervention", "medication")
        for words in ("Vancomycin", "prednisolone", "aspirin", "morphine")
    ]
    edges = sentences(text)
    for words in ("1 g", "oral", "40 mg", "by mouth"):
        said = ("dose", text.index(words), text.index(words) + len(words))
        features = {head.id: linking.features(text, said, head, heads) for head in heads}
        weight = drawn({feature for of in features.values() for feature in of})
        sums = {head: sum(weight[feature] for feature in of) for head, of in features.items()}
        chosen = linking.Linking(weight).head(text, said, heads, edges)
        assert chosen is not None
        assert chosen.id == max(sums, key=lambda head: sums[head])


def drawn(features: Set[Feature], seed: int = 5) -> dict[Feature, float]:
    """A weight for each feature."""
    draw = np.random.default_rng(seed)
    return dict(zip(sorted(features), draw.normal(size=len(features)).tolist(), strict=True))


def test_a_dose_is_said_about_its_own_medicine() -> None:
    text = "She received vancomycin (1 g) and oral prednisolone 40 mg.\n"

    def head(words: str) -> Head:
        start = text.index(words)
        return Head(words, start, start + len(words), "intervention", "medication")

    heads = [head("vancomycin"), head("prednisolone")]
    model, edges = engine.load().linking, sentences(text)
    for name, words, owner in (
        ("dose", "1 g", "vancomycin"),
        ("dose", "40 mg", "prednisolone"),
        ("route", "oral", "prednisolone"),
    ):
        start = text.index(words)
        about = model.head(text, (name, start, start + len(words)), heads, edges)
        assert about is not None
        assert (words, about.id) == (words, owner)


@pytest.mark.parametrize(("folder", "count"), [(NOTES, 30), (LATER, 70)], ids=["notes", "later"])
def test_the_truth_of_our_notes_stands_where_it_says(folder: Path, count: int) -> None:
    documents = corpus.read(folder)
    assert len(documents) == count
    for line in (folder / "notes.jsonl").read_text("utf-8").splitlines():
        content = json.loads(line)
        for entity in content["entities"]:
            assert content["text"][entity["start"] : entity["end"]] == entity["quote"]


def test_brat_files_are_read_with_polarity_and_links(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("No fever. Aspirin 100 mg.\n")
    (tmp_path / "a.ann").write_text(
        "T1\tSign_symptom 3 8\tfever\nE1\tSign_symptom:T1 \nA1\tPOLARITY E1 NEG\n"
        "T2\tMedication 10 17\tAspirin\nE2\tMedication:T2 \nT3\tDosage 18 24\t100 mg\nR1\tMODIFY Arg1:T3 Arg2:E2\t\n"
    )
    (document,) = corpus.read(tmp_path)
    fever, aspirin = document.truths
    assert (fever.kind, fever.assertion) == ("observation", "negated")
    assert aspirin.assertion == "affirmed"
    assert document.text[slice(aspirin.attributes["dose"].start, aspirin.attributes["dose"].end)] == "100 mg"


def test_matches_are_one_to_one_and_equal_stretches_go_first() -> None:
    found = [(0, 10, "event"), (5, 10, "event"), (20, 30, "event"), (40, 50, "observation")]
    truths = [(5, 10, "event"), (0, 4, "event"), (25, 26, "event"), (27, 28, "event"), (40, 50, "event")]
    assert sorted(pairs(found, truths)) == [(0, 1), (1, 0), (2, 2)]


def test_tokens_cover_all_but_white_space() -> None:
    text = "CK-MB 3,5 ng/mL (ref. <5)\n"
    split = tokens(text)
    assert "".join(split.texts) == "".join(text.split())
    assert [text[start:end] for start, end in zip(split.starts, split.ends, strict=True)] == split.texts
