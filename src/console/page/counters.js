// The counters of this Envoy: the gray share of the last minute, and errors with the time they last grew.
import { $, put } from "./dom.js";

const WINDOW_MS = 60_000;
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
const EXPECTED_REASONS = ["out_of_percentage", "no_pool", "shadow"];

// Gray requests by pool as they were counted in the last minute, the oldest counts first.
let lastMinute = [];
// By the counter's name. `at` is 0 for what was counted before this page was opened.
const errors = new Map();

// Shows all counters. `severalPools`: an error is named with its pool.
export function showCounters(counters, severalPools) {
  const now = Date.now();
  const gray = new Map();
  const total = { in: 0, out: 0 };
  for (const [name, count] of Object.entries(counters)) {
    const { kind, labels } = parseName(name);
    if (kind === "gray.requests") {
      gray.set(labels.pool, { in: 0, out: 0, ...gray.get(labels.pool), [labels.choice]: count });
      total[labels.choice] += count;
    }
    if (isFailure(kind, labels) && errors.get(name)?.count !== count) {
      const text = errorWords(kind, labels, severalPools);
      errors.set(name, { count, text, at: lastMinute.length ? now : 0 });
    }
  }
  lastMinute = [...lastMinute.filter((past) => now - past.at < WINDOW_MS), { at: now, gray }];
  const requests = total.in + total.out;
  put($("#counts"), `${requests} requests since it began: ${total.in} in the gray release, ${total.out} out`);
  showErrors(now);
}

// The share of a pool's requests that were in the gray release during the last minute, in words.
export function grayShareSeen(pool) {
  const [oldest, newest] = [lastMinute[0], lastMinute.at(-1)].map(({ gray }) => gray.get(pool));
  const inside = (newest?.in ?? 0) - (oldest?.in ?? 0);
  const requests = inside + (newest?.out ?? 0) - (oldest?.out ?? 0);
  if (!requests) return "no requests here in the last minute";
  return `${Math.round(inside / requests * 1000) / 10} % seen here in the last minute`;
}

// A counter is named so: requests;outcome=atomic;pool=demo
function parseName(name) {
  const [kind, ...labels] = name.split(";");
  return { kind, labels: Object.fromEntries(labels.map((label) => label.split("="))) };
}

function isFailure(kind, { outcome, reason }) {
  const turnedAway = outcome === "rejected" || outcome === "traditional" && !EXPECTED_REASONS.includes(reason);
  return turnedAway || FAILURES.includes(kind) || kind === "failover" && outcome !== "served";
}

function errorWords(kind, { outcome, reason, pool }, severalPools) {
  const what = kind === "failover" ? `refused by an account, ${outcome}` : outcome ?? kind;
  const words = [what, reason].filter(Boolean).join(": ").replace(/_/g, " ");
  return severalPools && pool ? `${words}, pool ${pool}` : words;
}

function showErrors(now) {
  const newest = [...errors.values()].sort((a, b) => b.at - a.at || b.count - a.count).slice(0, MOST_ERRORS);
  const body = $("#errors tbody");
  newest.forEach(({ count, text, at }, place) => {
    const row = body.rows[place] ?? body.insertRow();
    const cells = [text, `${count}`, at ? `${Math.round((now - at) / 1000)} s ago` : "before this page"];
    cells.forEach((words, cell) => put(row.cells[cell] ?? row.insertCell(), words));
  });
  put($("#errors caption"), newest.length ? "Errors since it began" : "No errors since it began");
}
