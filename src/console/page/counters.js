// The counters of this Envoy: requests a second, the gray share of the last minute, errors and how often they happen.
import { $, put } from "./dom.js";
import { MINUTE_MS, counterGrowth, isFallback, keepCounters, parseName } from "./rates.js";
import { perMinute, perSecond, poolGrowth } from "./rates.js";
import { ago } from "./words.js";

const MOST_ERRORS = 12;
const FAILURES = [
  "redis_error",
  "pipe.lost",
  "drift",
  "lease.lost",
  "lease.release_dropped",
  "breaker.opened",
  "shadow.failed",
  "behind",
];

// By the counter's name. `at` is 0 for what was counted before this page was opened.
const errors = new Map();
let isFirst = true;

// Takes all counters in.
export function takeCounters(counters, now) {
  keepCounters(counters, now);
  for (const [name, count] of Object.entries(counters)) {
    const { kind, labels } = parseName(name);
    if (isFailure(kind, labels) && errors.get(name)?.count !== count) {
      errors.set(name, { name, count, kind, labels, at: isFirst ? 0 : now });
    }
  }
  isFirst = false;
}

// Shows what is known of these pools' requests, and the errors. With several pools an error is named with its pool.
export function showCounters(pools, now) {
  const [inside, outside] = ["in", "out"].map((key) => sumOfPools(pools, key));
  const all = { by: inside.by + outside.by, seconds: inside.seconds };
  const [rate, part, rest] = [all, inside, outside].map(perSecond);
  put($("#counts"), all.seconds
    ? `${rate} requests over the last minute: ${part} in the gray release, ${rest} out`
    : "its requests are being counted …");
  showErrors(pools.length > 1, now);
}

function sumOfPools(pools, key) {
  const parts = pools.map((pool) => poolGrowth(pool, key, MINUTE_MS));
  return { by: parts.reduce((sum, { by }) => sum + by, 0), seconds: parts[0]?.seconds ?? 0 };
}

// The share of a pool's requests that were in the gray release during the last minute, in words.
export function grayShareSeen(pool) {
  const [inside, outside] = ["in", "out"].map((key) => poolGrowth(pool, key, MINUTE_MS).by);
  const requests = inside + outside;
  if (!requests) return "no requests here in the last minute";
  return `${Math.round(inside / requests * 1000) / 10} % seen here in the last minute`;
}

function isFailure(kind, labels) {
  const turnedAway = labels.outcome === "rejected" || isFallback(labels);
  return turnedAway || FAILURES.includes(kind) || kind === "failover" && labels.outcome !== "served";
}

function errorWords({ kind, labels: { outcome, reason, pool } }, severalPools) {
  const what = kind === "failover" ? `refused by an account, ${outcome}` : outcome ?? kind;
  const words = [what, reason].filter(Boolean).join(": ").replace(/_/g, " ");
  return severalPools && pool ? `${words}, pool ${pool}` : words;
}

function showErrors(severalPools, now) {
  const newest = [...errors.values()].sort((a, b) => b.at - a.at || b.count - a.count).slice(0, MOST_ERRORS);
  const body = $("#errors tbody");
  newest.forEach((error, place) => {
    const row = body.rows[place] ?? body.insertRow();
    const rate = perMinute(counterGrowth(error.name, MINUTE_MS));
    const cells = [errorWords(error, severalPools), rate, error.at ? ago(now - error.at) : "before this page"];
    cells.forEach((words, cell) => put(row.cells[cell] ?? row.insertCell(), words));
  });
  put($("#errors caption"), newest.length ? "Errors, the newest first" : "No errors since it began");
}
