"""``chartloom capacity``."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.console import err, out, run
from cli.deployment import open_deployment
from shared.errors import ConfigurationError

from . import picture, prices, report, sizing, workload
from .fleet import DEFAULT, Fleet
from .history import finished_jobs
from .simulation import Limits, Outcome
from .times import STEPS, Times, of_jobs, read, reference

app = typer.Typer()

LATEST_JOBS = 50_000
Settings = list[str] | None


@app.command()
def capacity(
    *,
    documents: Annotated[int, typer.Option(min=1, max=100_000, help="Patients who upload one document each.")] = 1000,
    heavy: Annotated[int, typer.Option(min=0, max=100_000, help="Documents more of one patient.")] = 0,
    pages: Annotated[int, typer.Option(min=1, max=500, help="Pages of each document.")] = 5,
    scans: Annotated[float, typer.Option(min=0, max=1, help="Share of the documents that are scans.")] = 1.0,
    within: Annotated[float, typer.Option(min=0, help="Seconds within which they are uploaded.")] = 1.0,
    times: Annotated[
        str, typer.Option(help="What a job takes: 'reference', 'database' (its finished jobs), or a file of times.")
    ] = "reference",
    save_times: Annotated[
        Path | None, typer.Option(help="Write these times to a file, to look at, change, use.")
    ] = None,
    answer_seconds: Annotated[float | None, typer.Option(min=0, help="How long the model takes for an answer.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="The model endpoint's limit.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="The model endpoint's limit.")] = None,
    instances: Annotated[
        Settings, typer.Option(help="SERVICE=NUMBER: ocr, ai, persister, sweeper. Else the fewest that keep the SLOs.")
    ] = None,
    concurrency: Annotated[
        Settings, typer.Option(help="SERVICE=NUMBER of jobs in hand at once (WORKER_CONCURRENCY).")
    ] = None,
    pool_size: Annotated[Settings, typer.Option(help="SERVICE=NUMBER of pooled connections (POOL_SIZE).")] = None,
    plan: Annotated[Settings, typer.Option(help="SERVICE=PLAN of Render's, by the name in the file of prices.")] = None,
    cores: Annotated[
        float | None, typer.Option(min=0.1, help="Cores of one machine that all services share, instead of plans.")
    ] = None,
    prices_file: Annotated[
        Path | None, typer.Option("--prices", help="Plans and prices, in the form of cli/capacity/prices.toml.")
    ] = None,
    picture_file: Annotated[
        Path | None, typer.Option("--picture", help="Draw how many jobs wait over time: an SVG file.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the answer to this file, - to print it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answer.")] = 1,
) -> None:
    """Say what a load would take: time, instances, connections, cost.

    Simulates the services from the time that each step takes. Without --instances it looks for the fewest instances of
    each service with which the fast queue's p95 stays below 2 minutes and the AI queue's below 10.

    Exits 1 where these objectives are not met.
    """

    async def answered() -> tuple[dict[str, Any], sizing.Situation, Outcome]:
        known = await _times(times, answer_seconds)
        if save_times:
            save_times.write_text(known.model_dump_json(indent=1) + "\n")
        situation = sizing.Situation(
            documents=workload.burst(
                documents=documents, pages=pages, scanned_share=scans, within_s=within, heavy=heavy
            ),
            times=known,
            prices=prices.read(prices_file),
            limits=Limits(requests_per_minute, tokens_per_minute),
            seed=seed,
        )
        changes = {"instances": instances, "concurrency": concurrency, "pool_size": pool_size, "plan": plan}
        fleet = _fleet(situation.prices, cores, changes)
        if not instances:
            fleet = sizing.smallest(situation, fleet)
        outcome = situation.outcome(fleet)
        return report.described(situation, fleet, outcome), situation, outcome

    answer, situation, outcome = run(answered())
    if picture_file:
        title = f"{len(situation.documents)} documents: jobs that wait at each step"
        picture_file.write_text(picture.queue_depths(outcome.depths, outcome.makespan_s, title))
    if json_file == Path("-"):
        typer.echo(json.dumps(answer, indent=1))
    else:
        report.show(answer, situation.prices, out)
        if json_file:
            json_file.write_text(json.dumps(answer, indent=1) + "\n")
    if not all(queue["met"] for queue in answer["queues"].values()):
        if not instances:
            err.print(
                f"Not even {sizing.MOST_INSTANCES} instances keep it: try a larger --plan with more jobs in hand "
                "(--concurrency), or look at the model's answers and limits.",
                highlight=False,
            )
        raise typer.Exit(1)


async def _times(source: str, answer_seconds: float | None) -> Times:
    known = reference()
    if source == "database":
        async with open_deployment() as deployment, deployment.owner() as connection:
            jobs = await finished_jobs(connection, list(STEPS), LATEST_JOBS)
        known = of_jobs(jobs, known, note=f"{len(jobs)} finished jobs of the database")
    elif source != "reference":
        known = read(Path(source))
    return known if answer_seconds is None else known.with_answers_after(answer_seconds)


def _fleet(known: prices.Prices, cores: float | None, changes: Mapping[str, Settings]) -> Fleet:
    """The blueprint's fleet with what was said otherwise. Raises ConfigurationError."""
    fleet = Fleet(DEFAULT.services, cores)
    for field, values in changes.items():
        option = f"--{field.replace('_', '-')}"
        for service, value in _pairs(option, values):
            if field == "plan":
                if value not in known.render:
                    raise _refused(option, f"no plan {value}; there are {', '.join(known.render)}")
                fleet = fleet.changed(service, plan=value)
            elif value.isdigit() and int(value) > 0:
                fleet = fleet.changed(service, **{field: int(value)})
            else:
                raise _refused(option, f"{value} is no number from 1 up")
    return fleet


def _pairs(option: str, values: Settings) -> Sequence[tuple[str, str]]:
    pairs = []
    for said in values or []:
        service, _, value = said.partition("=")
        if service not in DEFAULT.services or not value:
            raise _refused(option, f"{said} is no SERVICE=VALUE; the services are {', '.join(DEFAULT.services)}")
        pairs.append((service, value))
    return pairs


def _refused(option: str, why: str) -> ConfigurationError:
    return ConfigurationError("option_refused", f"{option}: {why}.")
