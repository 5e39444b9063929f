// Small pictures of a series: an area that is cut out of its node. Only those on the screen are drawn.
import { KEPT_MS, runsOf } from "./history.js";

const LEAST_HEIGHT = 6;
// By the node that is watched; the map holds those on the screen.
const onScreen = new Map();
const drawings = new WeakMap();

const observer = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) onScreen.delete(target);
    else if (drawings.has(target)) {
      onScreen.set(target, drawings.get(target));
      drawings.get(target)();
    }
  }
});

// Calls `draw` whenever there is something new, as long as the node is on the screen.
export function drawOnScreen(node, draw) {
  drawings.set(node, draw);
  observer.observe(node);
}

export function drawNoMore(node) {
  observer.unobserve(node);
  onScreen.delete(node);
}

export function drawAll() {
  for (const draw of onScreen.values()) draw();
}

// Draws a series up to `top`, the last five minutes from left to right.
export function drawSeries(node, series, top) {
  const corners = [];
  const now = Date.now();
  for (const run of runsOf(series)) {
    const places = run.map(({ at, value }) => ({
      x: `${(100 - (now - at) / KEPT_MS * 100).toFixed(1)}%`,
      y: `${(100 - Math.max(LEAST_HEIGHT, Math.min(1, value / top) * 100)).toFixed(1)}%`,
    }));
    corners.push(`${places[0].x} 100%`, ...places.map(({ x, y }) => `${x} ${y}`), `${places.at(-1).x} 100%`);
  }
  node.style.setProperty("clip-path", corners.length ? `polygon(${corners})` : "");
}
