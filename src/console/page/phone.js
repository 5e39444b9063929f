// Where a pool's parts go: on a phone its accounts come first, and its controls are folded.
import { $ } from "./dom.js";

const phone = matchMedia("(max-width: 56rem)");
const sections = new Set();

// Puts a pool's parts in order, now and whenever the screen changes.
export function placeParts(section) {
  sections.add(section);
  place(section);
  const more = $(".more", section);
  $(".jump", section).onclick = () => {
    more.scrollIntoView();
    $("summary", more).focus({ preventScroll: true });
  };
}

function place(section) {
  const [accounts, more] = [$(".accounts", section), $(".more", section)];
  if (phone.matches) more.before(accounts);
  else more.after(accounts);
  $(".controls", section).open = !phone.matches;
}

phone.onchange = () => sections.forEach(place);
