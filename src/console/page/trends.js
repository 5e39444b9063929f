// A pool's figures over the last five minutes, each with its newest value, its highest, and a small picture.
import { $, fromTemplate, put } from "./dom.js";
import { newSeries, record, runsOf } from "./history.js";
import { RATE_MS, perSecond, poolGrowth } from "./rates.js";
import { drawOnScreen, drawSeries } from "./sparkline.js";

const RATES = ["granted", "refused", "fallbacks"];
const seconds = (value) => `${Math.ceil(value)} s`;
const rate = (value) => perSecond({ by: value, seconds: 1 });
// By its name on the page: what it is called in the style, and its values in words.
const FIGURES = {
  used: ["used", String],
  waiting: ["waiting", String],
  "longest wait": ["waiting", seconds],
  granted: ["granted", rate],
  refused: ["refused", rate],
  fallbacks: ["fallbacks", rate],
};

// Makes the figures of a pool; `showTrends` and `showRates` fill them.
export function newTrends(node) {
  const trends = {};
  for (const [name, [className, words]] of Object.entries(FIGURES)) {
    const figure = { node: fromTemplate("#trend"), series: newSeries(), words, slots: 0 };
    figure.node.classList.add(className);
    put($("span", figure.node), name);
    drawOnScreen(figure.node, () => drawFigure(figure));
    node.append(figure.node);
    trends[name] = figure;
  }
  return trends;
}

function drawFigure({ node, series, words, slots }) {
  const values = runsOf(series).flat().map(({ value }) => value);
  const most = Math.max(0, ...values);
  put($("small", node), values.length ? `most ${words(most)}` : "");
  drawSeries($("i", node), series, slots || Math.max(1, most));
}

function add(figure, value) {
  record(figure.series, value);
  put($("strong", figure.node), Number.isNaN(value) ? "–" : figure.words(value));
}

// Adds what a pool's status says.
export function showTrends(trends, { used, slots, waiting, longest_wait_ms }) {
  trends.used.slots = slots;
  add(trends.used, used);
  add(trends.waiting, waiting);
  add(trends["longest wait"], longest_wait_ms / 1000);
}

// Adds what this Envoy counted.
export function showRates(trends, pool) {
  for (const key of RATES) {
    const { by, seconds: span } = poolGrowth(pool, key, RATE_MS);
    add(trends[key], span ? by / span : NaN);
  }
}
