// One section for each pool: its sum, its queue, its gray share, its forms, and the table of its accounts.
import { newAccount, removeAccount, showAccount } from "./account.js";
import { setUpTermsForm } from "./terms.js";
import { change } from "./changes.js";
import { grayShareSeen } from "./counters.js";
import { $, all, byName, fill, fromTemplate, put } from "./dom.js";
import { explain, recall } from "./explain.js";
import { showLog } from "./log.js";
import { notifyError } from "./notice.js";
import { placeParts } from "./phone.js";
import { showQueue } from "./queue.js";
import { newTrends, showRates, showTrends } from "./trends.js";

// A pool with more accounts than this has many.
const FEW = 20;
// The figures of a pool that can't be read.
const UNKNOWN = { used: NaN, slots: 0, waiting: NaN, longest_wait_ms: NaN };
// A pool is called busy when less than this share of its slots is free.
const BUSY = 0.25;

const pools = new Map();

// Shows every pool of the status.
export function showPools(status) {
  for (const seen of status.pools) {
    if (!pools.has(seen.pool)) pools.set(seen.pool, newPool(seen.pool));
    showPool(pools.get(seen.pool), seen, status.percent_configured);
  }
}

// Shows what grows by itself: what this Envoy counted, and how old the changes are. The status came `since_ms` ago.
export function showGrowing(since_ms) {
  for (const { section, name, trends, seen } of pools.values()) {
    showRates(trends, name);
    showLog($(".log", section), seen.changes, seen.redis_time_ms, since_ms);
  }
}

function newPool(name) {
  const pool = { section: fromTemplate("#pool"), name, accounts: new Map(), sorted: [], hasMore: false };
  const [grayForm, sessionForm, recallForm, termsForm] = all("form", pool.section);
  pool.trends = newTrends($(".trends", pool.section));
  const edit = setUpTermsForm(pool, termsForm);
  pool.edit = (id) => {
    $(".controls", pool.section).open = true;
    edit(id);
  };
  setUpGrayForm(name, grayForm);
  setUpSessionForm(name, sessionForm);
  onSubmit(recallForm, () => recall(name, recallForm.elements[0].value.trim()));
  put($("h2", pool.section), `Pool ${name}`);
  $("[type=search]", pool.section).oninput = () => arrange(pool);
  $(".finder select", pool.section).onchange = () => arrange(pool);
  placeParts(pool.section);
  $("main").append(pool.section);
  return pool;
}

function onSubmit(form, action) {
  form.onsubmit = (event) => {
    event.preventDefault();
    action();
  };
}

function setUpGrayForm(pool, form) {
  const [input, , asConfigured] = form.elements;
  const words = (percent) => percent === null ? "as configured" : `${percent} %`;
  const set = (percent) => change("percent", { pool, percent }, (answer) => {
    const { old: before, new: now } = answer.pools[0];
    return `Gray share of ${pool}: ${words(now)}, was ${words(before)}.`;
  });
  onSubmit(form, () => {
    const text = input.value.trim();
    if (/^-?\d+(\.\d+)?$/.test(text)) return set(Number(text));
    notifyError("Nothing was changed: a share is a number from 0 to 100, such as 12.5");
  });
  asConfigured.onclick = () => set(null);
}

function setUpSessionForm(pool, form) {
  const [input, , explainButton] = form.elements;
  const words = ({ changed, was }) => changed
    ? `The session is no longer bound to ${was}: its next request binds it anew.`
    : "The session was not bound.";
  onSubmit(form, () => change("unbind", { pool, session: input.value }, words));
  explainButton.onclick = () => explain(pool, input.value);
}

