"""The answer: as a dictionary for ``--json``, as tables for people."""

from typing import Any

from rich.console import Console
from rich.table import Table

from .fleet import CLAIMED_BY, Fleet
from .prices import Prices
from .simulation import Outcome
from .sizing import (
    AI_P95_S,
    FAST_P95_S,
    Situation,
    ai_p95_s,
    fast_p95_s,
    percentile,
    smallest_database,
    transactions_a_second,
)
from .workload import share_of_scans

UNKNOWN = "unknown: fill in its price (--prices)"


def described(situation: Situation, fleet: Fleet, outcome: Outcome) -> dict[str, Any]:
    """Everything, in seconds, documents, connections; a cost whose price is not known is null."""
    average, peak = transactions_a_second(outcome, situation.times, fleet)
    whole = [passed.whole_s for passed in outcome.passed]
    return {
        "documents": len(situation.documents),
        "pages": sum(document.pages for document in situation.documents),
        "share_of_scans": round(share_of_scans(situation.documents), 3),
        "times": situation.times.note,
        "makespan_s": round(outcome.makespan_s, 1),
        "end_to_end": {"p50_s": round(percentile(whole, 0.5), 1), "p95_s": round(percentile(whole, 0.95), 1)},
        "queues": {
            "fast": _queue([passed.fast_s for passed in outcome.passed], FAST_P95_S, fast_p95_s(outcome)),
            "ai": _queue([passed.ai_s for passed in outcome.passed], AI_P95_S, ai_p95_s(outcome)),
        },
        "services": {
            name: {
                "instances": service.instances,
                "concurrency": service.concurrency,
                "plan": service.plan,
                "pool_size": service.pool_size,
                "busy_share": round(
                    outcome.busy_s[name] / (service.instances * service.concurrency * outcome.makespan_s), 3
                )
                if name in CLAIMED_BY
                else None,
            }
            for name, service in fleet.services.items()
        },
        "database": {
            "connections": fleet.connections,
            "listening_connections": fleet.listeners,
            "smallest_supabase_plan": smallest_database(fleet, situation.prices),
            "transactions_per_second": round(average, 1),
            "transactions_per_second_peak": round(peak, 1),
        },
        "model": {
            "requests": outcome.requests,
            "input_tokens": outcome.input_tokens,
            "output_tokens": outcome.output_tokens,
            "put_off": outcome.snoozes,
        },
        "cost": _costs(fleet, outcome, situation.prices),
    }


def _queue(seconds: list[float], objective: float, p95: float) -> dict[str, Any]:
    return {
        "p50_s": round(percentile(seconds, 0.5), 1),
        "p95_s": round(p95, 1),
        "objective_p95_s": objective,
        "met": p95 < objective,
    }


def _costs(fleet: Fleet, outcome: Outcome, prices: Prices) -> dict[str, Any]:
    """Instances and database by the month, the model for these documents."""
    monthly: float | None = 0.0
    for service in fleet.services.values():
        price = prices.render[service.plan].price_per_month
        monthly = None if price is None or monthly is None else monthly + price * service.instances
    database = smallest_database(fleet, prices)
    model = None
    if outcome.requests == 0:
        model = 0.0
    elif prices.model.input_price is not None and prices.model.output_price is not None:
        model = (
            outcome.input_tokens * prices.model.input_price + outcome.output_tokens * prices.model.output_price
        ) / 1e6
    return {
        "prices_as_of": prices.as_of,
        "instances_per_month": None if monthly is None else round(monthly, 2),
        "database_per_month": prices.supabase[database].price_per_month if database else None,
        "model_for_these_documents": None if model is None else round(model, 2),
    }


def show(answer: dict[str, Any], prices: Prices, out: Console) -> None:
    """The same for people."""
    out.print(
        f"[bold]{answer['documents']} documents, {answer['pages']} pages[/bold], "
        f"{answer['share_of_scans']:.0%} of them scans. Times: {answer['times']}",
        highlight=False,
    )
    out.print(
        f"All done after {_time(answer['makespan_s'])}; upload to persisted p50 "
        f"{_time(answer['end_to_end']['p50_s'])}, p95 {_time(answer['end_to_end']['p95_s'])}.\n",
        highlight=False,
    )
    queues = Table("queue", "p50", "p95", "objective", "met", box=None, pad_edge=False)
    for name, queue in answer["queues"].items():
        met = "yes" if queue["met"] else "[red]NO[/red]"
        objective = f"< {_time(queue['objective_p95_s'])}"
        queues.add_row(name, _time(queue["p50_s"]), _time(queue["p95_s"]), objective, met)
    services = Table("service", "instances", "plan", "jobs in hand each", "pool", "busy", box=None, pad_edge=False)
    for name, service in answer["services"].items():
        busy = "" if service["busy_share"] is None else f"{service['busy_share']:.0%}"
        services.add_row(
            name,
            str(service["instances"]),
            service["plan"],
            str(service["concurrency"]),
            str(service["pool_size"]),
            busy,
        )
    out.print(queues)
    out.print()
    out.print(services)
    database = answer["database"]
    plan = database["smallest_supabase_plan"]
    out.print(
        f"\nDatabase: {database['connections']} connections, {database['listening_connections']} of them direct "
        f"(LISTEN); {database['transactions_per_second']:g} transactions/s, "
        f"{database['transactions_per_second_peak']:g} in the busiest 10 s.",
        highlight=False,
    )
    if plan is None:
        out.print("Supabase: no plan's limits hold so many connections.", style="red")
    else:
        limits = prices.supabase[plan]
        out.print(
            f"Supabase: {plan} is the smallest plan that holds them ({limits.pooler_clients} clients of the pooler, "
            f"{limits.max_connections} direct).",
            highlight=False,
        )
    model = answer["model"]
    if model["requests"]:
        out.print(
            f"Model: {model['requests']:,} requests, {model['input_tokens']:,} tokens in, "
            f"{model['output_tokens']:,} out; {model['put_off']:,} times a job had to wait for the limits.",
            highlight=False,
        )
    cost = answer["cost"]
    out.print(f"Cost (prices of {cost['prices_as_of']}; check them):")
    for name in ("instances_per_month", "database_per_month", "model_for_these_documents"):
        said = UNKNOWN if cost[name] is None else f"{cost[name]:,.2f}"
        out.print(f"  {name.replace('_', ' ')}: {said}", highlight=False)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"
