import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import { apiUrl, getJson } from "../api";
import { loadTree, match, PatternError } from "../flame/client";
import { matchedShare } from "../flame/search";
import { findPath, hasPruned, type Tree } from "../flame/tree";
import type { Above } from "../flame/view";
import { percent, value } from "../format";
import { useLoad, type Loaded } from "../load";
import { change } from "../location";
import { FlamePanel, type Shown } from "../parts/flamepanel";
import { typing } from "../parts/help";
import { LossStrip } from "../parts/losses";
import { Empty, ErrorNote } from "../parts/notices";
import { Popover } from "../parts/popover";
import { QueryBar, type Range } from "../parts/querybar";
import { TimeSeries } from "../parts/timeseries";
import { TopTable } from "../parts/toptable";
import { equals } from "../selector";
import { stepFor } from "../series";
import { parseTime, unixSeconds } from "../time";
import { colors, formatPath, type State } from "../url";
import type { AgentsAnswer, Labels, SeriesAnswer, Top } from "../wire";

const chartPoints = 300;
/** One and the same array, so that zooming does not look like another tree. */
const nothing: readonly never[] = [];
/** While there is nothing to show, look again this often: an agent's first window takes some seconds. */
const emptyRetryMs = 3000;

export function Explore({ state, dark }: { state: State; dark: boolean }) {
  const [tick, setTick] = useState(0);
  const reload = useCallback(() => setTick((n) => n + 1), []);
  // `now` stands still between loads, so that the chart, the graph and the table speak of the same time.
  const range = useMemo((): Range => {
    const now = Date.now();
    return { from: parseTime(state.from, now) ?? now, to: parseTime(state.to, now) ?? now };
  }, [state.from, state.to, tick]);
  const ordered = range.from < range.to;

  const inner: Range = state.sel ? { from: state.sel[0] * 1e3, to: state.sel[1] * 1e3 } : range;
  const what = { query: state.q, type: state.type, from: unixSeconds(inner.from), to: unixSeconds(inner.to) };
  const seriesUrl = apiUrl("series", {
    ...what, from: unixSeconds(range.from), to: unixSeconds(range.to), by: state.group, step: `${stepFor(range.from, range.to, chartPoints)}s`,
  });
  const graphUrl = apiUrl("flamegraph", what);
  const topUrl = apiUrl("top", what);
  const series = useLoad(ordered ? seriesUrl : "", (signal) => getJson<SeriesAnswer>(seriesUrl, signal));
  const graph = useLoad(ordered ? graphUrl : "", async (signal) => ({ url: graphUrl, tree: await loadTree(graphUrl, signal) }));
  const top = useLoad(ordered ? topUrl : "", (signal) => getJson<Top>(topUrl, signal));
  const agents = useLoad(`agents ${tick}`, (signal) => getJson<AgentsAnswer>(apiUrl("agents", {}), signal));
  const labelsUrl = apiUrl("labels", { from: unixSeconds(range.from), to: unixSeconds(range.to) });
  const labels = useLoad(ordered ? labelsUrl : "", (signal) => getJson<Labels>(labelsUrl, signal));
  const loading = series.loading || graph.loading || top.loading;

  const empty = graph.data !== null && graph.data.tree.total[0] === 0;
  useEffect(() => {
    if (!empty || loading || state.sel) return;
    const timer = setTimeout(reload, emptyRetryMs);
    return () => clearTimeout(timer);
  }, [empty, loading, state.sel, reload]);

  const failed = [series, graph, top, labels].find((l) => l.failure);
  const retry = () => {
    for (const l of [series, graph, top, labels]) if (l.failure) l.retry();
  };
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
      {failed?.failure && <ErrorNote what="Not loaded" failure={failed.failure} retry={retry} />}
      <section class={series.loading ? "chart stale" : "chart"} aria-busy={series.loading}>
        {series.data && series.data.series.length > 0 && (
          <TimeSeries answer={series.data} range={range} by={state.group} sel={state.sel} dark={dark}
            onSelect={(sel) => change({ sel })}
            labels={labels.data?.labels ?? []}
            onGroup={(group) => change({ group })}
            onPick={(label) => change({ q: equals(state.group, label), zoom: [] })} />
        )}
      </section>
      {empty ? (
        <NothingThere state={state} agents={agents} />
      ) : (
        graph.data && <Workspace state={state} dark={dark} url={graph.data.url} base={graph.data.tree} top={top} stale={graph.loading} pprof={apiUrl("pprof", what)} />
      )}
      {!graph.data && graph.loading && <Empty title="Loading…" />}
    </>
  );
}

