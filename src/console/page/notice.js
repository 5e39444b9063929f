// The line at the bottom that says what came of the last action. It goes away by itself.
import { $, put } from "./dom.js";

const SHOWN_MS = 8000;
let timer;

export function notify(text) {
  showNotice(text, "");
}

export function notifyError(text) {
  showNotice(text, "bad");
}

function showNotice(text, className) {
  clearTimeout(timer);
  $("#notice").className = className;
  put($("#notice"), text);
  timer = setTimeout(() => put($("#notice"), ""), SHOWN_MS);
}
