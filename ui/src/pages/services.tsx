import { useCallback, useMemo, useState } from "preact/hooks";
import { apiUrl, getJson } from "../api";
import { digits } from "../format";
import { useLoad } from "../load";
import { change, follow, href } from "../location";
import { previousPeriod } from "../parts/commands";
import { Empty, ErrorNote } from "../parts/notices";
import { SearchField, useMatches } from "../parts/search";
import { RangePicker, Refresh, type Range } from "../parts/querybar";
import { equals } from "../selector";
import { latest, rate, rateUnit, stepFor, windowSeconds } from "../series";
import { agoText, unixSeconds } from "../time";
import { defaults, type State } from "../url";
import type { SeriesAnswer } from "../wire";
import { useRange } from "./explore";

const points = 60;
/** What goes on now is read from the last windows of this time: a step of the picture is a minute and more. */
const recentMs = 60e3;
const by = "service_name";
/** A machine that builds software has hundreds of services; the busy ones are what one comes for. */
const firstRows = 100;

interface Service {
  name: string;
  /** Per step of the window, as a rate. */
  line: number[];
  /** The rate in the last 10 s that every machine has sent. */
  now: number;
  mean: number;
  /** Mean of the window before; null if nothing at all was stored then. */
  before: number | null;
  /** Unix milliseconds of the end of its last step with a profile. */
  seen: number;
}

/** Splits an answer over two windows into the present one and the one before. Busiest of the present one first. */
export function services(answer: SeriesAnswer, recent: SeriesAnswer, range: Range): Service[] {
  const step = answer.step_ms;
  const first = Math.floor(range.from / step) * step;
  const n = Math.ceil((range.to - first) / step);
  let newest = -Infinity;
  let oldest = Infinity;
  for (const s of answer.series) {
    for (const [t] of s.points) {
      newest = Math.max(newest, t);
      oldest = Math.min(oldest, t);
    }
  }
  // The newest step is still being filled, and would look like a fall.
  const last = newest - step >= Math.max(oldest, first) ? newest - step : newest;
  const now = latest(recent, by);
  const comparable = oldest < first - (range.to - range.from) / 2;
  const out: Service[] = [];
  for (const s of answer.series) {
    const line = new Array<number>(n).fill(0);
    let sum = 0;
    let sumBefore = 0;
    let seen = 0;
    for (const [t, v] of s.points) {
      const r = rate(v, answer.unit, step);
      seen = Math.max(seen, t + step);
      if (t < first) sumBefore += r;
      else if (t < range.to) {
        line[Math.floor((t - first) / step)] = r;
        sum += r;
      }
    }
    if (sum === 0) continue;
    if (newest === last + step) line.length = Math.min(n, (last - first) / step + 1);
    const name = s.labels[by] ?? "";
    out.push({ name, line, now: now.get(name) ?? 0, mean: sum / n, before: comparable ? sumBefore / n : null, seen: Math.min(seen, range.to) });
  }
  return out.sort((a, b) => b.mean - a.mean || (a.name < b.name ? -1 : 1));
}

const none: readonly Service[] = [];

