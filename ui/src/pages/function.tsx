import { useCallback, useMemo, useState } from "preact/hooks";
import { apiUrl, getJson, type Params } from "../api";
import { escapeRegex } from "../flame/search";
import { percent, value } from "../format";
import { useLoad } from "../load";
import { change, follow, href } from "../location";
import { Busy, Cancelled, Empty, ErrorNote } from "../parts/notices";
import { RangePicker, Refresh, SelectorInput } from "../parts/querybar";
import { Calls } from "../parts/sandwich";
import { SourceLines } from "../parts/source";
import { and } from "../selector";
import { stepFor } from "../series";
import { clock, unixSeconds } from "../time";
import type { State } from "../url";
import type { FlameGraph, Labels, Sandwich, SeriesAnswer } from "../wire";
import { useRange } from "./explore";

/** Each is a question of its own to the server. */
const trendSteps = 12;
const maxValues = 8;

interface Cost {
  label: string;
  value: number;
}

/** One function: how much over time, who calls it, whom it calls, and what it costs by each value of a label. */
export function FunctionPage({ state }: { state: State }) {
  const [tick, setTick] = useState(0);
  const reload = useCallback(() => setTick((n) => n + 1), []);
  const range = useRange(state.from, state.to, tick);
  const what: Params = { query: state.q, type: state.type, from: unixSeconds(range.from), to: unixSeconds(range.to), filter: state.f };
  const ready = state.name !== "" && range.from < range.to;
  const url = apiUrl("sandwich", { ...what, function: state.name, max_nodes: "1" });
  const sandwich = useLoad(ready ? url : "", (signal) => getJson<Sandwich>(url, signal), tick);
  const total = (more: Params, signal: AbortSignal) => totalOf(what, state, more, signal);
  const trend = useLoad(ready ? `trend ${url}` : "", async (signal) => {
    const costs: Cost[] = [];
    const step = (range.to - range.from) / trendSteps;
    for (let k = 0; k < trendSteps; k++) {
      const from = range.from + k * step;
      costs.push({ label: clock(from), value: await total({ from: unixSeconds(from), to: unixSeconds(from + step) }, signal) });
    }
    return costs;
  }, tick);
  const labels = useLoad(ready ? `labels ${url}` : "", (signal) => getJson<Labels>(apiUrl("labels", { from: what["from"], to: what["to"] }), signal), tick);
  const perLabel = useLoad(ready ? `${state.group} ${url}` : "", async (signal) => {
    const answer = await getJson<SeriesAnswer>(apiUrl("series", { ...what, filter: undefined, by: state.group, step: `${stepFor(range.from, range.to, 1)}s` }), signal);
    const sum = (s: SeriesAnswer["series"][number]) => s.points.reduce((a, p) => a + p[1], 0);
    const values = answer.series.sort((a, b) => sum(b) - sum(a)).map((s) => s.labels[state.group] ?? "");
    const costs: Cost[] = [];
    for (const label of values.slice(0, maxValues)) costs.push({ label, value: await total({ query: and(state.q, state.group, label) }, signal) });
    const asked = costs.reduce((a, c) => a + c.value, 0);
    const rest = values.length > maxValues ? (await total({}, signal)) - asked : 0;
    return { by: state.group, costs: costs.filter((c) => c.value > 0).sort((a, b) => b.value - a.value), rest };
  }, tick);
  const s = sandwich.data;
  const all = [sandwich, trend, perLabel];
  const failed = all.filter((l) => l.failure);
  const cancelled = all.filter((l) => l.cancelled);
  const groups = useMemo(() => [...new Set([state.group, ...(labels.data?.labels ?? [])])].sort(), [labels.data, state.group]);
  if (state.name === "") {
    return <main class="page"><h1>Function</h1><Empty title="Which function?">Open one from the menu of a frame in <a href={href("/explore", state)} onClick={follow}>Explore</a>.</Empty></main>;
  }
  return (
    <main class="page function">
      <h1 class="mono">{state.name}</h1>
      <div class="query">
        <SelectorInput label="Label selector" q={state.q} range={range} onChange={(q) => change({ q })} />
        <RangePicker from={state.from} to={state.to} range={range} onChange={(from, to) => change({ from, to, sel: null })} />
        <Refresh state={state} loading={sandwich.loading} reload={reload} />
      </div>
      {failed[0]?.failure && <ErrorNote what="Not loaded" failure={failed[0].failure} retry={() => failed.forEach((l) => l.retry())} />}
      {cancelled.length > 0 && <Cancelled kept={s !== null} load={() => cancelled.forEach((l) => l.retry())} />}
      {sandwich.loading && <Busy cancel={() => all.forEach((l) => l.cancel())} />}
      {s && s.function.total === 0 && (
        <Empty title="This function is not in the data selected."><button type="button" onClick={() => change({ q: "{}", from: "now-1d", to: "now" })}>Look at all services of the last day</button></Empty>
      )}
      {s && s.function.total > 0 && (
        <>
          <p class="facts">
            <span><span class="muted">self</span> <b>{value(s.function.self, s.unit)}</b> {percent(s.function.self, s.total)}</span>
            <span><span class="muted">total</span> <b>{value(s.function.total, s.unit)}</b> {percent(s.function.total, s.total)}</span>
            {s.function.binary && <span><span class="muted">binary</span> <b>{s.function.binary}</b></span>}
            {s.function.file && <span><span class="muted">file</span> <b>{s.function.file}</b></span>}
            <span class="links">
              <a href={href("/explore", { ...state, view: "sandwich", zoom: [] })} onClick={follow}>Sandwich</a>
              <a href={href("/explore", { ...state, view: "flame", zoom: [], f: [...state.f, `focus:^${escapeRegex(state.name)}$`] })} onClick={follow}>Flame graph of it alone</a>
            </span>
          </p>
          <section class="pane" aria-label="Over time">
            <h2>Over time</h2>
            {trend.data ? <Trend costs={trend.data} unit={s.unit} /> : <NotYet loading={trend.loading} />}
          </section>
          <div class="columns">
            <div class="pane calls"><Calls title="Called by" calls={s.callers} unit={s.unit} of={s.function.total} none="Nothing calls it: it is where stacks begin." /></div>
            <div class="pane calls"><Calls title="Calls" calls={s.callees} unit={s.unit} of={s.function.total} none="It calls nothing." /></div>
          </div>
          <section class="pane" aria-label="Source">
            <h2>Source</h2>
            <SourceLines url={apiUrl("source", { ...what, function: state.name })} of={s.function.total} tick={tick} />
          </section>
          <section class="pane" aria-label="Cost per label">
            <h2>
              <label class="inline">Cost per
                <select value={state.group} onChange={(e) => change({ group: e.currentTarget.value }, "replace")}>
                  {groups.map((g) => <option key={g} value={g}>{g}</option>)}
                </select>
              </label>
            </h2>
            {perLabel.data?.by === state.group ? <Bars costs={perLabel.data.costs} rest={perLabel.data.rest} unit={s.unit} of={s.function.total} /> : <NotYet loading={perLabel.loading} />}
          </section>
        </>
      )}
    </main>
  );
}

