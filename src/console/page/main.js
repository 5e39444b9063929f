// The page's beginning: asks for the status once a second while the page is visible, and shows it.
import { ask, hasToken } from "./api.js";
import { CHANGED, askForToken } from "./changes.js";
import { showCounters } from "./counters.js";
import { $, put } from "./dom.js";
import { showPools } from "./pools.js";

const REFRESH_MS = 1000;
let nextRefresh;
let isRefreshing = false;
let shownAt = 0;

async function refresh() {
  if (isRefreshing) return;
  isRefreshing = true;
  clearTimeout(nextRefresh);
  try {
    const status = await ask("/api/status");
    show(status);
    shownAt = Date.now();
    showLive(status.writable ? "live" : "live, read-only: no token is configured", "");
  } catch (error) {
    const since = shownAt ? `; shown as of ${Math.round((Date.now() - shownAt) / 1000)} s ago` : "";
    showLive(`${error.message ?? error}${since}`, "bad");
  }
  isRefreshing = false;
  if (!document.hidden) nextRefresh = setTimeout(refresh, REFRESH_MS);
}

function show(status) {
  document.body.className = status.writable ? "" : "readonly";
  put($("#version"), `slotgate ${status.version}`);
  $("#key").hidden = !status.writable;
  showCounters(status.counters, status.pools.length > 1);
  showPools(status);
}

function showLive(text, className) {
  put($("#live"), text);
  $("#live").className = className;
}

$("#key").onclick = () => askForToken(hasToken() ? "There is one already." : "");
document.addEventListener(CHANGED, refresh);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
refresh();
