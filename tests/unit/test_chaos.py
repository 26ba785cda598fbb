"""A seed is a run: the same faults at the same times, the same documents."""

import random

from tests.chaos.faults import WEIGHTS, schedule
from tests.letters import make_letters


def test_the_same_seed_draws_the_same_faults_and_another_one_others() -> None:
    faults = schedule(1, 600, 8)
    assert faults == schedule(1, 600, 8)
    assert faults != schedule(2, 600, 8)
    assert {fault.kind for fault in faults} == set(WEIGHTS)
    assert {fault.victim for fault in faults} == set(range(8))


def test_the_same_seed_writes_the_same_letters() -> None:
    letters = make_letters(random.Random(1), 50, per_second=1)
    assert letters == make_letters(random.Random(1), 50, per_second=1)
    assert len({letter.sha256 for letter in letters}) == 50
