import { useState } from "preact/hooks";
import { percent } from "../format";
import { change } from "../location";
import { filterKinds, parseFilter, type State } from "../url";

const kindText: Record<(typeof filterKinds)[number], string> = {
  focus: "focus", ignore: "ignore", hide: "hide", show_from: "show from", collapse: "collapse",
};
const kindTitle: Record<(typeof filterKinds)[number], string> = {
  focus: "Only stacks with a matching frame",
  ignore: "Only stacks without a matching frame",
  hide: "Without the matching frames",
  show_from: "From the outermost matching frame inwards",
  collapse: "Direct recursion of matching frames as one frame",
};

/** The filters in their order: each is one pass over what the one before it left. */
export function Filters({ state, removed, total }: { state: State; removed: readonly number[]; total: number }) {
  // The index of the filter that is being edited; one past the last for a new one.
  const [editing, setEditing] = useState(-1);
  const set = (f: readonly string[]) => change({ f, zoom: [] });
  const put = (at: number, text: string) => {
    setEditing(-1);
    if (text !== state.f[at]) set(state.f.toSpliced(at, 1, text));
  };
  const swap = (a: number, b: number) => set(state.f.map((f, i) => (i === a ? state.f[b]! : i === b ? state.f[a]! : f)));
  const all = total + removed.reduce((a, b) => a + b, 0);
  return (
    <ul class="filters" aria-label="Filters">
      {state.f.map((text, i) => {
        const filter = parseFilter(text)!;
        if (i === editing) return <li key={i}><Editor text={text} done={(t) => put(i, t)} cancel={() => setEditing(-1)} /></li>;
        return (
          <li key={i} class="filter">
            {i > 0 && <button type="button" aria-label={`Apply ${text} earlier`} title="Apply earlier" onClick={() => swap(i, i - 1)}>‹</button>}
            <button type="button" class="what" title={`${kindTitle[filter.kind]}. Click to edit.`} onClick={() => setEditing(i)}>
              <span class="muted">{kindText[filter.kind]}</span> <span class="mono">{filter.expression}</span>
              {removed[i] !== undefined && <span class="muted removed" title="What this filter dropped of everything">−{percent(removed[i]!, all)}</span>}
            </button>
            {i < state.f.length - 1 && <button type="button" aria-label={`Apply ${text} later`} title="Apply later" onClick={() => swap(i, i + 1)}>›</button>}
            <button type="button" aria-label={`Remove ${text}`} title="Remove" onClick={() => set(state.f.toSpliced(i, 1))}>×</button>
          </li>
        );
      })}
      <li>
        {editing === state.f.length
          ? <Editor text="focus:" done={(t) => put(state.f.length, t)} cancel={() => setEditing(-1)} />
          : <button type="button" class="add" onClick={() => setEditing(state.f.length)}>+ Filter</button>}
      </li>
    </ul>
  );
}

function Editor({ text, done, cancel }: { text: string; done: (text: string) => void; cancel: () => void }) {
  const colon = text.indexOf(":");
  const submit = (e: SubmitEvent) => {
    e.preventDefault();
    const form = new FormData(e.currentTarget as HTMLFormElement);
    const expression = String(form.get("expression"));
    if (expression === "") cancel();
    else done(`${form.get("kind")}:${expression}`);
  };
  return (
    <form class="editor" onSubmit={submit} onKeyDown={(e) => e.key === "Escape" && cancel()}>
      <select name="kind" aria-label="Kind of filter" defaultValue={text.slice(0, colon)}>
        {filterKinds.map((k) => <option key={k} value={k} title={kindTitle[k]}>{kindText[k]}</option>)}
      </select>
      <input name="expression" class="mono" aria-label="Regular expression" placeholder="regular expression" spellcheck={false} autocomplete="off"
        defaultValue={text.slice(colon + 1)} ref={(el) => el?.focus()} />
      <button>Apply</button>
    </form>
  );
}
