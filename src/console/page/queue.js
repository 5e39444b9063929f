// A pool's queue: how many requests wait and for how long, and a row for each tenant that waits or holds slots.
import { $, put } from "./dom.js";

const MOST_TENANTS = 20;

const waitingWords = (waiting, ms) => waiting
  ? `${waiting} waiting, the first for ${Math.ceil(ms / 1000)} s`
  : "nobody waits";

// Shows what the status says of a pool's queue.
export function showQueue(section, { waiting, longest_wait_ms, tenants }) {
  put($(".queue", section), waitingWords(waiting, longest_wait_ms));
  const shown = tenants.slice(0, MOST_TENANTS);
  const table = $(".tenants", section);
  table.hidden = !shown.length;
  while (table.rows.length > shown.length) table.deleteRow(-1);
  shown.forEach((tenant, place) => showTenant(table.rows[place] ?? newRow(table), tenant));
}

function newRow(table) {
  const row = table.insertRow();
  row.insertCell();
  row.insertCell();
  return row;
}

function showTenant({ cells: [name, what] }, { tenant, leases, waiting, longest_wait_ms }) {
  put(name, tenant);
  put(what, `${leases} in flight, ${waitingWords(waiting, longest_wait_ms)}`);
}
