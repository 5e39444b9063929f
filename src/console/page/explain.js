// The dialog that answers questions: why an account of a pool would be taken now, and which way a request went.
import { ask } from "./api.js";
import { $, byName, put } from "./dom.js";
import { notify, notifyError } from "./notice.js";

export async function explain(pool, session) {
  try {
    const answer = await ask("/api/explain", { pool, session });
    const next = nextWords(answer);
    const text = session ? `${next} ${sessionWords(answer.session)}` : next;
    const accounts = answer.accounts.sort((a, b) => b.chance - a.chance || byName(a.id, b.id));
    $("#why tbody").replaceChildren(...accounts.map(accountRow));
    openDialog(`Why an account of ${pool} would be taken now`, text, true);
  } catch (error) {
    notifyError(`Not explained: ${error.message}`);
  }
}

// A lease's id has 24 hex digits, and a dot and 16 more if it has a tenant. A request's own id may look the same, so it
// is tried next.
export async function recall(pool, id) {
  notify("The workers are asked …");
  const askBy = (kind) => ask("/api/recall", { pool, [kind]: id });
  try {
    const isLease = /^[\da-f]{24}(\.[\da-f]{16})?$/.test(id);
    const answer = await (isLease ? askBy("lease").catch(() => askBy("request")) : askBy("request"));
    notify("");
    openDialog(`Which way ${id} went`, recallWords(answer), false);
  } catch (error) {
    notifyError(`Not found out: ${error.message}${error.try ? `; ${error.try}` : ""}`);
  }
}

function openDialog(title, text, withTable) {
  put($("#why h2"), title);
  put($("#why p"), text);
  $("#why table").hidden = !withTable;
  $("#why").showModal();
}

function nextWords({ next, queue: { waiting } }) {
  return {
    bound: `The next request takes ${next.account}, the session's own.`,
    score: "The lowest score wins.",
    saturated: `No account can take a request now${waiting ? `; ${waiting} wait already` : ""}.`,
  }[next.outcome];
}

function sessionWords(session) {
  return session?.bound_to ? `The session is bound to ${session.bound_to}.` : "The session is bound to no account.";
}

function accountRow(account) {
  const { id, chance, score } = account;
  const row = document.createElement("tr");
  put(row.insertCell(), id);
  put(row.insertCell(), chance > 0 ? `${(chance * 100).toFixed(1)} %` : "–");
  put(row.insertCell(), `${score.priority.toFixed(3)} + ${score.load.toFixed(3)}`);
  put(row.insertCell(), reasonWords(account));
  return row;
}

function reasonWords(account) {
  if (!account.can_take) return account.against.join("; ");
  if (account.bound) return "the session is bound to it";
  return account.chance > 0 ? "can take it" : "can take it, but another wins";
}

function recallWords({ way, reason, pool, account, bucket, percent, waited_ms, ago_ms, lease }) {
  const ofPool = pool ? ` of pool ${pool}` : "";
  const where = {
    atomic: `It took a slot of ${account}${ofPool}`,
    local: `It was sent to ${account}${ofPool}, which its worker chose`,
    traditional: `It went the traditional way${ofPool}`,
    rejected: `It was answered here${ofPool}`,
    waiting: `It waits for a slot${ofPool}`,
    undecided: "It still waits for the answer to its acquire",
  }[way];
  const why = reason ? `: ${reason.replace(/_/g, " ")}` : "";
  const isIn = bucket < percent * 100 ? "in" : "out";
  const gray = bucket === null ? "By no bucket" : `Its bucket ${bucket} is ${isIn} at ${percent} %`;
  const seconds = (ms) => (ms / 1000).toFixed(1);
  const isOpen = way === "waiting" || way === "undecided";
  const when = isOpen
    ? `it came ${seconds(waited_ms)} s ago.`
    : `decided after ${waited_ms} ms, ${seconds(ago_ms)} s ago.`;
  return `${where}${why}. ${gray}; ${when}${lease ? ` Lease ${lease}.` : ""}`;
}
