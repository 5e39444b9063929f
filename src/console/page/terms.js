// The form that changes what an account has: its slots, its priority, its pace, and whether it takes leases.
import { change } from "./changes.js";
import { notifyError } from "./notice.js";

// Sets up a pool's form. Returns what fills an account's id in.
export function setUpTermsForm(pool, form) {
  const [account, slots, priority, pace, takes, , reset, remove] = form.elements;
  const send = (what, terms) =>
    change("account", { pool: pool.name, account: account.value.trim(), change: what, ...terms }, outcomeWords);
  form.onsubmit = (event) => {
    event.preventDefault();
    const fields = { max_concurrency: number(slots), priority: number(priority) };
    if (Object.values(fields).some(Number.isNaN)) {
      return notifyError("Nothing was changed: slots and priority are whole numbers");
    }
    if (pace.value.trim()) fields.pace = pace.value.trim();
    if (takes.value) fields.enabled = takes.value === "yes";
    send(pool.isLedgers ? "add" : "set", fields);
  };
  reset.onclick = () => form.reportValidity() && send("reset", {});
  remove.onclick = () => form.reportValidity() && send("remove", {});
  return (id) => {
    form.reset();
    account.value = id;
    slots.focus();
  };
}

// Null when nothing is typed, NaN when it is no whole number.
function number(input) {
  const text = input.value.trim();
  if (!text) return null;
  return /^\d{1,9}$/.test(text) ? Number(text) : NaN;
}

function outcomeWords({ account, outcome, now }) {
  const words = {
    added: `is added, with ${now?.max_concurrency} slots`,
    removed: "is removed: it takes no new requests, and those that use it now will finish",
    missing: "was not there",
    same: "was so already",
    reset: "is as it came",
    changed: `has ${now?.max_concurrency} slots${now?.enabled ? "" : ", and takes no leases"}`,
  };
  return `${account} ${words[outcome]}.`;
}
