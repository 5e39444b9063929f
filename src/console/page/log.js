// What was changed in a pool lately, and by whom: the newest change in a line, which opens to show more.
import { $, put } from "./dom.js";
import { ago } from "./words.js";

// Shows the changes that the status listed at `now_ms` of Redis' clock, `since_ms` ago.
export function showLog(details, changes, now_ms, since_ms) {
  const age = ({ at_ms }) => ago(now_ms - at_ms + since_ms);
  const [newest] = changes;
  put($("summary", details), newest
    ? `Changed ${age(newest)} by ${who(newest)}: ${newest.text}`
    : "No change is known");
  const list = $("ol", details);
  while (list.children.length > changes.length) list.lastChild.remove();
  changes.forEach((change, place) => {
    const line = list.children[place] ?? list.appendChild(document.createElement("li"));
    put(line, `${age(change)} by ${who(change)}: ${change.text}`);
  });
}

function who({ by, what }) {
  return by ?? (what === "revision" ? "a configuration" : "somebody without a name");
}
