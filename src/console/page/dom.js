// The document's nodes: finding them, making them, and writing text into them.

export const $ = (query, within = document) => within.querySelector(query);

export const all = (query, within = document) => [...within.querySelectorAll(query)];

export const fromTemplate = (query) => $(query).content.firstElementChild.cloneNode(true);

// Characters that could forge a line, or hide or turn round what is read. The same as in src/printable.rs.
const harmful = /[\0-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

// Writes text into a node, with an escape for each harmful character. Text gets onto the page here and nowhere else.
export function put(node, given) {
  const text = given.replace(harmful, (char) => `\\u{${char.charCodeAt(0).toString(16)}}`);
  if (node.textContent !== text) node.textContent = text;
}

// Fills a bar to a share from 0 to 1.
export function fill(bar, share) {
  const width = `${Math.round(share * 1000) / 10}%`;
  if (bar.dataset.width === width) return;
  bar.dataset.width = width;
  bar.style.setProperty("--to", width);
}

export const byName = new Intl.Collator("en", { numeric: true }).compare;
