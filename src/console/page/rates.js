// How fast this Envoy's counters grow, from its answers of the last minute.

export const MINUTE_MS = 60_000;
// Over how long a rate is taken that is shown as it is now.
export const RATE_MS = 5000;
const EXPECTED_REASONS = ["out_of_percentage", "no_pool", "shadow"];
// The oldest first: when, all counters, and by pool {granted, refused, fallbacks, in, out}.
let samples = [];

// A counter is named so: requests;outcome=atomic;pool=demo
export function parseName(name) {
  const [kind, ...labels] = name.split(";");
  return { kind, labels: Object.fromEntries(labels.map((label) => label.split("="))) };
}

// Whether requests went the traditional way because they could not go the other one.
export const isFallback = ({ outcome, reason }) => outcome === "traditional" && !EXPECTED_REASONS.includes(reason);

export function keepCounters(counters, now) {
  const last = samples.at(-1)?.counters ?? {};
  // An Envoy that began anew counts from 0.
  const isLess = ([name, count]) => !name.includes(";account=") && (counters[name] ?? 0) < count;
  if (Object.entries(last).some(isLess)) samples = [];
  samples = samples.filter(({ at }) => now - at <= MINUTE_MS + 2000);
  samples.push({ at: now, counters, pools: countByPool(counters) });
}

function countByPool(counters) {
  const pools = {};
  for (const [name, count] of Object.entries(counters)) {
    if (!name.startsWith("requests;") && !name.startsWith("gray.requests;")) continue;
    const { labels } = parseName(name);
    const pool = pools[labels.pool] ??= { granted: 0, refused: 0, fallbacks: 0, in: 0, out: 0 };
    const key = labels.choice ?? keyOf(labels);
    if (key) pool[key] += count;
  }
  return pools;
}

function keyOf(labels) {
  if (labels.outcome === "rejected") return "refused";
  if (labels.outcome === "traditional") return isFallback(labels) ? "fallbacks" : "";
  return "granted";
}

// How much a count grew within about `ms`: {by, seconds}; seconds is 0 until that is known. `look` takes the count
// out of a sample; undefined: it is not known there.
function growth(look, ms) {
  const newest = samples.at(-1);
  const known = samples.filter((sample) => look(sample) !== undefined);
  const oldest = known.findLast(({ at }) => newest.at - at >= ms) ?? known[0];
  if (!oldest || oldest === newest) return { by: 0, seconds: 0 };
  return { by: look(newest) - look(oldest), seconds: (newest.at - oldest.at) / 1000 };
}

export const poolGrowth = (pool, key, ms) => growth(({ pools }) => pools[pool]?.[key] ?? 0, ms);

export const counterGrowth = (name, ms) => growth(({ counters }) => counters[name] ?? 0, ms);

// An account's counters are known where its requests are.
export function accountGrowth(pool, account, key, ms) {
  const labels = `;pool=${pool};account=${account}`;
  const [requests, wanted] = [`account.requests${labels}`, `account.${key}${labels}`];
  if (samples.at(-1)?.counters[requests] === undefined) return { by: 0, seconds: 0 };
  return growth(({ counters }) => counters[requests] === undefined ? undefined : counters[wanted] ?? 0, ms);
}

// Events a second or a minute, short. Empty until they are known.
export const perSecond = ({ by, seconds }) => seconds ? `${short(by / seconds)}/s` : "";

export const perMinute = ({ by, seconds }) => seconds ? `${short(by / seconds * 60)}/min` : "";

function short(number) {
  return number > 0 && number < 10 ? number.toFixed(1) : `${Math.round(number)}`;
}
