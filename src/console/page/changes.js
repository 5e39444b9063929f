// Changes that an operator makes, and the dialog that asks for the token.
import { ask, hasToken, keepToken } from "./api.js";
import { $, put } from "./dom.js";
import { notify, notifyError } from "./notice.js";

// Sent to the document after each change, so that the page shows what came of it.
export const CHANGED = "slotgate:changed";

// Makes a change and says what came of it: `describe` puts the answer into plain words.
// Without the right token it asks for one, then tries again.
export async function change(action, body, describe) {
  try {
    notify(describe(await ask(`/api/${action}`, body)));
    document.dispatchEvent(new Event(CHANGED));
  } catch (error) {
    const nothing = error.kind === "in_doubt" ? "" : "Nothing was changed: ";
    if (error.status === 401) {
      notifyError(nothing + error.message);
      const why = hasToken() ? "The token is wrong." : "A change needs the token.";
      return askForToken(why, () => change(action, body, describe));
    }
    notifyError(nothing + error.message + (error.try ? `; try ${error.try}` : ""));
  }
}

export function askForToken(why, then) {
  const [dialog, input] = [$("#login"), $("#login input")];
  put($("#wrong"), why);
  input.value = "";
  $("#login form").onsubmit = () => {
    keepToken(input.value);
    if (hasToken()) then?.();
  };
  $("#login [type=button]").onclick = () => dialog.close();
  if (!dialog.open) dialog.showModal();
}