export function Services({ state }: { state: State }) {
  const [tick, setTick] = useState(0);
  const reload = useCallback(() => setTick((k) => k + 1), []);
  const range = useRange(state.from, state.to, tick);
  const seriesUrl = (from: number, step: number) =>
    apiUrl("series", { type: state.type, by, step: `${step}s`, from: unixSeconds(from), to: unixSeconds(range.to) });
  const url = seriesUrl(2 * range.from - range.to, stepFor(range.from, range.to, points));
  const loaded = useLoad(url, async (signal) => {
    const [answer, recent] = await Promise.all([
      getJson<SeriesAnswer>(url, signal),
      getJson<SeriesAnswer>(seriesUrl(range.to - recentMs, windowSeconds), signal),
    ]);
    return { answer, list: services(answer, recent, range) };
  }, tick);
  const list = loaded.data?.list ?? none;
  const names = useMemo(() => list.map((s) => s.name), [list]);
  const { bits, error } = useMatches(names, state.search);
  const found = bits ? list.filter((_, i) => bits[i]) : list;
  const [all, setAll] = useState(false);
  const rows = all ? found : found.slice(0, firstRows);
  const highest = useMemo(() => list.reduce((most, s) => Math.max(most, ...s.line), 0), [list]);
  return (
    <main class="page" aria-busy={loaded.loading}>
      <div class="page-head">
        <h1>Services</h1>
        <span class="grow" />
        <SearchField search={state.search} error={error} what="services" />
        <RangePicker from={state.from} to={state.to} range={range} onChange={(from, to) => change({ from, to, sel: null })} />
        <Refresh state={state} loading={loaded.loading} reload={reload} />
      </div>
      {loaded.failure && <ErrorNote what="Not loaded" failure={loaded.failure} retry={loaded.retry} />}
      {list.length > 0 && (
        <table class={loaded.loading ? "list stale" : "list"}>
          <thead>
            <tr>
              <th scope="col">Service</th>
              <th scope="col" class="spark">CPU</th>
              <th scope="col" class="num" title="Of the whole range">Mean, {rateUnit(loaded.data!.answer.unit)}</th>
              <th scope="col" class="num now" title="Of the last ten seconds that are in">Now</th>
              <th scope="col" class="num" title="Mean against the window of the same length before">Change</th>
              <th scope="col" class="num seen">Last seen</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((s) => {
              const of = { ...state, q: equals(by, s.name), sel: null, zoom: [], f: [], name: "", search: "" };
              return (
                <tr key={s.name}>
                  <td class="service"><a href={href("/explore", of)} onClick={follow}>{s.name === "" ? "without a service name" : s.name}</a></td>
                  <td class="spark"><Sparkline values={s.line} max={highest} /></td>
                  <td class="num">{digits(s.mean)}</td>
                  <td class="num now">{digits(s.now)}</td>
                  <td class="num"><Change now={s.mean} before={s.before} diff={href("/diff", previousPeriod(of, range.now))} /></td>
                  <td class="num muted seen">{agoText(s.seen, range.to)}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      )}
      {rows.length < found.length && <p class="more-rows"><button type="button" onClick={() => setAll(true)}>Show all {found.length} services</button></p>}
      {list.length > 0 && found.length === 0 && <p class="muted pad">No service matches the search.</p>}
      {!loaded.data && loaded.loading && <Empty title="Loading…" />}
      {loaded.data && list.length === 0 && (
        <Empty title="No profiles in this range.">
          {state.from === defaults.from && state.to === defaults.to
            ? <>Start the profiler with <code>sudo pilotlight run</code>; the first profiles come after ten seconds.</>
            : <a href={href("/", { ...state, from: defaults.from, to: defaults.to })} onClick={follow}>Show the last hour</a>}
        </Empty>
      )}
    </main>
  );
}

function Change({ now, before, diff }: { now: number; before: number | null; diff: string }) {
  if (before === null) return <span class="muted" title="Nothing is stored from the window before">–</span>;
  if (before === 0) return <span class="up">new</span>;
  const p = (100 * (now - before)) / before;
  const sign = p > 0 ? "+" : p < 0 ? "−" : "";
  const kind = Math.abs(p) < 5 ? "muted" : p > 0 ? "up" : "down";
  return <a class={kind} href={diff} onClick={follow} title="Which functions: the diff with the window before">{sign}{Math.abs(p).toFixed(Math.abs(p) < 10 ? 1 : 0)} %</a>;
}

const width = 200;
const height = 28;

/** All lines share one scale, so that services can be compared by eye. */
function Sparkline({ values, max }: { values: number[]; max: number }) {
  const x = (k: number) => ((k * width) / Math.max(1, values.length)).toFixed(1);
  const y = (v: number) => (height - 1 - (max > 0 ? (v / max) * (height - 3) : 0)).toFixed(1);
  const steps = values.map((v, k) => `L${x(k)} ${y(v)}L${x(k + 1)} ${y(v)}`).join("");
  const line = `M${steps.slice(1)}`;
  return (
    <svg viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="none" class="sparkline" aria-hidden="true">
      <path class="area" d={`M0 ${height}${steps}L${width} ${height}Z`} />
      <path class="line" d={line} />
    </svg>
  );
}