function NothingThere({ state, agents }: { state: State; agents: Loaded<AgentsAnswer> }) {
  if (state.sel) {
    return <Empty title="No samples in the selected range."><button type="button" onClick={() => change({ sel: null })}>Show the whole range</button></Empty>;
  }
  if (state.q !== "{}") {
    return <Empty title="No samples match this selector in this range."><button type="button" onClick={() => change({ q: "{}", zoom: [] })}>Show all services</button></Empty>;
  }
  if (agents.data?.agents.length === 0) {
    return <Empty title="No profiles yet, and no agent has reported.">Start one with <code>sudo pilotlight run</code>, or with <code>pilotlight agent --server {window.location.origin}</code> on another machine.</Empty>;
  }
  if (state.from !== "now-1d" || state.to !== "now") {
    return <Empty title="No samples in this range."><button type="button" onClick={() => change({ from: "now-1d", to: "now" })}>Show the last day</button></Empty>;
  }
  return <Empty title="No samples in the last day.">The agents report, but nothing is stored: see <a href="/targets">Targets</a>.</Empty>;
}

interface WorkspaceProps {
  state: State;
  dark: boolean;
  /** Of the whole graph. */
  url: string;
  base: Tree;
  top: Loaded<Top>;
  stale: boolean;
  pprof: string;
}

function Workspace({ state, dark, url, base, top, stale, pprof }: WorkspaceProps) {
  const found = useMemo(() => findPath(base, state.zoom), [base, state.zoom.join("\n")]);
  // What was pruned below the zoomed node is fetched: with the node as root, there is room for more of it.
  const wanted = state.zoom.length > 0 && (found.left > 0 || hasPruned(base, found.node));
  const subUrl = wanted ? `${url}&root=${encodeURIComponent(formatPath(state.zoom))}` : "";
  const sub = useLoad(subUrl, async (signal) => ({ url: subUrl, tree: await loadTree(subUrl, signal) }));
  const subtree = sub.data?.url === subUrl && sub.data.tree.total[0]! > 0 ? sub.data.tree : null;

  const shown = useMemo((): Shown => {
    if (!subtree) return { tree: base, whole: base.total[0]!, above: nothing, base: nothing, focus: found.left > 0 ? 0 : found.node };
    const above: Above[] = [];
    for (let i = found.left > 0 ? found.node : base.parent[found.node]!; i >= 0; i = base.parent[i]!) {
      above.unshift({ name: base.names[base.name[i]!]!, binary: base.binaries[base.binaryOf[base.name[i]!]!]! });
    }
    for (const name of state.zoom.slice(above.length - 1, -1)) above.push({ name, binary: "" });
    return { tree: subtree, whole: base.total[0]!, above, base: state.zoom, focus: 0 };
  }, [base, subtree, found]);
  const lost = found.left > 0 && !subtree && !sub.loading && sub.data?.url === subUrl;

  const [matched, setMatched] = useState<{ names: readonly string[]; bits: Uint8Array } | null>(null);
  const [badPattern, setBadPattern] = useState("");
  useEffect(() => {
    setBadPattern("");
    if (state.search === "") {
      setMatched(null);
      return;
    }
    let stale = false;
    const names = shown.tree.names;
    match(names, state.search).then(
      (bits) => !stale && setMatched({ names, bits }),
      (err: unknown) => {
        if (!(err instanceof PatternError)) throw err;
        if (stale) return;
        setMatched(null);
        setBadPattern(err.message);
      },
    );
    return () => void (stale = true);
  }, [shown.tree, state.search]);
  const bits = matched?.names === shown.tree.names ? matched.bits : null;

  const [hoveredRow, setHoveredRow] = useState("");
  const files = useMemo(() => new Map(top.data?.rows.map((r) => [r.function, r.file])), [top.data]);
  const zoom = (path: readonly string[], fn?: string) => change(fn === undefined ? { zoom: path } : { zoom: path, fn });
  const total = shown.tree.total[shown.focus]!;
  return (
    <section class="work">
      <div class="tools">
        <SearchField search={state.search} error={badPattern} />
        <SearchShare shown={shown} bits={bits} />
        <span class="grow" />
        <span class="muted total">{value(total, base.unit)}{total < base.total[0]! ? ` of ${value(base.total[0]!, base.unit)}` : ""}</span>
        <button type="button" disabled={state.zoom.length === 0} onClick={() => zoom([])} title="Show everything (0)">Reset zoom</button>
        <label class="inline">
          <span class="muted">Colour</span>
          <select value={state.color} onChange={(e) => change({ color: e.currentTarget.value as State["color"] }, "replace")}>
            {colors.map((c) => <option key={c} value={c}>{c}</option>)}
          </select>
        </label>
        <PprofLink path={pprof} />
      </div>
      {top.data && top.data.damaged > 0 && (
        <div class="note error" role="alert">
          <span><strong>Not complete:</strong> {top.data.damaged} of {top.data.damaged + top.data.profiles} stored profiles are damaged and left out. The server's log names them.</span>
        </div>
      )}
      {lost && (
        <div class="note" role="status">
          <span>The zoomed frame <b class="mono">{state.zoom[state.zoom.length - 1]}</b> is not in this data: showing everything.</span>
          <button type="button" onClick={() => zoom([])}>Reset zoom</button>
        </div>
      )}
      {sub.failure && <ErrorNote what="The details of this frame were not loaded" failure={sub.failure} retry={sub.retry} />}
      <div class="split">
        <div class={stale || (wanted && sub.loading && found.left > 0) ? "pane stale" : "pane"} aria-busy={stale}>
          <FlamePanel shown={shown} state={state} dark={dark} matched={bits} outlined={hoveredRow || state.fn} files={files} onZoom={zoom} />
        </div>
        <div class={top.loading ? "pane stale" : "pane"} aria-busy={top.loading}>
          {top.data && <TopTable top={top.data} state={state} onHover={setHoveredRow} />}
        </div>
      </div>
    </section>
  );
}

