import { useMemo, useRef, useState } from "preact/hooks";
import { openFile } from "../flame/client";
import { findPath } from "../flame/tree";
import type { FlameView, Shown } from "../flame/view";
import { bytes, value } from "../format";
import { useLoad } from "../load";
import { change } from "../location";
import { rowsOf } from "../parts/details";
import { FlamePanel } from "../parts/flamepanel";
import { Busy, Empty, ErrorNote } from "../parts/notices";
import { SearchField, SearchShare, useMatches } from "../parts/search";
import { TopTable } from "../parts/toptable";
import { colors, type State } from "../url";

const noNames: readonly string[] = [];

/** A file of this machine, read here: nothing of it is sent anywhere. */
export function Open({ state, dark }: { state: State; dark: boolean }) {
  const [opened, setOpened] = useState<{ file: File; n: number; type: number } | null>(null);
  const [over, setOver] = useState(false);
  const [hoveredRow, setHoveredRow] = useState("");
  const input = useRef<HTMLInputElement>(null);
  const view = useRef<FlameView | null>(null);
  const loaded = useLoad(opened ? `${opened.n} ${opened.type}` : "", (signal) => openFile(opened!.file, opened!.type, signal));
  const local = loaded.data;
  const take = (file: File | undefined) => {
    if (!file) return;
    change({ zoom: [], name: "" }, "replace");
    setOpened((o) => ({ file, n: (o?.n ?? 0) + 1, type: -1 }));
  };
  const shown = useMemo((): Shown | null => {
    if (!local) return null;
    const found = findPath(local.tree, state.zoom);
    return { tree: local.tree, whole: local.tree.total[0]!, above: [], base: [], focus: found.left > 0 ? 0 : found.node };
  }, [local, state.zoom.join("\n")]);
  const { bits, error } = useMatches(local?.tree.names ?? noNames, state.search);
  const rows = useMemo(() => rowsOf(local?.top ?? null), [local]);
  return (
    <section class={over ? "work drop-here" : "work"}
      onDragOver={(e) => { e.preventDefault(); setOver(true); }} onDragLeave={() => setOver(false)}
      onDrop={(e) => { e.preventDefault(); setOver(false); take(e.dataTransfer?.files[0]); }}>
      <div class="tools">
        <button type="button" onClick={() => input.current?.click()}>Open a file…</button>
        <input ref={input} type="file" hidden aria-label="Profile" onChange={(e) => { take(e.currentTarget.files?.[0]); e.currentTarget.value = ""; }} />
        {opened && local && (
          <>
            <b>{opened.file.name}</b> <span class="muted">{bytes(opened.file.size)}</span>
            <label class="inline">
              <span class="sr">Sample type</span>
              <select value={local.type} onChange={(e) => setOpened({ ...opened, type: Number(e.currentTarget.value) })}>
                {local.types.map((t, i) => <option key={i} value={i}>{t.type} ({t.unit})</option>)}
              </select>
            </label>
            <SearchField search={state.search} error={error} />
            {shown && <SearchShare shown={shown} bits={bits} />}
            <span class="grow" />
            <span class="muted total">{shown && value(shown.tree.total[shown.focus]!, shown.tree.unit)}</span>
            <button type="button" disabled={state.zoom.length === 0} onClick={() => change({ zoom: [] })}>Reset zoom</button>
            <label class="inline">
              <span class="muted">Colour</span>
              <select value={state.color} onChange={(e) => change({ color: e.currentTarget.value as State["color"] }, "replace")}>
                {colors.map((c) => <option key={c} value={c}>{c}</option>)}
              </select>
            </label>
          </>
        )}
      </div>
      {loaded.failure && <ErrorNote what={`${opened?.file.name ?? "The file"} was not read`} failure={loaded.failure} retry={loaded.retry} />}
      {loaded.loading && <div class="pane first"><Busy cancel={loaded.cancel} /></div>}
      {!local && !loaded.loading && (
        <Empty title="Open a profile of this machine">Drop a pprof file or a folded one here, or choose it above. It is read in this page and sent nowhere.</Empty>
      )}
      {local && shown && !loaded.loading && (local.top.total === 0
        ? <Empty title="The file has no values of this type.">Choose another type above.</Empty>
        : (
          <div class="split">
            <div class="pane">
              <FlamePanel label="Flame graph" main local view={view} shown={shown} state={state} dark={dark} matched={bits} outlined={hoveredRow || state.name} rows={rows}
                onOpen={(zoom, name) => change({ zoom, name })} />
            </div>
            <div class="pane">
              <TopTable top={local.top} state={state} scale={1} onHover={setHoveredRow} onSelect={(name) => change({ name }, "replace")} />
            </div>
          </div>
        ))}
    </section>
  );
}
