// Figures of the last five minutes. All series share their points in time, one for each answer of the console.

export const KEPT_MS = 300_000;
const POINTS = 300;
// Between points that are further apart nothing is known.
const GAP_MS = 10_000;
const times = new Float64Array(POINTS);
let newest = 0;

export function beginPoint(now) {
  newest += 1;
  times[newest % POINTS] = now;
}

export const newSeries = () => ({ values: new Float32Array(POINTS).fill(NaN), last: newest });

// Writes a series' value at the newest point. NaN: it is not known.
export function record(series, value) {
  for (let n = Math.max(series.last + 1, newest - POINTS + 1); n < newest; n += 1) series.values[n % POINTS] = NaN;
  series.values[newest % POINTS] = value;
  series.last = newest;
}

// A series' points as runs without a gap, the oldest first: [[{at, value}]].
export function runsOf(series) {
  const [runs, now] = [[], times[newest % POINTS]];
  let before = -1;
  for (let n = Math.max(1, newest - POINTS + 1); n <= series.last; n += 1) {
    const [at, value] = [times[n % POINTS], series.values[n % POINTS]];
    if (Number.isNaN(value) || now - at > KEPT_MS) continue;
    if (n !== before + 1 || at - runs.at(-1).at(-1).at > GAP_MS) runs.push([]);
    runs.at(-1).push({ at, value });
    before = n;
  }
  return runs;
}
