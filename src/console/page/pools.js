// One section for each pool: its sum, its queue, its gray share, its forms, and the table of its accounts.
import { newAccount, showAccount } from "./account.js";
import { setUpTermsForm } from "./terms.js";
import { change } from "./changes.js";
import { grayShareSeen } from "./counters.js";
import { $, all, byName, fill, fromTemplate, put } from "./dom.js";
import { explain, recall } from "./explain.js";
import { notifyError } from "./notice.js";
import { showQueue } from "./queue.js";

const pools = new Map();

// Shows every pool of the status.
export function showPools(status) {
  for (const seen of status.pools) {
    if (!pools.has(seen.pool)) pools.set(seen.pool, newPool(seen.pool));
    showPool(pools.get(seen.pool), seen, status.percent_configured);
  }
}

function newPool(name) {
  const pool = { section: fromTemplate("#pool"), name, accounts: new Map(), hasMore: false };
  const [grayForm, sessionForm, termsForm, recallForm] = all("form", pool.section);
  pool.edit = setUpTermsForm(pool, termsForm);
  setUpGrayForm(name, grayForm);
  setUpSessionForm(name, sessionForm);
  onSubmit(recallForm, () => recall(name, recallForm.elements[0].value.trim()));
  put($("h2", pool.section), `Pool ${name}`);
  $("[type=search]", pool.section).oninput = () => arrange(pool);
  $("select", pool.section).onchange = () => arrange(pool);
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
  pool.isLedgers = isLedgers;
  for (const account of seen.accounts) {
    if (!accounts.has(account.id)) {
      accounts.set(account.id, newAccount(name, account.id, pool.edit));
      $("tbody", section).append(accounts.get(account.id).row);
    }
    showAccount(accounts.get(account.id), account, isLedgers);
  }
  const ids = new Set(seen.accounts.map((account) => account.id));
  for (const [id, { row }] of accounts) {
    if (ids.has(id)) continue;
    row.remove();
    accounts.delete(id);
  }
  pool.hasMore = seen.more;
  const used = sum(seen.accounts.map((account) => account.used));
  const slots = sum(seen.accounts.map((account) => account.max_concurrency));
  put($(".sum", section), sumWords(seen, used, slots));
  fill($(".bar i", section), used / slots || 0);
  showQueue(section, seen.queue);
  put($(".gray", section), `${grayWords(seen.percent_override, percentConfigured)}, ${grayShareSeen(name)}`);
  arrange(pool);
}

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

function sumWords(seen, used, slots) {
  if (seen.error) return `It can't be read: ${seen.error}`;
  if (!seen.revision) return "Not in Redis yet: the filter creates it at its first request.";
  const counts = {};
  for (const { state } of seen.accounts) counts[state] = (counts[state] ?? 0) + 1;
  const states = Object.entries(counts).map(([state, count]) => `${count} ${state}`).join(", ");
  const flight = `${seen.leases.live} in flight`;
  const from = seen.accounts_from === "ledger" ? " · accounts from the ledger" : "";
  return `${used} of ${slots} slots used · ${flight} · ${states} · revision ${seen.revision}${from}`;
}

function grayWords(override, configured) {
  if (override !== null) return `${override} % asked by an operator`;
  return configured !== null ? `${configured} % asked as configured` : "as configured";
}

const ORDERS = {
  name: () => 0,
  load: (a, b) => b.load - a.load,
  state: (a, b) => byName(a.state, b.state),
};

// Hides the accounts that are not looked for, and puts the rows in order.
function arrange({ section, accounts, hasMore }) {
  const wanted = $("[type=search]", section).value.toLowerCase().trim();
  let found = 0;
  for (const { row, id, state } of accounts.values()) {
    row.hidden = !`${id} ${state}`.toLowerCase().includes(wanted);
    found += !row.hidden;
  }
  const more = hasMore ? ", and more that are not shown" : "";
  put($(".found", section), `${found} of ${accounts.size} accounts${more}`);
  const order = ORDERS[$("select", section).value];
  const rows = [...accounts.values()].sort((a, b) => order(a, b) || byName(a.id, b.id)).map(({ row }) => row);
  const body = $("tbody", section);
  const moved = rows.some((row, place) => body.rows[place] !== row);
  // A row that moves would lose the focus.
  if (moved && !body.contains(document.activeElement)) body.append(...rows);
}
