// graphile-worker as a contender. To drain: the settings of its own perfTest. For latency: its defaults, since a local
// queue trades latency for throughput.
import { createRequire } from "node:module";
import pg from "pg";
import { Logger, runMigrations, runTaskList } from "graphile-worker";
import { say, starts, waitForGo } from "./protocol.mjs";

const [verb, count] = [process.argv[2], Number(process.argv[3])];
const connectionString = process.env.DATABASE_URL;
const logger = new Logger(() => () => {});
const draining = {
  concurrentJobs: 24,
  maxPoolSize: 25,
  localQueue: { size: 500, refetchDelay: { durationMs: 10 } },
  completeJobBatchDelay: 0,
  failJobBatchDelay: 0,
};
const worker = { connectionString, logger, ...(count ? draining : { concurrentJobs: 10, maxPoolSize: 12 }) };
const pool = new pg.Pool({ connectionString, max: worker.maxPoolSize });

if (verb === "install") {
  await runMigrations({ preset: { worker } });
  say("installed", createRequire(import.meta.url)("graphile-worker/package.json").version);
  await pool.end();
} else if (verb === "fill") {
  await pool.query(
    `select from graphile_worker.add_jobs(array(
       select json_populate_record(null::graphile_worker.job_spec, '{"identifier": "bench", "payload": {}}')
       from generate_series(1, $1::integer)))`,
    [count],
  );
  await pool.end();
} else if (verb === "work") {
  const started = starts(count);
  await pool.query("select 1");
  say("ready");
  await waitForGo();
  await runTaskList({ preset: { worker }, noHandleSignals: true }, { bench: () => started() }, pool).promise;
}