function showPool(pool, seen, percentConfigured) {
  const { section, accounts, name } = pool;
  const isLedgers = seen.accounts_from === "ledger";
  Object.assign(pool, { isLedgers, seen });
  for (const account of seen.accounts) {
    if (!accounts.has(account.id)) {
      pool.sorted = null;
      accounts.set(account.id, newAccount(name, account.id, pool.edit));
      $("tbody", section).append(accounts.get(account.id).row);
    }
    showAccount(accounts.get(account.id), account, isLedgers);
  }
  const ids = new Set(seen.accounts.map((account) => account.id));
  for (const [id, account] of accounts) {
    if (ids.has(id)) continue;
    removeAccount(account);
    pool.sorted = null;
    accounts.delete(id);
  }
  pool.hasMore = seen.more;
  pool.sorted ??= [...accounts.values()].sort((a, b) => byName(a.id, b.id));
  const used = sum(seen.accounts.map((account) => account.used));
  const slots = sum(seen.accounts.map((account) => account.max_concurrency));
  section.classList.toggle("many", seen.accounts.length > FEW);
  const free = sum(seen.accounts.map(freeSlots));
  put($(".sum", section), sumWords(seen, used, slots, free));
  fill($(".bar i", section), used / slots || 0);
  $(".bar", section).className = `bar ${fullness(free, slots)}`;
  showTrends(pool.trends, seen.error ? UNKNOWN : { ...seen.queue, used, slots });
  showQueue(section, seen.queue);
  put($(".gray", section), `${grayWords(seen.percent_override, percentConfigured)}, ${grayShareSeen(name)}`);
  arrange(pool);
}

// Slots that can be taken now: none of an account that takes no requests, one of an account that is to be probed.
function freeSlots({ state, used, max_concurrency }) {
  const rest = Math.max(0, max_concurrency - used);
  return { free: rest, behind: rest, probe: Math.min(1, rest) }[state] ?? 0;
}

function fullness(free, slots) {
  if (!free && slots) return "full";
  return free < slots * BUSY ? "busy" : "roomy";
}

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

const STATES = ["free", "behind", "full", "probe", "probing", "paced", "cooling", "drained", "disabled", "removed"];

function sumWords(seen, used, slots, free) {
  if (seen.error) return `It can't be read: ${seen.error}`;
  if (!seen.revision) return "Not in Redis yet: the filter creates it at its first request.";
  const counts = new Map(STATES.map((state) => [state, 0]));
  for (const { state } of seen.accounts) counts.set(state, (counts.get(state) ?? 0) + 1);
  const states = [...counts].filter(([, count]) => count).map(([state, count]) => `${count} ${state}`);
  const flight = `${seen.leases.live} in flight`;
  const from = seen.accounts_from === "ledger" ? " · accounts from the ledger" : "";
  const total = seen.accounts.length;
  const accounts = `${total} ${total === 1 ? "account" : "accounts"}: ${states.join(", ")}`;
  return `${used} of ${slots} slots used, ${free} free · ${flight} · ${accounts} · revision ${seen.revision}${from}`;
}

function grayWords(override, configured) {
  if (override !== null) return `${override} % asked by an operator`;
  return configured !== null ? `${configured} % asked as configured` : "as configured";
}

const ORDERS = {
  name: () => 0,
  load: (a, b) => b.load - a.load,
  state: (a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state),
};

// Hides the accounts that are not looked for, and puts the rows in order.
function arrange({ section, accounts, hasMore, sorted }) {
  const wanted = $("[type=search]", section).value.toLowerCase().trim();
  let found = 0;
  for (const { row, id, state } of accounts.values()) {
    row.hidden = !`${id} ${state}`.toLowerCase().includes(wanted);
    found += !row.hidden;
  }
  const more = hasMore ? ", and more that are not shown" : "";
  put($(".found", section), `${found} of ${accounts.size} accounts${more}`);
  const order = ORDERS[$(".finder select", section).value];
  const rows = [...sorted].sort(order).map(({ row }) => row);
  const body = $("tbody", section);
  const moved = rows.some((row, place) => body.rows[place] !== row);
  // A row that moves would lose the focus.
  if (moved && !body.contains(document.activeElement)) body.append(...rows);
}
