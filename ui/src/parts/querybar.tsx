import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { apiUrl, getJson } from "../api";
import { isLoading } from "../load";
import { change } from "../location";
import { complete, completionAt } from "../selector";
import { isRelative, lastText, localInput, parseTime, rangeText, unixSeconds } from "../time";
import { defaultType, refreshes, type State } from "../url";
import type { Labels, Types, Values } from "../wire";
import { Popover } from "./popover";

export interface Range {
  from: number;
  to: number;
}

const presets = ["now-5m", "now-15m", "now-1h", "now-6h", "now-1d", "now-7d"];

/** Relative presets, or two absolute times. */
export function RangePicker({ from: start, to: end, range, onChange: set }: { from: string; to: string; range: Range; onChange: (from: string, to: string) => void }) {
  const relative = isRelative(start) && end === "now";
  const absolute = (event: SubmitEvent) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget as HTMLFormElement);
    const [from, to] = [Date.parse(String(form.get("from"))), Date.parse(String(form.get("to")))];
    if (Number.isNaN(from) || Number.isNaN(to)) return;
    set(unixSeconds(Math.min(from, to)), unixSeconds(Math.max(from, to)));
  };
  return (
    <Popover class="range" label={relative ? lastText(start) : rangeText(range.from, range.to)} title={rangeText(range.from, range.to)}>
      {(close) => (
        <>
          <div class="presets">
            {presets.map((from) => (
              <button key={from} type="button" aria-pressed={relative && from === start} onClick={() => { close(); set(from, "now"); }}>{lastText(from)}</button>
            ))}
          </div>
          {/* Anew with another choice, not with each load: a relative range moves on while one types. */}
          <form key={`${start} ${end}`} onSubmit={(e) => { close(); absolute(e); }}>
            <label>From <input type="datetime-local" name="from" step="1" required defaultValue={localInput(range.from)} /></label>
            <label>To <input type="datetime-local" name="to" step="1" required defaultValue={localInput(range.to)} /></label>
            <button>Apply</button>
          </form>
        </>
      )}
    </Popover>
  );
}

/** What a profile type is called: its sample type, with the profile's name where several share it. */
function typeText(type: string): string {
  const [name, sample, unit] = type.split(":");
  if (type === defaultType) return "CPU time";
  return name === "process_cpu" ? `CPU ${sample}` : `${name} ${sample} (${unit})`;
}

export function TypeSelect({ state, range }: { state: State; range: Range }) {
  const [types, setTypes] = useState<string[]>([]);
  useEffect(() => {
    const abort = new AbortController();
    // Without an answer the choice is the type in use; the main requests report what is wrong.
    getJson<Types>(apiUrl("types", { from: unixSeconds(range.from), to: unixSeconds(range.to) }), abort.signal)
      .then((a) => setTypes(a.types), () => setTypes([]));
    return () => abort.abort();
  }, [state.from, state.to]);
  const all = [...new Set([defaultType, state.type, ...types])];
  return (
    <label class="inline">
      <span class="sr">Profile type</span>
      <select value={state.type} onChange={(e) => change({ type: e.currentTarget.value })}>
        {all.map((t) => <option key={t} value={t} title={t}>{typeText(t)}</option>)}
      </select>
    </label>
  );
}

const maxChoices = 50;

