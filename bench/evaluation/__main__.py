"""``make eval``: how well a provider and model find, understand and link, on any annotated folder.

CORPUS=folder (brat or JSONL) scores that alone; otherwise it is MACCROBAT, where it lies beside the project or where
MACCROBAT says, and our own notes, the first 30 and those of later authors. AI_PROVIDER and AI_MODEL choose who
answers. ``local`` is trained on MACCROBAT, so there it is trained anew for each of five folds and scored on reports
that it has not seen.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from pydantic import SecretStr

from bench.report import OUT, Measurement, publish
from services.ai.providers import Provider, open_provider
from services.ai.providers.local import LocalProvider
from services.ai.settings import AiSettings
from services.ai.training import corpus, local
from shared.logs import configure_logs

from . import html, scores
from .measure import Outcome, read

NOTES, LATER = Path(__file__).parent / "notes", Path(__file__).parent / "later"
_PROJECT = Path(__file__).parents[2]
_LIES = (_PROJECT / "shared/data/maccrobat", _PROJECT.parent / "shared/data/maccrobat")


def main() -> None:
    """Score and publish."""
    configure_logs(service="bench", level="error")
    # It needs no database; the settings are those of the service, so that AI_MODEL means the same here.
    settings = AiSettings(database_url=SecretStr("postgresql://none"))
    provider = open_provider(
        provider=settings.ai_provider,
        model=settings.ai_model,
        api_key=settings.openai_api_key.get_secret_value() if settings.openai_api_key else None,
        base_url=settings.openai_base_url,
        timeout_s=settings.ai_timeout_seconds,
    )
    price = settings.ai_prices.get(provider.model)
    sections: list[tuple[str, list[Outcome], list[Measurement]]] = []
    for name, documents, unseen in _corpora(provider):
        say(f"{name}: {len(documents)} documents, {provider.name} {provider.model}")
        outcomes = asyncio.run(_five_fold(documents) if unseen else _all(documents, provider))
        sections.append((name, outcomes, scores.measurements(name, outcomes, price)))
    publish("eval", [row for _, _, rows in sections for row in rows])
    report = OUT / "eval.html"
    report.write_text(html.page(provider, sections), "utf-8")
    say(f"{report.relative_to(_PROJECT)}")


def say(line: str) -> None:
    """Progress: minutes pass between lines."""
    sys.stderr.write(f"{line}\n")


def _corpora(provider: Provider) -> list[tuple[str, list[corpus.Document], bool]]:
    """(name, documents, whether the model is to be trained anew for each fold)."""
    if folder := os.environ.get("CORPUS"):
        return [(Path(folder).name, corpus.read(Path(folder)), False)]
    found = []
    stated = os.environ.get("MACCROBAT")
    lies = [Path(stated)] if stated else _LIES
    reports = next((path for path in lies if path.is_dir()), None)
    if reports is None:
        say("MACCROBAT is not here: name its folder with MACCROBAT=… Only our own notes are scored.")
    else:
        found.append(("maccrobat", corpus.read(reports), provider.name == "local"))
    return [*found, ("notes", corpus.read(NOTES), False), ("later notes", corpus.read(LATER), False)]


async def _all(documents: Sequence[corpus.Document], provider: Provider) -> list[Outcome]:
    return [await read(document, provider) for document in documents]


async def _five_fold(documents: Sequence[corpus.Document]) -> list[Outcome]:
    folds = list(local.folds(documents))
    outcomes: list[Outcome] = []
    # In processes of their own, and before anything is timed: what training leaves in memory slows down a reader.
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as trainers:
        engines: list[local.Trained] = []
        for trained in trainers.map(local.train, [seen for seen, _ in folds]):
            engines.append(trained)
            say(f"  trained fold {len(engines)} of {local.FOLDS}")
    for number, (trained, (_, unseen)) in enumerate(zip(engines, folds, strict=True), 1):
        say(f"  fold {number} of {local.FOLDS}: reading {len(unseen)} that its training has not seen")
        provider = LocalProvider(trained.engine())
        outcomes += [await read(document, provider) for document in unseen]
    return outcomes


if __name__ == "__main__":
    main()
