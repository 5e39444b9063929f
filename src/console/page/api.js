// Requests to the console's API, and the token that changes need.

const TIMEOUT_MS = 9000;
const STORED_AS = { token: "slotgate", operator: "slotgate.operator" };
const MOST_NAME = 64;
let token = sessionStorage.getItem(STORED_AS.token) ?? "";
let operator = sessionStorage.getItem(STORED_AS.operator) ?? "";

export const hasToken = () => token !== "";

// The name under which changes are noted; empty: none.
export const operatorName = () => operator;

// Keeps a token in this tab alone once the console takes it; empty: the one that is kept already. Throws as `ask`.
export async function tryToken(typed) {
  // A header takes printable ASCII only.
  const given = typed.replace(/[^ -~]/g, "").trim() || token;
  await ask("/api/token", {}, given);
  token = given;
  sessionStorage.setItem(STORED_AS.token, token);
}

// Keeps the operator's name in this tab alone, as many bytes of it as the console takes.
export function keepName(typed) {
  operator = typed.replace(/[\0-\x1f\x7f-\x9f]/g, "").trim();
  while (new TextEncoder().encode(operator).length > MOST_NAME) operator = [...operator].slice(0, -1).join("");
  sessionStorage.setItem(STORED_AS.operator, operator);
}

// Gets a path, or posts a body to it. Returns the reply's JSON; throws {message}, with status, kind and try if known.
export async function ask(path, body, as = token) {
  const reply = await fetch(path, { ...(body ? post(body, as) : {}), signal: AbortSignal.timeout(TIMEOUT_MS) })
    .catch(() => { throw { message: "the console can't be reached" }; });
  const answer = await reply.json().catch(() => ({}));
  if (!reply.ok) throw { status: reply.status, message: `status ${reply.status}`, ...answer.error };
  return answer;
}

function post(body, as) {
  const headers = { "content-type": "application/json" };
  if (as) headers.authorization = `Bearer ${as}`;
  return { method: "POST", headers, body: JSON.stringify(body) };
}
