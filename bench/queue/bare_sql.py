"""``python -m bench.queue.bare_sql VERB JOBS``: a queue that is nothing but its statements, as a contender.

One table, claimed and completed a hundred at a time on each of four connections, fenced by a token; finished rows stay.
"""

import asyncio
import os
import sys

import asyncpg

from bench.peers.protocol import Starts, say, wait_for_go

from .ground import connected

CONNECTIONS = 4
BATCH = 100

TABLE = """
create table jobs (
    id bigint generated always as identity primary key,
    priority smallint not null default 0,
    run_after timestamptz not null default now(),
    payload jsonb not null,
    status text not null default 'queued',
    lease_token uuid,
    lease_expires_at timestamptz
) with (fillfactor = 70);
create index jobs_ready on jobs (priority, run_after, id) where status = 'queued';
"""
FILL = "insert into jobs (payload) select '{}' from generate_series(1, $1::integer)"
CLAIM = """
update jobs set status = 'running', lease_token = gen_random_uuid(), lease_expires_at = now() + interval '1 minute'
where id in (
    select id from jobs where status = 'queued' and run_after <= now()
    order by priority, run_after, id limit $1 for update skip locked
)
returning id, payload, lease_token
"""
COMPLETE = """
update jobs as j set status = 'done', lease_token = null, lease_expires_at = null
from unnest($1::bigint[], $2::uuid[]) as held (id, token)
where j.id = held.id and j.lease_token = held.token
"""


async def drain(connection: asyncpg.Connection, starts: Starts) -> None:
    while jobs := await connection.fetch(CLAIM, BATCH):
        for _ in jobs:
            starts.count()
        await connection.execute(COMPLETE, [job["id"] for job in jobs], [job["lease_token"] for job in jobs])


async def main(verb: str, jobs: int) -> None:
    url = os.environ["DATABASE_URL"]
    async with connected(url) as connection:
        if verb == "install":
            await connection.execute(TABLE)
            say("installed")
        elif verb == "fill":
            await connection.execute(FILL, jobs)
    if verb == "work":
        connections = [await asyncpg.connect(url) for _ in range(CONNECTIONS)]
        starts = Starts(jobs)
        say("ready")
        wait_for_go()
        await asyncio.gather(*(drain(connection, starts) for connection in connections))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