/** A selector with completion of label names and values. */
export function SelectorInput({ label, q, range, onChange }: { label: string; q: string; range: Range; onChange: (q: string) => void }) {
  const list = label.replaceAll(" ", "-");
  const input = useRef<HTMLInputElement>(null);
  const [text, setText] = useState(q);
  const [caret, setCaret] = useState(-1);
  useEffect(() => setText(q), [q]);

  const at = caret < 0 ? null : completionAt(text, caret);
  const source = at ? `${at.kind} ${at.label}` : "";
  const [known, setKnown] = useState<{ source: string; names: string[] }>({ source: "", names: [] });
  useEffect(() => {
    if (!at || known.source === source) return;
    const abort = new AbortController();
    const when = { from: unixSeconds(range.from), to: unixSeconds(range.to) };
    const names = at.kind === "name"
      ? getJson<Labels>(apiUrl("labels", when), abort.signal).then((a) => a.labels)
      : getJson<Values>(apiUrl(`label/${encodeURIComponent(at.label)}/values`, when), abort.signal).then((a) => a.values);
    names.then(
      (names) => setKnown({ source, names }),
      // No completion is no error: the text can be typed.
      () => setKnown({ source, names: [] }),
    );
    return () => abort.abort();
  }, [source]);
  const choices = useMemo(() => {
    const p = at?.prefix.toLowerCase() ?? "";
    return at && known.source === source ? known.names.filter((n) => n.toLowerCase().includes(p)).slice(0, maxChoices) : [];
  }, [known, source, at?.prefix]);
  // An active choice belongs to one list: with another, none is active.
  const [mark, setMark] = useState({ choices, index: -1 });
  const active = mark.choices === choices ? mark.index : -1;

  const placed = useRef(-1);
  useLayoutEffect(() => {
    if (placed.current < 0) return;
    input.current?.setSelectionRange(placed.current, placed.current);
    placed.current = -1;
  });

  const submit = (text: string) => {
    setCaret(-1);
    onChange(text.trim() === "" ? "{}" : text.trim());
  };
  const choose = (choice: string) => {
    if (!at) return;
    const next = complete(text, at, choice);
    setText(next.text);
    placed.current = next.caret;
    if (at.kind === "value") submit(next.text);
    else setCaret(next.caret);
  };
  const onKey = (e: KeyboardEvent) => {
    if (choices.length > 0 && (e.key === "ArrowDown" || e.key === "ArrowUp")) {
      e.preventDefault();
      const step = e.key === "ArrowDown" ? 1 : -1;
      const index = active < 0 && step < 0 ? choices.length - 1 : (active + step + choices.length) % choices.length;
      setMark({ choices, index });
    } else if (e.key === "Tab" && choices.length > 0 && at?.prefix) {
      e.preventDefault();
      choose(choices[Math.max(active, 0)]!);
    } else if (e.key === "Enter") {
      e.preventDefault();
      if (active >= 0) choose(choices[active]!);
      else submit(text);
    } else if (e.key === "Escape") {
      if (choices.length > 0) setCaret(-1);
      else setText(q);
    }
  };
  const track = () => setCaret(input.current?.selectionStart ?? -1);
  return (
    <div class="selector">
      <input
        ref={input} type="text" class="mono" spellcheck={false} autocomplete="off" autocapitalize="off"
        role="combobox" aria-label={label} aria-expanded={choices.length > 0} aria-controls={list} aria-autocomplete="list"
        aria-activedescendant={active >= 0 ? `${list}-${active}` : undefined}
        placeholder='{service_name="api"}' value={text}
        onInput={(e) => { setText(e.currentTarget.value); track(); }}
        onKeyDown={onKey} onClick={track} onKeyUp={(e) => /^(Arrow(Left|Right)|Home|End)$/.test(e.key) && track()}
        onBlur={() => { setCaret(-1); if (text !== q) submit(text); }}
      />
      <ul id={list} role="listbox" class="popover" hidden={choices.length === 0} aria-label={at?.kind === "value" ? `Values of ${at.label}` : "Labels"}>
        {choices.map((c, i) => (
          <li key={c} id={`${list}-${i}`} role="option" aria-selected={i === active}
            // Before blur, which would submit the unfinished text.
            onPointerDown={(e) => { e.preventDefault(); choose(c); }}>{c}</li>
        ))}
      </ul>
    </div>
  );
}

export function QueryBar({ state, range, loading, reload }: { state: State; range: Range; loading: boolean; reload: () => void }) {
  return (
    <div class="query" role="search" aria-label="Profiles">
      <TypeSelect state={state} range={range} />
      <SelectorInput label="Label selector" q={state.q} range={range} onChange={(q) => change({ q, zoom: [] })} />
      <RangePicker from={state.from} to={state.to} range={range} onChange={(from, to) => change({ from, to, sel: null })} />
      <Refresh state={state} loading={loading} reload={reload} />
    </div>
  );
}

const refreshMs: Record<State["refresh"], number> = { off: 0, "10s": 10e3, "30s": 30e3, "1m": 60e3 };

/** Reloads on demand, and by itself if asked to while the range is relative; then it gives up no answer that takes longer than that. */
export function Refresh({ state, loading, reload }: { state: State; loading: boolean; reload: () => void }) {
  const fixed = parseTime(state.to, 0) === parseTime(state.to, 1);
  useEffect(() => {
    const ms = refreshMs[state.refresh];
    if (ms === 0 || fixed) return;
    const timer = setInterval(() => document.visibilityState === "visible" && !isLoading() && reload(), ms);
    return () => clearInterval(timer);
  }, [state.refresh, fixed, reload]);
  return (
    <span class="refresh">
      <button type="button" class="reload" onClick={reload} title="Load again" aria-label="Load again" aria-busy={loading}>
        <svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true"><path d="M13.5 8a5.5 5.5 0 1 1-1.7-4M13.5 1.5v3h-3" fill="none" stroke="currentColor" stroke-width="1.6" /></svg>
      </button>
      <label class="inline">
        <span class="sr">Load again every</span>
        <select value={state.refresh} disabled={fixed} title={fixed ? "The range ends at a fixed time" : "Load again every"}
          onChange={(e) => change({ refresh: e.currentTarget.value as State["refresh"] }, "replace")}>
          {refreshes.map((r) => <option key={r} value={r}>{r}</option>)}
        </select>
      </label>
    </span>
  );
}
