// Requests to the console's API, and the token that changes need.

const TIMEOUT_MS = 9000;
const STORED_AS = "slotgate";
let token = sessionStorage.getItem(STORED_AS) ?? "";

export const hasToken = () => token !== "";

// Keeps the token in this tab alone. A header takes printable ASCII only.
export function keepToken(typed) {
  token = typed.replace(/[^ -~]/g, "").trim();
  sessionStorage.setItem(STORED_AS, token);
}

// Gets a path, or posts a body to it. Returns the reply's JSON; throws {message}, with status, kind and try if known.
export async function ask(path, body) {
  const reply = await fetch(path, { ...(body ? post(body) : {}), signal: AbortSignal.timeout(TIMEOUT_MS) })
    .catch(() => { throw { message: "the console can't be reached" }; });
  const answer = await reply.json().catch(() => ({}));
  if (!reply.ok) throw { status: reply.status, message: `status ${reply.status}`, ...answer.error };
  return answer;
}

function post(body) {
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  return { method: "POST", headers, body: JSON.stringify(body) };
}
