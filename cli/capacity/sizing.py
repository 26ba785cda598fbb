"""What a fleet does to the objectives, and the smallest one that keeps them."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .fleet import Fleet
from .prices import Prices
from .simulation import Limits, Outcome, simulate
from .times import Times
from .workload import Document

FAST_P95_S = 120.0
AI_P95_S = 600.0
MOST_INSTANCES = 100
"""Of one service on Render."""
PEAK_WINDOW_S = 10.0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of them does not exceed."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


@dataclass(frozen=True)
class Situation:
    """All but the fleet."""

    documents: Sequence[Document]
    times: Times
    prices: Prices
    limits: Limits
    seed: int

    def outcome(self, fleet: Fleet) -> Outcome:
        return simulate(self.documents, self.times, fleet, self.prices, self.limits, seed=self.seed)


def fast_p95_s(outcome: Outcome) -> float:
    """The fast queue's: from ``complete_upload`` to the last fast job."""
    return percentile([passed.fast_s for passed in outcome.passed], 0.95)


def ai_p95_s(outcome: Outcome) -> float:
    """The AI queue's: from its first AI job's enqueue to persisted."""
    return percentile([passed.ai_s for passed in outcome.passed], 0.95)


def smallest(situation: Situation, fleet: Fleet) -> Fleet:
    """Fewest instances of each service that keep its objective; as many as may be where none does.

    First OCR, since what it lets through is the AI service's load; then that, with persisters enough; then those.
    """
    fleet = fleet.changed("persister", instances=MOST_INSTANCES)
    fleet = _fewest(situation, fleet, "ocr", lambda outcome: fast_p95_s(outcome) < FAST_P95_S)
    fleet = _fewest(situation, fleet, "ai", lambda outcome: ai_p95_s(outcome) < AI_P95_S)
    return _fewest(situation, fleet, "persister", lambda outcome: ai_p95_s(outcome) < AI_P95_S)


def _fewest(situation: Situation, fleet: Fleet, service: str, keeps: Callable[[Outcome], bool]) -> Fleet:
    counts = range(1, MOST_INSTANCES + 1)
    place = bisect_left(
        counts, True, key=lambda count: keeps(situation.outcome(fleet.changed(service, instances=count)))
    )
    return fleet.changed(service, instances=counts[min(place, MOST_INSTANCES - 1)])


def transactions_a_second(outcome: Outcome, times: Times, fleet: Fleet) -> tuple[float, float]:
    """On average and in the busiest ten seconds. A job's transactions are an equal part of its document's."""
    idle = times.transactions_a_second_idle * fleet.processes
    ends = sorted(outcome.ends_s)
    each = times.transactions_a_document * len(outcome.passed) / len(ends)
    peak = max(bisect_right(ends, end + PEAK_WINDOW_S) - place for place, end in enumerate(ends))
    return idle + each * len(ends) / outcome.makespan_s, idle + each * peak / min(PEAK_WINDOW_S, outcome.makespan_s)


def smallest_database(fleet: Fleet, prices: Prices) -> str | None:
    """The first of Supabase's plans whose limits hold the fleet's connections; None where none does."""
    for name, plan in prices.supabase.items():
        if fleet.connections <= plan.pooler_clients and fleet.listeners <= plan.max_connections:
            return name
    return None
