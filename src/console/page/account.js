// One account's row in its pool's table: its use and state, and its three buttons.
import { change } from "./changes.js";
import { $, all, fill, fromTemplate, put } from "./dom.js";
import { newSeries, record } from "./history.js";
import { MINUTE_MS, RATE_MS, accountGrowth, perMinute, perSecond } from "./rates.js";
import { drawNoMore, drawOnScreen, drawSeries } from "./sparkline.js";

// Makes an empty row for an account of a pool; `edit` is called with its id.
export function newAccount(pool, id, edit) {
  const account = { row: fromTemplate("#account"), id, pool, series: newSeries() };
  drawOnScreen(account.row, () => drawAccount(account));
  const [drain, endCooldown, editButton] = all("button", account.row);
  editButton.onclick = () => edit(id);
  put($("th", account.row), id);
  drain.onclick = () => {
    const action = account.state === "drained" ? "undrain" : "drain";
    change(action, { pool, account: id }, (answer) => drainWords(answer, account));
  };
  endCooldown.onclick = () => change("cooldown_clear", { pool, account: id }, (answer) =>
    answer.changed ? `${id} no longer cools.` : `${id} was not cooling.`);
  return account;
}

function drainWords(answer, { id, used }) {
  if (answer.action !== "drain") return `${id} takes requests again.`;
  return `${id} is drained: it takes no new requests; those that use it now, ${used}, will finish.`;
}

// Takes in what the status says of an account. Of thousands only those on the screen are written each time.
export function showAccount(account, seen, isLedgers) {
  const { state, used, max_concurrency } = seen;
  const isNew = account.state !== state;
  Object.assign(account, { seen, isLedgers, state, used, load: used / max_concurrency });
  record(account.series, used);
  if (isNew) writeAccount(account);
}

function drawAccount(account) {
  if (account.written !== account.seen) writeAccount(account);
  drawSeries($(".chart i", account.row), account.series, account.seen.max_concurrency);
}

function writeAccount(account) {
  const { row, seen, isLedgers } = account;
  const { state, used, max_concurrency, cooling_ms, out_of_use, pace, set } = seen;
  account.written = seen;
  if (row.className !== state) row.className = state;
  fill($(".bar i", row), account.load);
  put($(".used", row), `${used} / ${max_concurrency}`);
  const why = out_of_use && state === "disabled" ? `${state} after ${out_of_use.why}` : state;
  const words = [cooling_ms ? `${why}, ${Math.ceil(cooling_ms / 1000)} s` : why];
  if (pace) words.push(`pace ${pace}`);
  if (set && !isLedgers) words.push("set by an operator");
  const refused = accountGrowth(account.pool, account.id, "refused", MINUTE_MS);
  if (refused.by) words.push(`refused ${perMinute(refused)}`);
  put($(".rate", row), perSecond(accountGrowth(account.pool, account.id, "requests", RATE_MS)));
  put($(".state", row), words.join(" · "));
  const [drain, endCooldown] = all("button", row);
  put(drain, state === "drained" ? "Undrain" : "Drain");
  endCooldown.disabled = !cooling_ms && !out_of_use;
}

export function removeAccount({ row }) {
  drawNoMore(row);
  row.remove();
}
