// The page's beginning: asks for the status once a second while the page is visible, and shows it. While there is none,
// because Redis is away, it shows what this Envoy knows by itself.
import { ask, hasToken } from "./api.js";
import { CHANGED, askForToken } from "./changes.js";
import { showCounters, takeCounters } from "./counters.js";
import { $, put } from "./dom.js";
import { beginPoint } from "./history.js";
import { showGrowing, showPools } from "./pools.js";
import { drawAll } from "./sparkline.js";
import { ago } from "./words.js";

const REFRESH_MS = 1000;
const LATE_MS = 6000;
let nextRefresh;
let askedAt = 0;
let asksEnvoy = false;
let shownAt = 0;
let shownPools = [];
// Why there is no status; empty: there is one.
let trouble = "";

async function refresh() {
  if (askedAt) return;
  askedAt = Date.now();
  clearTimeout(nextRefresh);
  try {
    show(await ask("/api/status"));
    trouble = "";
  } catch (error) {
    trouble = error.message ?? `${error}`;
  }
  askedAt = 0;
  showTrouble();
  if (!document.hidden) nextRefresh = setTimeout(refresh, REFRESH_MS);
}

function show(status) {
  shownAt = Date.now();
  shownPools = status.pools.map(({ pool }) => pool);
  beginPoint(shownAt);
  showEnvoy(status);
  showPools(status);
  showGrowing(0);
  drawAll();
  put($("#redis"), "Redis answers.");
}

// Shows what needs no Redis.
function showEnvoy({ version, writable, counters }) {
  document.body.classList.toggle("readonly", !writable);
  put($("#version"), `slotgate ${version}`);
  $("#key").hidden = !writable;
  takeCounters(counters, Date.now());
  showCounters(shownPools, Date.now());
}

// Once a second: ages grow, and without a status this Envoy is asked what it knows.
function tick() {
  if (askedAt && Date.now() - askedAt > LATE_MS) trouble = "no answer yet";
  if (trouble && !asksEnvoy && !document.hidden) showEnvoyAlone();
}

async function showEnvoyAlone() {
  asksEnvoy = true;
  const answer = await ask("/api/envoy").catch(() => null);
  asksEnvoy = false;
  if (!trouble) return;
  document.body.classList.toggle("gone", !answer);
  const now = Date.now();
  if (answer) {
    beginPoint(now);
    showEnvoy(answer);
    put($("#redis"), `Without Redis: ${answer.redis ?? trouble}`);
  } else showCounters(shownPools, now);
  showGrowing(now - shownAt);
  drawAll();
  showTrouble();
}

function showTrouble() {
  document.body.classList.toggle("stale", trouble !== "");
  if (!trouble) document.body.classList.remove("gone");
  $("#live").className = $("#redis").className = trouble ? "bad" : "";
  const since = shownAt ? `; shown as of ${ago(Date.now() - shownAt)}` : "";
  const readOnly = document.body.classList.contains("readonly") ? ", read-only: no token is configured" : "";
  put($("#live"), trouble ? `${trouble}${since}` : `live${readOnly}`);
}

$("#key").onclick = () => askForToken(hasToken() ? "There is one already: leave it empty to keep it." : "");
document.addEventListener(CHANGED, refresh);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
setInterval(tick, REFRESH_MS);
refresh();
