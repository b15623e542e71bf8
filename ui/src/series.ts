// Time series for charts: steps, stacking, rates. Pure.

import type { Series, SeriesAnswer } from "./wire";

/** The time that one profile covers. */
export const windowSeconds = 10;

/** Multiples of it: other steps would beat with it. */
const steps = [10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400];

/** The step in seconds for at most `points` points. */
export function stepFor(fromMs: number, toMs: number, points: number): number {
  const want = (toMs - fromMs) / 1e3 / points;
  return steps.find((s) => s >= want) ?? Math.ceil(want / 86400) * 86400;
}

export interface Line {
  label: string;
  /** Per step; 0 where there was no profile. */
  values: Float64Array;
  sum: number;
}

export interface Grid {
  /** Unix milliseconds of each step's start. */
  times: number[];
  lines: Line[];
}

/** A step's value as a rate: cores for CPU time, per second for counts. */
export function rate(value: number, unit: string, stepMs: number): number {
  return unit === "nanoseconds" ? value / (stepMs * 1e6) : value / (stepMs / 1e3);
}

export function rateUnit(unit: string): string {
  return unit === "nanoseconds" ? "cores" : "per s";
}

/** The rate of each series in the newest step. Other machines may still be filling that one, so it is the step before where there is one. */
export function latest(answer: SeriesAnswer, by: string): Map<string, number> {
  const times = [...new Set(answer.series.flatMap((s) => s.points.map(([t]) => t)))].sort((a, b) => b - a);
  const at = times[1] ?? times[0];
  return new Map(answer.series.map((s) => [s.labels[by] ?? "", rate(s.points.find(([t]) => t === at)?.[1] ?? 0, answer.unit, answer.step_ms)]));
}

/** Puts series on a common grid of whole steps in [from, to), largest sum first. A last step that is not over yet is left out. */
export function grid(answer: SeriesAnswer, fromMs: number, toMs: number, by: string): Grid {
  const step = answer.step_ms;
  const first = Math.floor(fromMs / step) * step;
  const times: number[] = [];
  for (let t = first; t < toMs && (t + step <= toMs || times.length === 0); t += step) times.push(t);
  const lines = answer.series.map((s) => onGrid(s, first, step, times.length, answer.unit, by));
  lines.sort((a, b) => b.sum - a.sum || (a.label < b.label ? -1 : 1));
  return { times, lines };
}

function onGrid(s: Series, first: number, step: number, n: number, unit: string, by: string): Line {
  const values = new Float64Array(n);
  let sum = 0;
  for (const [time, value] of s.points) {
    const k = Math.floor((time - first) / step);
    if (k < 0 || k >= n) continue;
    values[k] = values[k]! + rate(value, unit, step);
    sum += value;
  }
  return { label: s.labels[by] ?? "", values, sum };
}

/** The largest lines, and the rest added up as one. */
export function largest(lines: Line[], n: number): Line[] {
  if (lines.length <= n) return lines;
  const rest = lines.slice(n - 1);
  const values = new Float64Array(rest[0]!.values.length);
  for (const line of rest) line.values.forEach((v, k) => (values[k] = values[k]! + v));
  return [...lines.slice(0, n - 1), { label: `${rest.length} others`, values, sum: rest.reduce((a, l) => a + l.sum, 0) }];
}
