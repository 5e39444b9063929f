// Changes that an operator makes, and the dialog that asks for the token.
import { ask, hasToken, keepName, operatorName, tryToken } from "./api.js";
import { $, put } from "./dom.js";
import { notify, notifyError } from "./notice.js";

// Sent to the document after each change, so that the page shows what came of it.
export const CHANGED = "slotgate:changed";

// Makes a change and says what came of it: `describe` puts the answer into plain words.
// Without the right token it asks for one, then tries again.
export async function change(action, body, describe) {
  try {
    const by = operatorName();
    notify(describe(await ask(`/api/${action}`, by ? { ...body, by } : body)));
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

// Asks for the token and the operator's name. Neither is kept before the console has taken the token.
export function askForToken(why, then) {
  const [dialog, form] = [$("#login"), $("#login form")];
  const [token, name, use, cancel] = form.elements;
  put($("#wrong"), why);
  token.value = "";
  name.value = operatorName();
  form.onsubmit = async (event) => {
    event.preventDefault();
    if (!token.value && !hasToken()) return put($("#wrong"), "A change needs the token.");
    use.disabled = true;
    try {
      await tryToken(token.value);
      keepName(name.value);
      dialog.close();
      then?.();
    } catch (error) {
      put($("#wrong"), error.status === 401 ? "The token is wrong." : `Not tested: ${error.message}`);
      token.select();
    }
    use.disabled = false;
  };
  cancel.onclick = () => dialog.close();
  if (!dialog.open) dialog.showModal();
}
