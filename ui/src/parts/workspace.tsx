// What is below the chart on /explore and /diff: search, filters, tabs, and the graph beside its table.

import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { apiUrl, type Params } from "../api";
import { loadGraph, loadTop } from "../flame/client";
import { isUnnamed } from "../flame/color";
import { findPath, hasPruned, type Tree } from "../flame/tree";
import type { FlameView } from "../flame/view";
import type { Above, Shown } from "../flame/view";
import type { Graph } from "../flame/worker";
import { count, percent, value } from "../format";
import { useLoad, type Loaded } from "../load";
import { change, go, href, type Page } from "../location";
import { colors, formatPath, type State } from "../url";
import type { Top, TopRow } from "../wire";
import { addFilter, previousPeriod } from "./commands";
import { rowsOf, type Rows } from "./details";
import { Filters } from "./filters";
import { FlamePanel } from "./flamepanel";
import { typing } from "./help";
import { Busy, Cancelled, Empty, ErrorNote } from "./notices";
import { SandwichView } from "./sandwich";
import { SearchField, SearchShare, useMatches } from "./search";
import { Share } from "./share";
import { SourceView } from "./source";
import { rowChange, TopTable } from "./toptable";

/** One and the same array, so that zooming does not look like another tree. */
const nothing: readonly never[] = [];

export interface Profile {
  what: Params;
  graphUrl: string;
  graph: Loaded<Graph & { url: string }>;
  top: Loaded<Top>;
  /** Counts what was asked to be loaded again. */
  tick: number;
}

/** Loads a selection's flame graph and table; null loads nothing. */
export function useProfile(state: State, what: Params | null, tick: number): Profile {
  const scale = state.norm ? "shares" : 1;
  const graphUrl = what ? apiUrl("flamegraph", { ...what, inverted: state.inv ? "true" : undefined }) : "";
  const topUrl = what ? apiUrl("top", what) : "";
  return {
    what: what ?? {},
    graphUrl,
    graph: useLoad(graphUrl, async (signal) => ({ ...(await loadGraph(graphUrl, scale, signal)), url: graphUrl }), tick),
    top: useLoad(topUrl, (signal) => loadTop(topUrl, signal), tick),
    tick,
  };
}

interface Props {
  page: Page;
  state: State;
  dark: boolean;
  profile: Profile;
  /** When "now" is in this view, for links that stand still and for the period before. */
  now: number;
  /** What to show and to offer if there is nothing to draw. */
  empty: ComponentChildren;
}

export function Workspace({ page, state, dark, profile, now, empty }: Props) {
  const { graph, top, what } = profile;
  const base = graph.data?.tree ?? null;
  const view = useRef<FlameView | null>(null);
  const [kind, setKind] = useState<Kind | null>(null);
  useKeys(page, state, now);
  const rows = useMemo(() => rowsOf(top.data), [top.data]);
  const failed = [graph, top].filter((l) => l.failure);
  const cancelled = [graph, top].filter((l) => l.cancelled);
  const nothingLeft = base !== null && base.weight[0] === 0;
  const removed = graph.data?.source.removed ?? nothing;
  const again = (list: Loaded<unknown>[]) => () => list.forEach((l) => l.retry());
  return (
    <section class="work">
      <div class="bar">
        <Tabs page={page} state={state} />
        <Filters state={state} removed={removed} total={base?.total[0] ?? 0} />
        <span class="grow" />
        <Share page={page} state={state} what={what} now={now} view={view} />
      </div>
      {failed[0]?.failure && <ErrorNote what="Not loaded" failure={failed[0].failure} retry={again(failed)} />}
      {cancelled.length > 0 && <Cancelled kept={base !== null} load={again(cancelled)} />}
      {nothingLeft && state.f.length > 0 && removed.some((v) => v > 0) && (
        <Empty title="The filters removed everything."><button type="button" onClick={() => change({ f: [] })}>Remove the filters</button></Empty>
      )}
      {nothingLeft && !removed.some((v) => v > 0) && empty}
      {!base && graph.loading && <div class="pane first"><Busy cancel={graph.cancel} /></div>}
      {base && !nothingLeft && (
        <Body page={page} state={state} dark={dark} profile={profile} base={base} rows={rows} view={view} kind={kind} setKind={setKind} />
      )}
    </section>
  );
}

