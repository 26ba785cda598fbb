"""The simulation against what queueing theory says exactly, and the fit against times that are known."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.capacity import picture, prices, sizing
from cli.capacity.fleet import DEFAULT, Fleet, Service
from cli.capacity.simulation import WINDOW_S, Limits, Outcome, simulate
from cli.capacity.times import STEPS, Job, PerPage, Questions, StepTime, Times, fitted, of_jobs, reference
from cli.capacity.workload import Document, burst
from cli.main import app

INSTANT = StepTime(core_s=PerPage())


def times(**steps: StepTime) -> Times:
    """No time for a step that is not named."""
    return Times(
        note="test",
        pick_up_s=0,
        transactions_a_document=10,
        transactions_a_second_idle=0.5,
        steps=dict.fromkeys(STEPS, INSTANT) | steps,
    )


def at_once(count: int, *, pages: int = 1) -> list[Document]:
    return burst(documents=count, pages=pages, scanned_share=1, within_s=0, heavy=0)


def fleet(cores: float | None = None, **services: tuple[int, int]) -> Fleet:
    """Instances and concurrency of each; one of each where not named, a core each."""
    named = {"ocr": (1, 1), "ai": (1, 1), "persister": (1, 1)} | services
    return Fleet({name: Service(name, *counts, "standard") for name, counts in named.items()}, cores)


def run(documents: list[Document], known: Times, of: Fleet, limits: Limits | None = None) -> Outcome:
    return simulate(documents, known, of, prices.read(None), limits or Limits())


def test_one_place_works_one_job_after_another() -> None:
    outcome = run(at_once(10), times(ocr=StepTime(core_s=PerPage(fixed=1, scanned_page=2))), fleet())
    assert outcome.makespan_s == pytest.approx(30)
    assert sorted(passed.whole_s for passed in outcome.passed) == pytest.approx([3.0 * n for n in range(1, 11)])
    assert outcome.busy_s["ocr"] == pytest.approx(30)


def test_jobs_that_share_a_core_take_twice_as_long_and_no_longer() -> None:
    known = times(ocr=StepTime(core_s=PerPage(fixed=2)))
    assert run(at_once(2), known, fleet(ocr=(1, 2))).makespan_s == pytest.approx(4)
    assert run(at_once(2), known, fleet(ocr=(2, 1))).makespan_s == pytest.approx(2)
    assert run(at_once(2), known, fleet(cores=1, ocr=(2, 1))).makespan_s == pytest.approx(4)
    assert run(at_once(3), known, fleet(cores=2, ocr=(3, 1))).makespan_s == pytest.approx(3)


def test_a_wait_for_the_model_holds_a_place_but_no_core() -> None:
    known = times(ai_detect=StepTime(core_s=PerPage(), model=Questions(answer_s=5, a_document=1)))
    assert run(at_once(8), known, fleet(ai=(1, 4))).makespan_s == pytest.approx(10)
    assert run(at_once(8), known, fleet(cores=1, ai=(2, 4))).makespan_s == pytest.approx(5)


def test_four_questions_of_a_job_are_one_wait_and_five_are_two() -> None:
    known = times(ai_detect=StepTime(core_s=PerPage(), model=Questions(answer_s=5, a_page=1)))
    assert run(at_once(1, pages=4), known, fleet()).makespan_s == pytest.approx(5)
    assert run(at_once(1, pages=5), known, fleet()).makespan_s == pytest.approx(10)


def test_the_later_pass_goes_first() -> None:
    second = StepTime(core_s=PerPage(fixed=1))
    outcome = run(at_once(3), times(ai_detect=second, ai_enrich=second, ai_narrate=second), fleet())
    assert sorted(passed.whole_s for passed in outcome.passed) == pytest.approx([3, 6, 9])


def test_one_patients_documents_do_not_delay_the_others() -> None:
    known = times(ocr=StepTime(core_s=PerPage(fixed=1)))
    documents = burst(documents=100, pages=1, scanned_share=1, within_s=0, heavy=50)
    outcome = run(documents, known, fleet())
    others = [passed.whole_s for passed in outcome.passed if passed.document.patient != "heavy"]
    assert len(outcome.passed) == 150
    assert max(others) <= 102


def test_no_minute_has_more_questions_than_the_limit() -> None:
    known = times(ai_detect=StepTime(core_s=PerPage(), model=Questions(answer_s=1, a_document=1)))
    outcome = run(at_once(25), known, fleet(ai=(1, 100)), Limits(requests=10))
    assert len(outcome.passed) == 25
    assert outcome.makespan_s == pytest.approx(2 * WINDOW_S + 1)
    assert outcome.snoozes == 15 + 5


def test_jobs_put_off_to_a_moment_that_rounds_down_still_go() -> None:
    known = times(
        ocr=StepTime(core_s=PerPage(fixed=0.1), spread=(0.7, 1.1, 1.3)),
        ai_detect=StepTime(core_s=PerPage(fixed=1 / 3), model=Questions(answer_s=0.1, a_document=1)),
    )
    outcome = run(at_once(40), known, fleet(ocr=(3, 1), ai=(1, 4)), Limits(requests=3))
    assert len(outcome.passed) == 40
    assert outcome.makespan_s == pytest.approx(WINDOW_S * 13, rel=0.02)


def test_no_minute_has_more_tokens_than_the_limit() -> None:
    asks = Questions(answer_s=1, a_document=1, input_tokens=600, output_tokens=400)
    outcome = run(
        at_once(4), times(ai_detect=StepTime(core_s=PerPage(), model=asks)), fleet(ai=(1, 9)), Limits(tokens=2000)
    )
    assert outcome.makespan_s == pytest.approx(WINDOW_S + 1)
    assert (outcome.requests, outcome.input_tokens, outcome.output_tokens) == (4, 2400, 1600)


def test_the_same_seed_gives_the_same_again() -> None:
    known = times(ocr=StepTime(core_s=PerPage(fixed=1), spread=(0.5, 1.0, 1.5)))
    whole = [[passed.whole_s for passed in run(at_once(20), known, fleet(ocr=(3, 2))).passed] for _ in range(2)]
    assert whole[0] == whole[1]


# -- times ------------------------------------------------------------------------------------------------------------


def test_the_fit_finds_the_times_that_made_the_jobs() -> None:
    documents = [Document("p", digital, scanned, 0) for digital in range(4) for scanned in range(4)]
    known = PerPage(fixed=0.5, scan=0.25, digital_page=0.1, scanned_page=2.5)
    found = fitted([(document, known.of(document)) for document in documents])
    assert found.model_dump() == pytest.approx(known.model_dump())


def test_the_fit_never_gives_a_negative_time() -> None:
    found = fitted([(Document("p", 0, pages, 0), 2.0 * pages - 0.5) for pages in range(1, 5)])
    assert found.fixed == 0
    assert found.scanned_page > 0
    alike = fitted([(Document("p", 0, 2, 0), 3.0)] * 5)
    assert alike.of(Document("p", 0, 2, 0)) == pytest.approx(3)


def finished(step: str, number: int, seconds: float, requests: int) -> Job:
    """One after another at one worker, all of them made at the start; two pages each."""
    began = number * 10.0
    document = Document("p", 0, 2, 0)
    return Job(step, "worker", 0.0, began + 0.25, began + 0.25 + seconds, document, requests, 100 * requests, 0)


def test_a_models_part_of_a_job_is_what_the_core_does_not_explain() -> None:
    jobs = [finished(step, n, 9.75, 2 if step.startswith("ai") else 0) for step in STEPS for n in range(5)]
    known = times(ai_detect=StepTime(core_s=PerPage(fixed=0.75)))
    found = of_jobs(jobs, known, note="test")
    assert found.steps["ocr"].model is None
    asks = found.steps["ai_detect"].model
    assert asks == Questions(answer_s=9, a_page=1, input_tokens=100)
    assert found.pick_up_s == pytest.approx(0.25)


def test_the_reference_has_every_step() -> None:
    assert set(reference().steps) == set(STEPS)


# -- the answer -------------------------------------------------------------------------------------------------------


def test_the_smallest_fleet_keeps_the_objectives_and_one_instance_less_does_not() -> None:
    known = times(
        ocr=StepTime(core_s=PerPage(fixed=4)),
        ai_detect=StepTime(core_s=PerPage(), model=Questions(answer_s=20, a_document=1)),
    )
    situation = sizing.Situation(at_once(300), known, prices.read(None), Limits(), 1)
    found = sizing.smallest(situation, DEFAULT)
    assert sizing.fast_p95_s(situation.outcome(found)) < sizing.FAST_P95_S
    fewer = found.changed("ocr", instances=found.services["ocr"].instances - 1)
    assert sizing.fast_p95_s(situation.outcome(fewer)) >= sizing.FAST_P95_S
    assert found.services["persister"].instances == 1


def test_connections_decide_the_plan_of_the_database() -> None:
    known = prices.read(None)
    assert DEFAULT.connections == 5 * 6
    assert sizing.smallest_database(DEFAULT, known) == "micro"
    # 65 processes listen: more than the smallest plan's 60 direct connections, whatever its pooler takes.
    assert sizing.smallest_database(DEFAULT.changed("ocr", instances=61, pool_size=1), known) == "small"
    assert sizing.smallest_database(DEFAULT.changed("ocr", instances=400), known) is None


def test_the_command_answers_in_json_and_draws(tmp_path: Path) -> None:
    drawn = tmp_path / "queues.svg"
    saved = tmp_path / "times.json"
    done = CliRunner().invoke(
        app,
        ["capacity", "--documents", "20", "--pages", "1", "--scans", "0.5", "--instances", "ocr=2", "--json", "-",
         "--picture", str(drawn), "--save-times", str(saved), "--answer-seconds", "3"],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["share_of_scans"] == 0.5
    assert answer["services"]["ocr"]["instances"] == 2
    assert answer["cost"]["instances_per_month"] == 2 * 25 + 25 * answer["services"]["ai"]["instances"] + 2 * 7
    # No price is invented: which model it is, nobody said.
    assert answer["cost"]["model_for_these_documents"] is None
    assert ElementTree.fromstring(drawn.read_text()).tag.endswith("svg")
    again = CliRunner().invoke(
        app,
        ["capacity", "--documents", "20", "--pages", "1", "--scans", "0.5", "--instances", "ocr=2", "--json", "-",
         "--times", str(saved)],
    )  # fmt: skip
    assert json.loads(again.stdout) == answer


def test_prices_that_are_filled_in_are_added_up(tmp_path: Path) -> None:
    own = tmp_path / "prices.toml"
    own.write_text(
        'as_of = "today"\nnote = ""\n[render.standard]\ncores = 1\nmemory_mb = 1\nprice_per_month = 20\n'
        "[render.starter]\ncores = 0.5\nmemory_mb = 1\nprice_per_month = 5\n"
        "[supabase.micro]\nmax_connections = 60\npooler_clients = 200\nprice_per_month = 10\n"
        "[model]\ninput_price = 1\noutput_price = 2\n"
    )
    done = CliRunner().invoke(
        app, ["capacity", "--documents", "5", "--instances", "ocr=3", "--prices", str(own), "--json", "-"]
    )
    cost = json.loads(done.stdout)["cost"]
    assert cost["instances_per_month"] == 3 * 20 + 2 * 20 + 2 * 5
    assert cost["database_per_month"] == 10
    assert cost["model_for_these_documents"] is not None


@pytest.mark.parametrize(
    "arguments",
    [["--instances", "ocr"], ["--instances", "web=1"], ["--concurrency", "ai=many"], ["--plan", "ocr=huge"],
     ["--times", "nowhere.json"], ["--prices", "nowhere.toml"]],
)  # fmt: skip
def test_an_option_that_means_nothing_is_refused_with_its_name(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, ["capacity", "--documents", "1", *arguments])
    assert done.exit_code == 2
    assert arguments[0] in done.stderr


def test_a_picture_of_nothing_waiting_is_a_picture() -> None:
    assert ElementTree.fromstring(picture.queue_depths([], 1.0, "a < b")).tag.endswith("svg")