function NotYet({ loading }: { loading: boolean }) {
  return <p class="muted pad">{loading ? "Loading…" : "Not loaded."}</p>;
}

/** What a part of the selection spends in the function and below it. */
async function totalOf(what: Params, state: State, more: Params, signal: AbortSignal): Promise<number> {
  const filter = [...state.f, `focus:^${escapeRegex(state.name)}$`];
  const graph = await getJson<FlameGraph>(apiUrl("flamegraph", { ...what, ...more, filter, max_nodes: "1" }), signal);
  return graph.total;
}

/** A column for each step, its value as text for those who do not see it. */
function Trend({ costs, unit }: { costs: readonly Cost[]; unit: string }) {
  const most = Math.max(...costs.map((c) => c.value), 1);
  return (
    <ol class="trend">
      {costs.map((c) => (
        <li key={c.label} title={`from ${c.label}: ${value(c.value, unit)}`}>
          <span class="sr">from {c.label}: {value(c.value, unit)}</span>
          <svg viewBox="0 0 1 100" preserveAspectRatio="none" aria-hidden="true"><rect x="0" y={100 - (100 * c.value) / most} width="1" height={(100 * c.value) / most} /></svg>
          <span class="muted" aria-hidden="true">{c.label.slice(0, 5)}</span>
        </li>
      ))}
    </ol>
  );
}

/** `rest` is what the values cost that were not asked for. */
function Bars({ costs, rest, unit, of }: { costs: readonly Cost[]; rest: number; unit: string; of: number }) {
  return (
    <table class="bars">
      <tbody>
        {costs.map((c) => (
          <tr key={c.label}>
            <td class="num">{value(c.value, unit)}</td>
            <td class="num muted">{percent(c.value, of)}</td>
            <td>{c.label || "without the label"}</td>
          </tr>
        ))}
        {rest > 0 && (
          <tr>
            <td class="num">{value(rest, unit)}</td>
            <td class="num muted">{percent(rest, of)}</td>
            <td class="muted">other values: only the {maxValues} that use most CPU are asked</td>
          </tr>
        )}
      </tbody>
    </table>
  );
}
