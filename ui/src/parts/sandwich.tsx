import { useCallback, useEffect, useMemo, useState } from "preact/hooks";
import type { Hit } from "../flame/layout";
import { loadSandwich } from "../flame/client";
import type { Shown } from "../flame/view";
import { percent, value } from "../format";
import { useLoad } from "../load";
import { change } from "../location";
import type { State } from "../url";
import type { Call } from "../wire";
import { Details, type Rows } from "./details";
import { FlamePanel } from "./flamepanel";
import { Busy, Cancelled, ErrorNote } from "./notices";
import { useMatches } from "./search";

const noNames: readonly string[] = [];
const pick = (name: string) => change({ name });

/** One function: above it those that call it, below it those that it calls, both exact. */
export function SandwichView({ state, dark, url, rows, table, tick }: { state: State; dark: boolean; url: string; rows: Rows; table: boolean; tick: number }) {
  const { name } = state;
  const loaded = useLoad(url, async (signal) => ({ ...(await loadSandwich(url, signal)), name }), tick);
  const split = loaded.data;
  const callers = useMemo((): Shown | null => split && { tree: split.callers, whole: split.sandwich.total, above: [], base: [], focus: 0 }, [split]);
  const callees = useMemo((): Shown | null => split && { tree: split.callees, whole: split.sandwich.total, above: [], base: [], focus: 0 }, [split]);
  const above = useMatches(callers?.tree.names ?? noNames, state.search).bits;
  const below = useMatches(callees?.tree.names ?? noNames, state.search).bits;
  const open = (_: readonly string[], name: string) => name !== "" && pick(name);
  // The panel that one looked at last has the details.
  const [looked, setLooked] = useState<{ shown: Shown; hit: Hit } | null>(null);
  const look = useCallback((shown: Shown, hit: Hit) => setLooked({ shown, hit }), []);
  // Neither panel has the whole window's keys here: leaving is this view's own.
  useEffect(() => {
    const onKey = (e: KeyboardEvent) => {
      if (e.key === "Escape" && !(e.target instanceof HTMLInputElement) && !document.querySelector("dialog[open]")) change({ view: "flame" });
    };
    window.addEventListener("keydown", onKey);
    return () => window.removeEventListener("keydown", onKey);
  }, []);
  if (loaded.failure) return <ErrorNote what="Not loaded" failure={loaded.failure} retry={loaded.retry} />;
  if (!split || !callers || !callees) {
    return <div class="pane">{loaded.loading && <Busy cancel={loaded.cancel} />}{loaded.cancelled && <Cancelled kept={false} load={loaded.retry} />}</div>;
  }
  const { sandwich } = split;
  const missing = sandwich.function.total === 0;
  return (
    <>
      <div class={loaded.loading ? "pane sandwich stale" : "pane sandwich"} aria-busy={loaded.loading}>
        {loaded.loading && <Busy cancel={loaded.cancel} />}
        {loaded.cancelled && <Cancelled kept load={loaded.retry} />}
        <header>
          {/* The function that the figures are of, while those of another load. */}
          <h2 class="mono">{split.name}</h2>
          <span>
            <span class="muted">self</span> <b>{value(sandwich.function.self, sandwich.unit)}</b> <span class="muted">{percent(sandwich.function.self, sandwich.total)}</span>{" "}
            <span class="muted">total</span> <b>{value(sandwich.function.total, sandwich.unit)}</b> <span class="muted">{percent(sandwich.function.total, sandwich.total)}</span>
          </span>
        </header>
        {missing ? (
          <p class="pad">This function is not in the data selected. <button type="button" onClick={() => change({ name: "", view: "flame" })}>Show the flame graph</button></p>
        ) : (
          <>
            <p class="part">Callers</p>
            <FlamePanel label="Callers" flipped shown={callers} state={state} dark={dark} matched={above} outlined="" rows={rows} onOpen={open} onLook={look} />
            <p class="part below">Callees</p>
            <FlamePanel label="Callees" shown={callees} state={state} dark={dark} matched={below} outlined="" rows={rows} onOpen={open} onLook={look} />
            {looked && <Details shown={looked.shown} hit={looked.hit} rows={rows} />}
          </>
        )}
      </div>
      {table && !missing && (
        <div class="pane calls">
          <Calls title="Called by" calls={sandwich.callers} unit={sandwich.unit} of={sandwich.function.total} none="Nothing calls it: it is where stacks begin." />
          <Calls title="Calls" calls={sandwich.callees} unit={sandwich.unit} of={sandwich.function.total} none="It calls nothing." />
        </div>
      )}
    </>
  );
}

/** Functions at the other end of calls, with what they used in them. */
export function Calls({ title, calls, unit, of, none }: { title: string; calls: readonly Call[]; unit: string; of: number; none: string }) {
  return (
    <section class="call-list" aria-label={title}>
      <table>
        <thead>
          <tr><th scope="col" class="num" colSpan={2}>Time</th><th scope="col">{title}</th></tr>
        </thead>
        <tbody>
          {calls.map((c) => (
            <tr key={c.function} onClick={() => pick(c.function)}>
              <td class="num">{value(c.value, unit)}</td>
              <td class="num pct">{percent(c.value, of)}</td>
              <td class="fn" title={c.function}><button type="button" onClick={(e) => { e.stopPropagation(); pick(c.function); }}>{c.function}</button></td>
            </tr>
          ))}
        </tbody>
      </table>
      {calls.length === 0 && <p class="muted pad">{none}</p>}
    </section>
  );
}
