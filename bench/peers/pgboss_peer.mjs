// pg-boss as a contender: batches of 100, four workers, NOTIFY on, no pause while batches come back full.
import { createRequire } from "node:module";
import pg from "pg";
import { PgBoss } from "pg-boss";
import { now, rate, say, starts, waitForGo } from "./protocol.mjs";

const [verb, count] = [process.argv[2], Number(process.argv[3])];
const connectionString = process.env.DATABASE_URL;
const boss = new PgBoss({ connectionString, useListenNotify: true });
boss.on("error", (error) => console.error(error));
await boss.start();

async function fill(jobs) {
  for (let done = 0; done < jobs; done += 1000) {
    await boss.insert("bench", Array(1000).fill({ data: {} }));
  }
}

if (verb === "install") {
  await boss.createQueue("bench", { notify: true });
  say("installed", createRequire(import.meta.url)("pg-boss/package.json").version);
} else if (verb === "fill") {
  await fill(count);
} else if (verb === "work") {
  const started = starts(count);
  say("ready");
  await waitForGo();
  const options = { batchSize: 100, localConcurrency: 4, burstWhenBatchFull: true };
  await boss.work("bench", options, async (jobs) => started(jobs.length));
} else if (verb === "send") {
  // One job at each "go"; says when its commit was sent.
  const client = new pg.Client({ connectionString });
  await client.connect();
  const db = { executeSql: (text, values) => client.query(text, values) };
  say("ready");
  while (await waitForGo()) {
    await client.query("begin");
    await boss.send("bench", {}, { db });
    const at = now();
    await client.query("commit");
    say("sent", at);
  }
} else if (verb === "enqueue") {
  say("ready");
  await waitForGo();
  const single = await rate(count, async () => {
    for (let done = 0; done < count; done++) await boss.send("bench", {});
  });
  say("rates", single, await rate(10000, () => fill(10000)));
}
if (verb !== "work") {
  await boss.stop({ graceful: false });
}
