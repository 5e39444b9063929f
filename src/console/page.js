"use strict";
const $ = (query, at = document) => at.querySelector(query);
const all = (query, at = document) => [...at.querySelectorAll(query)];
// All text leaves here: what could forge a line, or hide or turn round what is read, is shown as an escape.
const harmful = /[\0-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const put = (node, given) => {
  const text = given.replace(harmful, (char) => `\\u{${char.charCodeAt(0).toString(16)}}`);
  if (node.textContent !== text) node.textContent = text;
};
const fresh = (id) => $(id).content.firstElementChild.cloneNode(true);
const by = new Intl.Collator("en", { numeric: true }).compare;
const pools = new Map();
let token = sessionStorage.getItem("slotgate") ?? "";
let told, history = [], errors = new Map();

async function ask(path, body) {
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  const init = body ? { method: "POST", headers, body: JSON.stringify(body) } : {};
  const reply = await fetch(path, { ...init, signal: AbortSignal.timeout(9000) })
    .catch(() => { throw { message: "the console can't be reached" }; });
  const answer = await reply.json().catch(() => ({}));
  if (!reply.ok) throw { status: reply.status, message: `status ${reply.status}`, ...answer.error };
  return answer;
}

function say(text, bad) {
  clearTimeout(told);
  $("#said").className = bad ? "bad" : "";
  put($("#said"), text);
  told = setTimeout(() => put($("#said"), ""), 8000);
}

// A change, and what came of it in plain words. Without a token it is asked for, and then tried again.
async function change(action, body, words) {
  try {
    say(words(await ask(`/api/${action}`, body)));
    look();
  } catch (error) {
    const nothing = error.kind === "in_doubt" ? "" : "Nothing was changed: ";
    if (error.status === 401) {
      say(nothing + error.message, true);
      return login(token ? "The token is wrong." : "A change needs the token.", () => change(action, body, words));
    }
    say(nothing + error.message + (error.try ? `; try ${error.try}` : ""), true);
  }
}

function login(why, then) {
  const [box, input] = [$("#login"), $("#login input")];
  put($("#wrong"), why);
  input.value = "";
  $("#login form").onsubmit = () => {
    token = input.value.replace(/[^ -~]/g, "").trim();
    sessionStorage.setItem("slotgate", token);
    if (token) then?.();
  };
  if (!box.open) box.showModal();
}

async function explain(pool, session) {
  try {
    const told = await ask("/api/explain", { pool, session });
    const box = $("#why");
    $("table", box).hidden = false;
    put($("h2", box), `Why an account of ${pool} would be taken now`);
    const next = { bound: `The next request takes ${told.next.account}, the session's own.`, score: "The lowest score wins.", saturated: "No account can take a request now." }[told.next.outcome];
    const bound = told.session?.bound_to;
    put($("p", box), `${next} ${!session ? "" : bound ? `The session is bound to ${bound}.` : "The session is bound to no account."}`);
    const chosen = (one) => one.chance > 0 ? `${(one.chance * 100).toFixed(1)} %` : "–";
    const why = (one) => one.can_take ? one.bound ? "the session is bound to it" : one.chance > 0 ? "can take it" : "can take it, but another wins" : one.against.join("; ");
    const score = (one) => `${one.score.priority.toFixed(3)} + ${one.score.load.toFixed(3)}`;
    $("tbody", box).replaceChildren(...told.accounts.sort((a, b) => b.chance - a.chance || by(a.id, b.id)).map((one) => {
      const row = document.createElement("tr");
      for (const text of [one.id, chosen(one), score(one), why(one)]) put(row.insertCell(), text);
      return row;
    }));
    box.showModal();
  } catch (error) {
    say(`Not explained: ${error.message}`, true);
  }
}

// Leases have 24 hex digits; so may a request's own id.
async function recall(pool, id) {
  say("The workers are asked …");
  const one = (kind) => ask("/api/recall", { pool, [kind]: id });
  try {
    const told = await (/^[\da-f]{24}$/.test(id) ? one("lease").catch(() => one("request")) : one("request"));
    const box = $("#why");
    const why = told.reason ? `: ${told.reason.replace(/_/g, " ")}` : "";
    const of = told.pool ? ` of pool ${told.pool}` : "";
    const way = { atomic: `It took a slot of ${told.account}${of}`, local: `It was sent to ${told.account}${of}, which its worker chose`, traditional: `It went the traditional way${of}`, rejected: `It was answered here${of}`, undecided: "It still waits for its slot" }[told.way];
    const bucket = told.bucket === null ? "By no bucket" : `Its bucket ${told.bucket} is ${told.bucket < told.percent * 100 ? "in" : "out"} at ${told.percent} %`;
    $("table", box).hidden = true;
    put($("h2", box), `Which way ${id} went`);
    put($("p", box), `${way}${why}. ${bucket}; decided after ${told.waited_ms} ms, ${(told.ago_ms / 1000).toFixed(1)} s ago.${told.lease ? ` Lease ${told.lease}.` : ""}`);
    say("");
    box.showModal();
  } catch (error) {
    say(`Not found out: ${error.message}${error.try ? `; ${error.try}` : ""}`, true);
  }
}

function poolOf(name) {
  if (pools.has(name)) return pools.get(name);
  const at = fresh("#pool");
  const pool = { at, name, rows: new Map() };
  pools.set(name, pool);
  const [gray, session, which] = all("form", at);
  const [, , clear] = [...gray.elements];
  const share = (answer) => {
    const { old: was, new: now } = answer.pools[0];
    const words = (set) => set === null ? "as configured" : `${set} %`;
    return `Gray share of ${name}: ${words(now)}, was ${words(was)}.`;
  };
  gray.onsubmit = (event) => {
    event.preventDefault();
    const text = gray.elements[0].value.trim();
    if (!/^-?\d+(\.\d+)?$/.test(text)) return say("Nothing was changed: a share is a number from 0 to 100, such as 12.5", true);
    change("percent", { pool: name, percent: Number(text) }, share);
  };
  clear.onclick = () => change("percent", { pool: name, percent: null }, share);
  session.onsubmit = (event) => {
    event.preventDefault();
    change("unbind", { pool: name, session: session.elements[0].value }, (answer) =>
      answer.changed ? `The session is no longer bound to ${answer.was}: its next request binds it anew.` : "The session was not bound.");
  };
  session.elements[2].onclick = () => explain(name, session.elements[0].value);
  which.onsubmit = (event) => {
    event.preventDefault();
    recall(name, which.elements[0].value.trim());
  };
  $("[type=search]", at).oninput = $("select", at).onchange = () => arrange(pool);
  $("main").append(at);
  return pool;
}

function rowOf(pool, id) {
  if (pool.rows.has(id)) return pool.rows.get(id);
  const at = fresh("#row");
  const row = { at, id };
  const [drain, cool] = all("button", at);
  put($("th", at), id);
  drain.onclick = () => change(row.drained ? "undrain" : "drain", { pool: pool.name, account: id }, (answer) =>
    answer.action === "drain" ? `${id} is drained: it takes no new requests; those that use it now, ${row.used}, will finish.` : `${id} takes requests again.`);
  cool.onclick = () => change("cooldown_clear", { pool: pool.name, account: id }, (answer) =>
    answer.changed ? `${id} no longer cools.` : `${id} was not cooling.`);
  pool.rows.set(id, row);
  $("tbody", pool.at).append(at);
  return row;
}

function arrange(pool) {
  const words = $("[type=search]", pool.at).value.toLowerCase().trim();
  let found = 0;
  for (const row of pool.rows.values()) {
    row.at.hidden = !`${row.id} ${row.state}`.toLowerCase().includes(words);
    found += !row.at.hidden;
  }
  put($(".found", pool.at), `${found} of ${pool.rows.size} accounts${pool.more ? ", and more that are not shown" : ""}`);
  const order = { name: () => 0, load: (a, b) => b.load - a.load, state: (a, b) => by(a.state, b.state) }[$("select", pool.at).value];
  const rows = [...pool.rows.values()].sort((a, b) => order(a, b) || by(a.id, b.id));
  const body = $("tbody", pool.at);
  // A row that moves would lose the focus.
  if (rows.some((row, place) => body.rows[place] !== row.at) && !body.contains(document.activeElement)) body.append(...rows.map((row) => row.at));
}

function show(status) {
  document.body.className = status.writable ? "" : "readonly";
  $("#key").hidden = !status.writable;
  const seen = count(status.counters);
  for (const now of status.pools) {
    const pool = poolOf(now.pool);
    let used = 0, most = 0;
    const states = {};
    for (const account of now.accounts) {
      const row = rowOf(pool, account.id);
      Object.assign(row, account, { load: account.used / account.max_concurrency, drained: account.state === "drained", seen: now });
      used += account.used;
      most += account.max_concurrency;
      states[account.state] = (states[account.state] ?? 0) + 1;
      bar($("i", row.at), row.load);
      if (row.at.className !== row.state) row.at.className = row.state;
      put($(".used", row.at), `${account.used} / ${account.max_concurrency}`);
      const state = $(".state", row.at);
      put(state, account.cooling_ms ? `${account.state}, ${Math.ceil(account.cooling_ms / 1000)} s` : account.state);
      const [drain, cool] = all("button", row.at);
      put(drain, row.drained ? "Undrain" : "Drain");
      cool.disabled = !account.cooling_ms;
    }
    for (const row of pool.rows.values()) if (row.seen !== now) { row.at.remove(); pool.rows.delete(row.id); }
    pool.more = now.more;
    put($("h2", pool.at), `Pool ${now.pool}`);
    put($(".sum", pool.at), now.revision ? `${used} of ${most} slots used · ${now.leases.live} in flight · ${Object.entries(states).map(([state, n]) => `${n} ${state}`).join(", ")} · revision ${now.revision}` : "Not in Redis yet: the filter creates it at its first request.");
    bar($(".bar i", pool.at), used / most || 0);
    const set = now.percent_override, configured = status.percent_configured;
    const asked = set !== null ? `${set} % asked by an operator` : configured !== null ? `${configured} % asked as configured` : "as configured";
    put($(".gray", pool.at), `${asked}, ${seen(now.pool)}`);
    arrange(pool);
  }
}

function bar(node, share) {
  const width = `${Math.round(share * 1000) / 10}%`;
  if (node.dataset.width === width) return;
  node.dataset.width = width;
  node.style.setProperty("--to", width);
}

// What this Envoy counted: the gray share of the last minute, and errors with the time they were last seen to grow.
// Answers a pool's share in words.
function count(counters) {
  const now = Date.now(), gray = {};
  let [inside, outside] = [0, 0];
  for (const [name, n] of Object.entries(counters)) {
    const [kind, ...labels] = name.split(";");
    const { pool, choice, outcome, reason } = Object.fromEntries(labels.map((label) => label.split("=")));
    if (kind === "gray.requests") {
      (gray[pool] ??= { in: 0, out: 0 })[choice] = n;
      if (choice === "in") inside += n; else outside += n;
    }
    const failed = outcome === "rejected" || outcome === "traditional" && !["out_of_percentage", "no_pool", "shadow"].includes(reason) || ["redis_error", "pipe.lost", "drift", "lease.lost", "lease.release_dropped", "breaker.opened", "shadow.failed", "behind"].includes(kind);
    const text = [outcome ?? kind, reason].filter(Boolean).join(": ").replace(/_/g, " ") + (pools.size > 1 && pool ? `, pool ${pool}` : "");
    const before = errors.get(name);
    if (failed && before?.n !== n) errors.set(name, { n, text, at: history.length ? now : 0 });
  }
  history = [...history.filter((one) => now - one.now < 60000), { now, gray }];
  put($("#counts"), `${inside + outside} requests since it began: ${inside} in the gray release, ${outside} out`);
  const list = [...errors.values()].sort((a, b) => b.at - a.at || b.n - a.n).slice(0, 12);
  const rows = list.map(({ n, text, at }) => [text, `${n}`, at ? `${Math.round((now - at) / 1000)} s ago` : "before this page"]);
  const body = $("#errors tbody");
  while (body.rows.length < rows.length) { const row = body.insertRow(); for (const _ of rows[0]) row.insertCell(); }
  rows.forEach((texts, place) => texts.forEach((text, cell) => put(body.rows[place].cells[cell], text)));
  put($("#errors caption"), `${rows.length ? "Errors" : "No errors"} since it began`);
  return (pool) => {
    const [more, less] = ["in", "out"].map((choice) => (gray[pool]?.[choice] ?? 0) - (history[0].gray[pool]?.[choice] ?? 0));
    return more + less ? `${Math.round(more / (more + less) * 1000) / 10} % seen here in the last minute` : "no requests here in the last minute";
  };
}

let timer, seenAt = 0, looking = false;
async function look() {
  if (looking) return;
  looking = true;
  clearTimeout(timer);
  try {
    const status = await ask("/api/status");
    show(status);
    seenAt = Date.now();
    put($("#live"), `live${status.writable ? "" : ", read-only: no token is configured"}`);
    $("#live").className = "";
  } catch (error) {
    const since = seenAt ? `; shown as of ${Math.round((Date.now() - seenAt) / 1000)} s ago` : "";
    put($("#live"), `${error.message ?? error}${since}`);
    $("#live").className = "bad";
  }
  looking = false;
  if (!document.hidden) timer = setTimeout(look, 1000);
}
document.addEventListener("visibilitychange", () => document.hidden || look());
$("#key").onclick = () => login(token ? "There is one already." : "");
$("#login [type=button]").onclick = () => $("#login").close();
look();
