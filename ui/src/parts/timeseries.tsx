import { useEffect, useMemo, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { seriesColors } from "../flame/color";
import { digits } from "../format";
import { grid, largest, rateUnit } from "../series";
import { clock, rangeText } from "../time";
import type { SeriesAnswer } from "../wire";
import type { Range } from "./querybar";

interface Props {
  answer: SeriesAnswer;
  range: Range;
  by: string;
  sel: readonly [number, number] | null;
  dark: boolean;
  onSelect: (sel: [number, number] | null) => void;
  onPick: (label: string) => void;
  /** What the series can be split by. */
  labels: readonly string[];
  onGroup: (label: string) => void;
}

const maxLines = 9;
const height = 132;

/** Stacked CPU over time; dragging across it selects a range. */
export function TimeSeries({ answer, range, by, sel, dark, onSelect, onPick, labels, onGroup }: Props) {
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const handlers = useRef({ onSelect });
  handlers.current = { onSelect };
  const { times, lines, total } = useMemo(() => {
    const g = grid(answer, range.from, range.to, by);
    return { times: g.times, lines: largest(g.lines, maxLines), total: g.lines.reduce((a, l) => a + l.sum, 0) };
  }, [answer, by]);
  const colors = useMemo(() => seriesColors(lines.map((l) => l.label), dark), [lines, dark]);

  useEffect(() => {
    const el = host.current;
    if (!el) return;
    // Cumulative sums; the highest is drawn first and the others over it.
    const sums: number[][] = [];
    let below = new Array<number>(times.length).fill(0);
    for (const line of lines) {
      below = below.map((v, k) => v + line.values[k]!);
      sums.unshift(below);
    }
    const ink = dark ? "#a8a29e" : "#6b6560";
    const rule = dark ? "#2c2a28" : "#ebe8e4";
    const font = "11px ui-sans-serif, system-ui, sans-serif";
    const axis = { stroke: ink, font, grid: { stroke: rule, width: 1 }, ticks: { show: false } };
    const stepped = uPlot.paths.stepped?.({ align: 1 });
    const u = new uPlot(
      {
        width: el.clientWidth,
        height,
        padding: [8, 18, 0, 0],
        legend: { show: false },
        scales: {
          x: { time: true, range: [range.from / 1e3, range.to / 1e3] },
          y: { range: (_u, _min, max) => [0, max > 0 ? max * 1.1 : 1] },
        },
        axes: [
          { ...axis, size: 24, space: 90, values: (_u, splits) => splits.map((s) => tick(s * 1e3, range)) },
          { ...axis, size: 44, space: 28, values: (_u, splits) => splits.map((v) => (v === 0 ? "0" : digits(v))) },
        ],
        cursor: {
          y: false,
          points: { show: false },
          drag: { x: true, y: false, setScale: false },
          bind: {
            dblclick: () => () => {
              handlers.current.onSelect(null);
              return null;
            },
          },
        },
        series: [
          {},
          ...sums.map((_, k) => {
            const color = colors[lines.length - 1 - k]!;
            return { stroke: color, fill: color, width: 0, points: { show: false }, ...(stepped ? { paths: stepped } : {}) };
          }),
        ],
        hooks: {
          setSelect: [
            (u) => {
              if (u.select.width < 4) return;
              const at = (px: number) => Math.round(u.posToVal(px, "x"));
              const [from, to] = [at(u.select.left), at(u.select.left + u.select.width)];
              if (from < to) handlers.current.onSelect([from, to]);
            },
          ],
        },
      },
      [[...times.map((t) => t / 1e3), lastEnd(times, answer.step_ms)], ...sums.map((s) => [...s, s[s.length - 1] ?? 0])],
      el,
    );
    plot.current = u;
    show(u, sel);
    const observer = new ResizeObserver(() => {
      if (el.clientWidth !== u.width) u.setSize({ width: el.clientWidth, height });
      show(u, selected.current);
    });
    observer.observe(el);
    return () => {
      observer.disconnect();
      u.destroy();
      plot.current = null;
    };
  }, [lines, colors, dark]);

  const selected = useRef(sel);
  selected.current = sel;
  useEffect(() => {
    if (plot.current) show(plot.current, sel);
  }, [sel?.[0], sel?.[1]]);

  return (
    <figure class="series" aria-label={`CPU by ${by}`}>
      <div ref={host} class="plot" />
      <figcaption>
        <label class="inline">
          <span class="muted by">{rateUnit(answer.unit)} by</span>
          <select value={by} onChange={(e) => onGroup(e.currentTarget.value)}>
            {[...new Set([by, ...labels])].sort().map((l) => <option key={l} value={l}>{l}</option>)}
          </select>
        </label>
        <ul class="legend">
          {lines.map((l, i) => (
            <li key={l.label}>
              <button type="button" disabled={l.label === "" || i === maxLines - 1} title={l.label === "" ? `without ${by}` : `Show only ${l.label}`} onClick={() => onPick(l.label)}>
                <svg width="9" height="9" aria-hidden="true"><rect width="9" height="9" rx="2" fill={colors[i]} /></svg>
                {l.label === "" ? `no ${by}` : l.label} <span class="muted">{total > 0 ? Math.round((100 * l.sum) / total) : 0}%</span>
              </button>
            </li>
          ))}
        </ul>
        {sel ? (
          <button type="button" class="chip" onClick={() => onSelect(null)} title="Show the whole range">{rangeText(sel[0] * 1e3, sel[1] * 1e3)} ×</button>
        ) : (
          <span class="muted hint">drag to select a range</span>
        )}
      </figcaption>
    </figure>
  );
}

function lastEnd(times: number[], stepMs: number): number {
  return ((times[times.length - 1] ?? 0) + stepMs) / 1e3;
}

function tick(ms: number, range: Range): string {
  if (range.to - range.from > 2 * 86400e3) {
    const d = new Date(ms);
    return `${d.toLocaleDateString(undefined, { day: "numeric", month: "short" })} ${clock(ms).slice(0, 5)}`;
  }
  return range.to - range.from > 10 * 60e3 ? clock(ms).slice(0, 5) : clock(ms);
}

/** Draws a selection without firing the hook. */
function show(u: uPlot, sel: readonly [number, number] | null): void {
  const [min, max] = [u.scales["x"]?.min ?? 0, u.scales["x"]?.max ?? 0];
  if (!sel || sel[1] <= min || sel[0] >= max) {
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    return;
  }
  const left = u.valToPos(Math.max(sel[0], min), "x");
  const right = u.valToPos(Math.min(sel[1], max), "x");
  u.setSelect({ left, top: 0, width: right - left, height: u.over.clientHeight }, false);
}