const typingPauseMs = 150;

function SearchField({ search, error }: { search: string; error: string }) {
  const input = useRef<HTMLInputElement>(null);
  const timer = useRef(0);
  const [text, setText] = useState(search);
  useEffect(() => setText(search), [search]);
  useEffect(() => {
    const onKey = (e: KeyboardEvent) => {
      if (e.key !== "/" || typing(e) || e.ctrlKey || e.metaKey || e.altKey) return;
      e.preventDefault();
      input.current?.select();
      input.current?.focus();
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, []);
  const set = (next: string, pause: number) => {
    setText(next);
    clearTimeout(timer.current);
    timer.current = window.setTimeout(() => change({ search: next }, "replace"), pause);
  };
  return (
    <span class="search">
      <input ref={input} type="search" class="mono" placeholder="Search: regular expression  ( / )" aria-label="Search functions" spellcheck={false}
        aria-invalid={error !== ""} aria-describedby="search-error" value={text}
        onInput={(e) => set(e.currentTarget.value, typingPauseMs)}
        onKeyDown={(e) => {
          if (e.key === "Escape") {
            set("", 0);
            input.current?.blur();
          } else if (e.key === "Enter") {
            set(text, 0);
            input.current?.blur();
          }
        }} />
      <span id="search-error" class="field-error" role="alert">{error}</span>
    </span>
  );
}

function SearchShare({ shown, bits }: { shown: Shown; bits: Uint8Array | null }) {
  const { tree, focus } = shown;
  const share = useMemo(() => (bits ? matchedShare(tree, bits, focus) : null), [tree, bits, focus]);
  if (!share) return null;
  // Functions that were pruned are not searched, so the true share may be larger.
  const atLeast = tree.prunedCount.some((n) => n > 0) ? "≥ " : "";
  const frames = share.nodes === 1 ? "1 frame" : `${share.nodes} frames`;
  return (
    <span class="share" role="status" data-testid="share">
      {share.nodes === 0 ? "no match" : <><b>{atLeast}{percent(share.value, tree.total[focus]!)}</b> in {frames} <kbd>n</kbd><kbd>N</kbd></>}
    </span>
  );
}

/** The profile as a file, and the line that opens it in pprof. */
function PprofLink({ path }: { path: string }) {
  const [copied, setCopied] = useState("");
  const url = window.location.origin + path;
  const line = `go tool pprof '${url.replaceAll("'", "%27")}'`;
  const copy = () => {
    navigator.clipboard.writeText(line).then(
      () => setCopied("Copied"),
      () => setCopied("Not allowed: select the line and copy it"),
    );
  };
  useEffect(() => setCopied(""), [path]);
  return (
    <Popover class="pprof" label="pprof">
      {() => (
        <>
          <label>Open in pprof
            <input class="mono" readOnly value={line} onFocus={(e) => e.currentTarget.select()} />
          </label>
          <div class="row">
            <button type="button" onClick={copy}>Copy line</button>
            <a class="button" href={path} download="profile.pb.gz">Download</a>
            <span class="muted" role="status">{copied}</span>
          </div>
        </>
      )}
    </Popover>
  );
}
