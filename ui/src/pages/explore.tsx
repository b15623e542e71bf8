import { useCallback, useEffect, useMemo, useState } from "preact/hooks";
import { apiUrl, getJson, type Params } from "../api";
import { useLoad, type Loaded } from "../load";
import { change } from "../location";
import { LossStrip } from "../parts/losses";
import { Empty, ErrorNote } from "../parts/notices";
import { QueryBar, type Range } from "../parts/querybar";
import { TimeSeries } from "../parts/timeseries";
import { useProfile, Workspace } from "../parts/workspace";
import { and } from "../selector";
import { stepFor } from "../series";
import { agoText, parseTime, unixSeconds } from "../time";
import type { State } from "../url";
import type { AgentsAnswer, Labels, Profiles, SeriesAnswer } from "../wire";

const chartPoints = 300;
/** While there is nothing to show of a range that goes on, look again this often: an agent's first window takes some seconds. */
const emptyRetryMs = 3000;

/** `now` stands still between loads, so that the chart, the graph and the table speak of the same time. */
export function useRange(from: string, to: string, tick: number): Range & { now: number } {
  return useMemo(() => {
    const now = Date.now();
    return { from: parseTime(from, now) ?? now, to: parseTime(to, now) ?? now, now };
  }, [from, to, tick]);
}

export function Explore({ state, dark }: { state: State; dark: boolean }) {
  const [tick, setTick] = useState(0);
  const reload = useCallback(() => setTick((n) => n + 1), []);
  const range = useRange(state.from, state.to, tick);
  const ordered = range.from < range.to;

  const inner: Range = state.sel ? { from: state.sel[0] * 1e3, to: state.sel[1] * 1e3 } : range;
  const what: Params = { query: state.q, type: state.type, from: unixSeconds(inner.from), to: unixSeconds(inner.to), filter: state.f };
  const seriesUrl = apiUrl("series", {
    query: state.q, type: state.type, from: unixSeconds(range.from), to: unixSeconds(range.to), by: state.group, step: `${stepFor(range.from, range.to, chartPoints)}s`,
  });
  const series = useLoad(ordered ? seriesUrl : "", (signal) => getJson<SeriesAnswer>(seriesUrl, signal), tick);
  const profile = useProfile(state, ordered ? what : null, tick);
  const agents = useLoad("agents", (signal) => getJson<AgentsAnswer>(apiUrl("agents", {}), signal), tick);
  const labelsUrl = apiUrl("labels", { from: unixSeconds(range.from), to: unixSeconds(range.to) });
  const labels = useLoad(ordered ? labelsUrl : "", (signal) => getJson<Labels>(labelsUrl, signal), tick);
  const loading = series.loading || profile.graph.loading || profile.top.loading;

  const empty = profile.graph.data !== null && profile.graph.data.tree.total[0] === 0;
  const past = range.to < range.now;
  useEffect(() => {
    if (!empty || loading || past || state.sel || state.f.length > 0) return;
    const timer = setTimeout(reload, emptyRetryMs);
    return () => clearTimeout(timer);
  }, [empty, loading, past, state.sel, state.f, reload]);

  // What is wrong with the selection is wrong for the graph too, and told there.
  const told = [profile.graph, profile.top].some((l) => l.failure || l.loading);
  const failed = told ? undefined : [series, labels].find((l) => l.failure);
  return (
    <>
      <QueryBar state={state} range={range} loading={loading} reload={reload} />
      <LossStrip agents={agents} />
      {!ordered && (
        <div class="note error" role="alert">
          <span><strong>The range is empty:</strong> its start is not before its end.</span>
          <button type="button" onClick={() => change({ from: state.to, to: state.from })}>Swap them</button>
        </div>
      )}
      {failed?.failure && <ErrorNote what="Not loaded" failure={failed.failure} retry={failed.retry} />}
      <section class={series.loading ? "chart stale" : "chart"} aria-busy={series.loading} aria-label="CPU over time">
        {series.data && series.data.series.length > 0 && (
          <TimeSeries answer={series.data} range={range} by={state.group} sel={state.sel} dark={dark}
            onSelect={(sel) => change({ sel })}
            labels={labels.data?.labels ?? []}
            onGroup={(group) => change({ group })}
            onPick={(label) => change({ q: and(state.q, state.group, label), zoom: [] })} />
        )}
      </section>
      <Workspace page="/explore" state={state} dark={dark} profile={profile} now={range.now} empty={<NothingThere state={state} agents={agents} range={range} />} />
    </>
  );
}

function NothingThere({ state, agents, range }: { state: State; agents: Loaded<AgentsAnswer>; range: Range }) {
  const newestUrl = apiUrl("profiles", { query: state.q, type: state.type, from: "0", limit: "1" });
  const newest = useLoad(newestUrl, (signal) => getJson<Profiles>(newestUrl, signal));
  if (state.sel) {
    return <Empty title="No samples in the selected range."><button type="button" onClick={() => change({ sel: null })}>Show the whole range</button></Empty>;
  }
  const nearest = newest.data?.profiles[0];
  if (nearest) {
    const end = nearest.time_ms + nearest.duration_ms;
    const show = () => change({ from: unixSeconds(end - (range.to - range.from)), to: unixSeconds(end) });
    return <Empty title="No samples in this range."><button type="button" onClick={show}>Show the newest, from {agoText(nearest.time_ms)}</button></Empty>;
  }
  if (!newest.data) return null;
  if (state.q !== "{}") {
    return <Empty title="No samples match this selector."><button type="button" onClick={() => change({ q: "{}", zoom: [] })}>Show all services</button></Empty>;
  }
  if (agents.data?.agents.length === 0) {
    return <Empty title="No profiles yet, and no agent has reported.">Start one with <code>sudo pilotlight run</code>, or with <code>pilotlight agent --server {window.location.origin}</code> on another machine.</Empty>;
  }
  return <Empty title="Nothing is stored yet.">The agents report; their first window takes ten seconds. <a href="/targets">Targets</a> says how they are.</Empty>;
}
