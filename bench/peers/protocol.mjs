// protocol.py, for Node.
import { createInterface } from "node:readline";

let lines;

export const now = () => process.hrtime.bigint(); // CLOCK_MONOTONIC, as time.monotonic_ns()

export function say(...words) {
  process.stdout.write(`> ${words.join(" ")}\n`);
}

export async function waitForGo() {
  lines ??= createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  return !(await lines.next()).done;
}

export function starts(expected) {
  let started = 0;
  return (count = 1) => {
    const at = now();
    if (expected === 0) {
      say("started", at);
    } else if (started < expected && (started += count) >= expected) {
      say("all");
    }
  };
}

export async function rate(jobs, enqueue) {
  const began = performance.now();
  await enqueue();
  return (jobs * 1000) / (performance.now() - began);
}
