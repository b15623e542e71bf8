import { useCallback, useState } from "preact/hooks";
import { apiUrl, getJson, type Params } from "../api";
import { useLoad } from "../load";
import { change } from "../location";
import { previousPeriod } from "../parts/commands";
import { Empty } from "../parts/notices";
import { RangePicker, Refresh, SelectorInput, TypeSelect } from "../parts/querybar";
import { useProfile, Workspace } from "../parts/workspace";
import { unixSeconds } from "../time";
import type { State } from "../url";
import type { SeriesAnswer } from "../wire";
import { value } from "../format";
import { useRange } from "./explore";

/** A against B: what A has more of is orange, what it has less of is blue. */
export function Diff({ state, dark }: { state: State; dark: boolean }) {
  const [tick, setTick] = useState(0);
  const reload = useCallback(() => setTick((n) => n + 1), []);
  // Without a B of its own, A is compared with the period before it.
  const chosen = state["b.from"] !== "" || state["b.to"] !== "" || state["b.q"] !== "";
  const range = useRange(state.from, state.to, tick);
  const b = chosen ? state : previousPeriod(state, range.now);
  const other = { q: state["b.q"] || state.q, from: b["b.from"] || state.from, to: b["b.to"] || state.to };
  const rangeB = useRange(other.from, other.to, tick);
  const ordered = range.from < range.to && rangeB.from < rangeB.to;
  const what: Params = {
    query: state.q, type: state.type, from: unixSeconds(range.from), to: unixSeconds(range.to), filter: state.f,
    "b.query": other.q, "b.from": unixSeconds(rangeB.from), "b.to": unixSeconds(rangeB.to), normalize: state.norm ? "true" : undefined,
  };
  const profile = useProfile(state, ordered ? what : null, tick);
  const setB = (patch: { q?: string; from?: string; to?: string }) => {
    const next = { ...other, ...patch };
    change({ "b.q": next.q === state.q ? "" : next.q, "b.from": next.from, "b.to": next.to, zoom: [] });
  };
  const swap = () => change({ q: other.q, from: other.from, to: other.to, "b.q": state.q, "b.from": state.from, "b.to": state.to, zoom: [] });
  const tree = profile.graph.data?.tree;
  return (
    <>
      <div class="sides">
        <div class="query" role="group" aria-label="A">
          <b class="side">A</b>
          <SelectorInput label="Label selector of A" q={state.q} range={range} onChange={(q) => change({ q, zoom: [] })} />
          <RangePicker from={state.from} to={state.to} range={range} onChange={(from, to) => change({ from, to, sel: null })} />
          <span class="side-total">{tree && value(tree.total[0]!, tree.unit)}</span>
        </div>
        <div class="query" role="group" aria-label="B">
          <b class="side">B</b>
          <SelectorInput label="Label selector of B" q={other.q} range={rangeB} onChange={(q) => setB({ q })} />
          <RangePicker from={other.from} to={other.to} range={rangeB} onChange={(from, to) => setB({ from, to })} />
          <span class="side-total">{tree?.b && value(tree.b.total[0]!, tree.unit)}</span>
        </div>
        <div class="query">
          <TypeSelect state={state} range={range} />
          <select aria-label="Compare" title="Values as they are, or as shares of the total of their side" value={state.norm ? "1" : "0"} onChange={(e) => change({ norm: e.currentTarget.value === "1" })}>
            <option value="0">Absolute</option>
            <option value="1">Normalised</option>
          </select>
          <button type="button" onClick={swap} title="Exchange A and B">Swap</button>
          <button type="button" onClick={() => change(previousPeriod(state, range.now))} title="Compare A with the period of the same length before it">Previous period</button>
          <PreviousVersion state={state} setB={(q) => setB({ q, from: state.from, to: state.to })} from={rangeB.from} to={range.to} />
          <span class="grow" />
          <span class="legend-diff"><i class="less-box" /> less than B <i class="more-box" /> more than B</span>
          <Refresh state={state} loading={profile.graph.loading} reload={reload} />
        </div>
      </div>
      {tree?.b && tree.weight[0]! > 0 && (tree.total[0] === 0 || tree.b.total[0] === 0) && (
        <div class="note" role="status">
          <span><b>{tree.total[0] === 0 ? "A" : "B"} has no samples in its range:</b> everything is {tree.total[0] === 0 ? "removed" : "new"}. Choose a range in which it ran.</span>
        </div>
      )}
      {!ordered && (
        <div class="note error" role="alert"><span><strong>A range is empty:</strong> its start is not before its end. Choose another.</span></div>
      )}
      <Workspace page="/diff" state={state.view === "table" ? state : { ...state, view: "flame" }} dark={dark} profile={profile} now={range.now}
        empty={<Empty title="Neither side has samples."><button type="button" onClick={() => change({ q: "{}", "b.q": "", zoom: [] })}>Compare all services</button></Empty>} />
    </>
  );
}

/** Compares with the version of the service that ran before this one, if versions are known. */
function PreviousVersion({ state, setB, from, to }: { state: State; setB: (q: string) => void; from: number; to: number }) {
  const version = /service_version="([^"]*)"/.exec(state.q)?.[1] ?? "";
  const query = state.q.replace(/,?\s*service_version="[^"]*"/, "").replace(/\{\s*,/, "{");
  const url = version === "" ? "" : apiUrl("series", { query, by: "service_version", from: unixSeconds(from), to: unixSeconds(to), step: "1m" });
  const series = useLoad(url, (signal) => getJson<SeriesAnswer>(url, signal));
  if (version === "" || !series.data) return null;
  const last = (labels: Record<string, string>) => labels["service_version"] ?? "";
  const others = series.data.series.filter((s) => last(s.labels) !== version && s.points.length > 0);
  const previous = others.sort((a, b) => b.points[b.points.length - 1]![0] - a.points[a.points.length - 1]![0])[0];
  if (!previous) return null;
  const name = last(previous.labels);
  return <button type="button" title={`Compare with version ${name}`} onClick={() => setB(state.q.replace(/service_version="[^"]*"/, `service_version="${name}"`))}>Previous version</button>;
}
