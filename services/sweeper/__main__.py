"""``python -m services.sweeper``: watches the queue until told to stop. ``--once``: one full pass, for a cron."""

import argparse
import asyncio
import sys

import asyncpg
import structlog

from shared.database import CONNECTION_ERRORS, open_pool
from shared.errors import ConfigurationError
from shared.logs import configure_logs, describe_error
from shared.service import VERSION, Runtime, run_service
from shared.settings import exit_misconfigured, load_settings
from shared.storage import Storage
from shared.telemetry import configure_telemetry, flush_telemetry

from .documents import LostDocuments
from .handler import Sweeper
from .queue_pass import QueuePass
from .retention import Archive, Retention
from .rounds import Round, Rounds
from .scaling import Scaling
from .settings import SweeperSettings
from .stored_files import MissingFiles, UnknownFiles
from .uploads import StaleUploads

SCALE_EVERY_SECONDS = 15.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m services.sweeper", description=__doc__)
    parser.add_argument("--once", action="store_true", help="one full pass; exits 1 where a part of it failed")
    once = parser.parse_args().once
    try:
        settings = load_settings(SweeperSettings)
        storage = settings.open_storage(settings.storage_url) if settings.storage_url else None
    except ConfigurationError as error:
        exit_misconfigured(error)
    if once:
        sys.exit(_run_once(settings, storage))

    def build(runtime: Runtime) -> Sweeper:
        return Sweeper(
            pool=runtime.pool,
            listener=runtime.listener,
            worker_id=settings.worker_id,
            version=VERSION,
            rounds=[
                Rounds(rounds, every_seconds=every_seconds)
                for rounds, every_seconds in (
                    (_housekeeping(runtime.pool, storage, settings), settings.housekeeping_seconds),
                    (_scaling(runtime.pool, settings), SCALE_EVERY_SECONDS),
                )
                if rounds
            ],
        )

    run_service("sweeper", settings, topics=["changes"], build=build)


def _run_once(settings: SweeperSettings, storage: Storage | None) -> int:
    configure_logs(service="sweeper", level=settings.log_level)
    configure_telemetry(service="sweeper", version=VERSION, instance=settings.worker_id)
    try:
        return asyncio.run(_pass(settings, storage))
    finally:
        flush_telemetry()


async def _pass(settings: SweeperSettings, storage: Storage | None) -> int:
    log = structlog.get_logger()
    try:
        async with await open_pool(
            settings.database_url.get_secret_value(), size=settings.pool_size, application_name="chartloom sweeper once"
        ) as pool:
            rounds = [QueuePass(pool=pool), *_housekeeping(pool, storage, settings), *_scaling(pool, settings)]
            all_well = await Rounds(rounds, every_seconds=settings.housekeeping_seconds).run_once()
    except (*CONNECTION_ERRORS, asyncpg.PostgresError) as error:
        log.warning("database_away", **describe_error(error))
        return 1
    log.info("pass_done", outcome="done" if all_well else "failed")
    return 0 if all_well else 1


def _housekeeping(pool: asyncpg.Pool, storage: Storage | None, settings: SweeperSettings) -> list[Round]:
    rounds: list[Round] = [
        LostDocuments(pool=pool, grace_seconds=settings.document_grace_minutes * 60),
        Archive(pool=pool, retention_days=settings.retention_days),
        Retention(pool=pool, retention_days=settings.retention_days),
    ]
    if storage is not None:
        grace_seconds = settings.storage_grace_hours * 3600
        rounds += [
            StaleUploads(pool=pool, storage=storage, grace_seconds=settings.upload_grace_hours * 3600),
            MissingFiles(pool=pool, storage=storage, grace_seconds=grace_seconds),
            UnknownFiles(
                pool=pool,
                storage=storage,
                grace_seconds=grace_seconds,
                may_delete=settings.unknown_files == "delete",
            ),
        ]
    return rounds


def _scaling(pool: asyncpg.Pool, settings: SweeperSettings) -> list[Round]:
    if settings.render_api_key is None or not settings.render_scaling:
        return []
    return [
        Scaling(
            pool=pool,
            api_url=settings.render_api_url,
            api_key=settings.render_api_key.get_secret_value(),
            services=settings.render_scaling,
            up_seconds=settings.scale_up_seconds,
            down_seconds=settings.scale_down_seconds,
            calm_seconds=settings.scale_calm_seconds,
            cooldown_seconds=settings.scale_cooldown_seconds,
        )
    ]


if __name__ == "__main__":
    main()