/** Keys of the view as a whole; those of a frame are the panel's. */
function useKeys(page: Page, state: State, now: number): void {
  const handler = useRef((_: KeyboardEvent) => {});
  handler.current = (e) => {
    if (typing(e) || e.ctrlKey || e.metaKey || e.altKey || document.querySelector("dialog[open]")) return;
    switch (e.key) {
      case "i":
        change({ inv: !state.inv, zoom: [], view: "flame" });
        break;
      case "t":
        if (state.view === "table") change({ view: "flame" });
        else change({ table: !state.table });
        break;
      case "r":
        if (state.f.includes(recursion)) change({ f: state.f.filter((f) => f !== recursion), zoom: [] });
        else addFilter(state, "collapse", ".");
        break;
      case "d":
        if (page !== "/diff") go(href("/diff", previousPeriod(state, now)));
        break;
      case "Escape":
        if (state.view !== "source") return;
        change({ view: "flame" });
        break;
      case "s":
        if (state.view === "sandwich") change({ view: "flame" });
        else return;
        break;
      default:
        return;
    }
    e.preventDefault();
  };
  useEffect(() => {
    const onKey = (e: KeyboardEvent) => handler.current(e);
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, []);
}

const recursion = "collapse:.";

function Tabs({ page, state }: { page: Page; state: State }) {
  const tabs: { label: string; on: boolean; patch: Partial<State>; key?: string }[] = [
    { label: "Flame", on: state.view === "flame" && !state.inv, patch: { view: "flame", inv: false, zoom: [] } },
    ...(page === "/explore" ? [{ label: "Sandwich", on: state.view === "sandwich", patch: { view: "sandwich" as const, zoom: [] }, key: "s" }] : []),
    { label: "Inverted", on: state.view === "flame" && state.inv, patch: { view: "flame", inv: true, zoom: [] }, key: "i" },
    { label: "Table", on: state.view === "table", patch: { view: "table" } },
    ...(page === "/explore" ? [{ label: "Source", on: state.view === "source", patch: { view: "source" as const, zoom: [] } }] : []),
  ];
  return (
    <nav class="tabs" aria-label="Views">
      {tabs.map((t) => (
        <button key={t.label} type="button" aria-pressed={t.on} title={t.key && `${t.label} (${t.key})`} onClick={() => change(t.patch)}>{t.label}</button>
      ))}
    </nav>
  );
}

interface BodyProps extends Pick<Props, "page" | "state" | "dark" | "profile"> {
  base: Tree;
  rows: Rows;
  view: { current: FlameView | null };
  kind: Kind | null;
  setKind: (kind: Kind | null) => void;
}

function Body({ page, state, dark, profile, base, rows, view, kind, setKind }: BodyProps) {
  const { graph, top } = profile;
  const { shown, sub, lost, waiting } = useZoom(state, profile, base);
  const { bits, error } = useMatches(shown.tree.names, state.search);
  const [hoveredRow, setHoveredRow] = useState("");
  const only = useMemo(() => (kind ? functionsOf(kind, top.data?.rows ?? nothing) : null), [kind, top.data]);
  const marked = useMemo(() => only && Uint8Array.from(shown.tree.names, (name) => (only.has(name) ? 1 : 0)), [only, shown.tree]);
  const zoom = (path: readonly string[], name: string) => change({ zoom: path, name });
  const total = shown.tree.total[shown.focus]!;
  const graphShown = state.view === "flame";
  const tableShown = state.view === "table" || state.table;
  const ofOne = state.view === "sandwich" || state.view === "source";
  const choosing = ofOne && state.name === "";
  const source = graph.data?.source;
  const picture = (
    <div class={graph.loading || waiting ? "pane stale" : "pane"} aria-busy={graph.loading}>
      {graph.loading && <Busy cancel={graph.cancel} />}
      <FlamePanel label="Flame graph" main view={view} shown={shown} state={state} dark={dark} matched={marked ?? bits} outlined={hoveredRow || state.name} rows={rows} onOpen={zoom} />
    </div>
  );
  const table = top.data && (
    <div class={top.loading ? "pane stale" : "pane"} aria-busy={top.loading}>
      <TopTable top={top.data} state={state} scale={base.scaleB} wide={state.view === "table"} only={only} onHover={setHoveredRow}
        onSelect={(name) => change({ name }, ofOne ? "push" : "replace")} />
    </div>
  );
  return (
    <>
      <div class="tools">
        <SearchField search={state.search} error={error} />
        {graphShown && <SearchShare shown={shown} bits={bits} />}
        {base.b && top.data && <Kinds rows={top.data.rows} kind={kind} setKind={setKind} scale={base.scaleB} />}
        <span class="grow" />
        {graphShown && (
          <>
            <span class="muted total">{value(total, base.unit)}{total < base.total[0]! ? ` of ${value(base.total[0]!, base.unit)}` : ""}</span>
            <button type="button" disabled={state.zoom.length === 0} onClick={() => zoom([], "")} title="Show everything (0)">Reset zoom</button>
          </>
        )}
        {!base.b && (graphShown || state.view === "sandwich") && (
          <label class="inline">
            <span class="muted">Colour</span>
            <select value={state.color} onChange={(e) => change({ color: e.currentTarget.value as State["color"] }, "replace")}>
              {colors.map((c) => <option key={c} value={c}>{c}</option>)}
            </select>
          </label>
        )}
        {state.view !== "table" && <button type="button" aria-pressed={state.table} title="The table beside the graph (t)" onClick={() => change({ table: !state.table })}>Table</button>}
      </div>
      {source && source.damaged > 0 && (
        <div class="note error" role="alert">
          <span><strong>Not complete:</strong> {source.damaged} of {source.damaged + source.profiles} stored profiles are damaged and left out. The server's log names them.</span>
        </div>
      )}
      {lost && (
        <div class="note" role="status">
          <span>The zoomed frame <b class="mono">{state.zoom[state.zoom.length - 1]}</b> is not in this data: showing everything.</span>
          <button type="button" onClick={() => zoom([], "")}>Reset zoom</button>
        </div>
      )}
      {top.data && <Unnamed top={top.data} />}
      {sub.failure && <ErrorNote what="The details of this frame were not loaded" failure={sub.failure} retry={sub.retry} />}
      <div class={tableShown && state.view !== "table" ? "split" : "split one"}>
        {graphShown && picture}
        {choosing && <Empty title="Which function?">Choose one in the table, or from the menu of a frame of the flame graph.</Empty>}
        {state.view === "sandwich" && state.name !== "" && page === "/explore" && (
          <SandwichView state={state} dark={dark} url={apiUrl("sandwich", { ...profile.what, function: state.name })} rows={rows} table={state.table} tick={profile.tick} />
        )}
        {state.view === "source" && state.name !== "" && page === "/explore" && (
          <SourceView key={state.name} name={state.name} url={apiUrl("source", { ...profile.what, function: state.name })} row={rows(state.name)} total={base.total[0]!} tick={profile.tick} />
        )}
        {(state.view === "table" || choosing || (state.view === "source" && state.table) || (graphShown && state.table)) && table}
      </div>
    </>
  );
}

/** The tree to draw: the whole one, or what was fetched for a zoomed node because some of it had been pruned. */
function useZoom(state: State, { graphUrl, graph, tick }: Profile, base: Tree) {
  const path = formatPath(state.zoom);
  const found = useMemo(() => findPath(base, state.zoom), [base, path]);
  // What was pruned below the zoomed node is fetched: with the node as root, there is room for more of it.
  const wanted = state.zoom.length > 0 && graph.data?.url === graphUrl && (found.left > 0 || hasPruned(base, found.node));
  const url = wanted ? `${graphUrl}&root=${encodeURIComponent(path)}` : "";
  const sub = useLoad(url, async (signal) => ({ ...(await loadGraph(url, base.scaleB, signal)), url }), tick);
  // Differences are shares of the larger side, so that exchanging the sides only turns their sign.
  const whole = Math.max(base.total[0]!, base.b ? base.b.total[0]! * base.scaleB : 0);
  const subtree = sub.data?.url === url && sub.data.tree.weight[0]! > 0 ? sub.data.tree : null;
  const shown = useMemo((): Shown => {
    if (!subtree) return { tree: base, whole, above: nothing, base: nothing, focus: found.left > 0 ? 0 : found.node };
    const above: Above[] = [];
    for (let i = found.left > 0 ? found.node : base.parent[found.node]!; i >= 0; i = base.parent[i]!) {
      above.unshift({ name: base.names[base.name[i]!]!, binary: base.binaries[base.binaryOf[base.name[i]!]!]! });
    }
    for (const name of state.zoom.slice(above.length - 1, -1)) above.push({ name, binary: "" });
    return { tree: subtree, whole, above, base: state.zoom, focus: 0 };
  }, [base, subtree, found, whole]);
  return {
    shown,
    sub,
    lost: found.left > 0 && !subtree && !sub.loading && sub.data?.url === url,
    waiting: wanted && sub.loading && found.left > 0,
  };
}

/** What became of a function between the two sides of a diff. */
type Kind = "new" | "removed" | "changed";

function kindOf(row: TopRow): Kind | null {
  if (row.total_b === 0) return "new";
  if (row.total === 0) return "removed";
  return row.total === row.total_b ? null : "changed";
}

function functionsOf(kind: Kind, rows: readonly TopRow[]): ReadonlySet<string> {
  return new Set(rows.filter((r) => kindOf(r) === kind).map((r) => r.function));
}

function Kinds({ rows, kind, setKind, scale }: { rows: readonly TopRow[]; kind: Kind | null; setKind: (kind: Kind | null) => void; scale: number }) {
  const counts = useMemo(() => {
    const n: Record<Kind, number> = { new: 0, removed: 0, changed: 0 };
    for (const row of rows) {
      const k = kindOf(row);
      if (k && (k !== "changed" || rowChange(row, scale) !== 0)) n[k]++;
    }
    return n;
  }, [rows, scale]);
  const titles: Record<Kind, string> = { new: "Functions that only A has", removed: "Functions that only B has", changed: "Functions that both have, with other totals" };
  return (
    <span class="kinds" role="group" aria-label="Show only">
      {(["new", "removed", "changed"] as const).map((k) => (
        <button key={k} type="button" class="chip" aria-pressed={kind === k} title={titles[k]} onClick={() => setKind(kind === k ? null : k)}>{k} <b>{count(counts[k])}</b></button>
      ))}
    </span>
  );
}

/** From this share on, time in code without names is worth a word. */
const unnamedShare = 0.5;

function Unnamed({ top }: { top: Top }) {
  const worst = useMemo(() => {
    const byBinary = new Map<string, number>();
    let sum = 0;
    for (const r of top.rows) {
      if (!isUnnamed(r.function)) continue;
      sum += r.self;
      byBinary.set(r.binary, (byBinary.get(r.binary) ?? 0) + r.self);
    }
    const largest = [...byBinary].sort((a, b) => b[1] - a[1])[0];
    return sum > unnamedShare * top.total && largest ? { sum, binary: largest[0] } : null;
  }, [top]);
  if (!worst) return null;
  return (
    <div class="note" role="status">
      <span>
        {percent(worst.sum, top.total)} of the time is in code without names, most of it in <b class="mono">{worst.binary || "unknown files"}</b>.
        {worst.binary === "[jit]" ? " Let the runtime write a perf map: node --perf-basic-prof; for Java, start pilotlight with --jvm-names." : " Install its debug symbols (a package whose name ends in -dbgsym or -debuginfo): as it is sampled again, what is stored gets names too."}
      </span>
    </div>
  );
}
