import { useEffect, useState } from "preact/hooks";
import { change, follow, href, pages, useLocation, type Page } from "./location";
import { Diff } from "./pages/diff";
import { Explore } from "./pages/explore";
import { FunctionPage } from "./pages/function";
import { Open } from "./pages/open";
import { Services } from "./pages/services";
import { Targets } from "./pages/targets";
import { Help } from "./parts/help";
import { useTheme } from "./theme";
import { zone } from "./time";
import { defaults, themes, type State } from "./url";

const titles: Record<Page, string> = { "/": "Services", "/explore": "Explore", "/diff": "Diff", "/targets": "Targets", "/open": "Open", "/fn": "Function" };
/** A function is reached from where it is seen. */
const listed = pages.filter((p) => p !== "/fn");

/** Pages that fill the window. */
const graphs: readonly Page[] = ["/explore", "/diff", "/open"];

/** What another page takes over: the selection, not what was done with it. */
function linked(state: State): State {
  return { ...defaults, q: state.q, type: state.type, from: state.from, to: state.to, f: state.f, group: state.group, color: state.color, refresh: state.refresh, theme: state.theme };
}

export function Shell() {
  const { page, state, notices } = useLocation();
  const dark = useTheme(state.theme);
  const [dismissed, setDismissed] = useState("");
  useEffect(() => {
    document.title = `${titles[page]} · Pilotlight`;
  }, [page]);
  const shown = notices.join("\n");
  return (
    <div class={graphs.includes(page) ? "shell workspace" : "shell"}>
      <header class="top">
        <a class="brand" href={href("/", linked(state))} onClick={follow}>
          <svg viewBox="0 0 32 32" width="20" height="20" aria-hidden="true">
            <path class="flame-outer" d="M16 2c1 5 8 9 8 17a8 8 0 0 1-16 0c0-4 2-6 3-9 1 3 2 4 3 4 1-3 0-7 2-12z" />
            <path class="flame-inner" d="M16 15c1 3 4 4.5 4 8a4 4 0 0 1-8 0c0-3 3-5 4-8z" />
          </svg>
          Pilotlight
        </a>
        <nav aria-label="Pages">
          {listed.map((p) => (
            <a key={p} href={href(p, p === page ? state : linked(state))} onClick={follow} aria-current={p === page ? "page" : undefined}>{titles[p]}</a>
          ))}
        </nav>
        <span class="grow" />
        <span class="muted zone" title="Times are local to this browser">{zone()}</span>
        <label class="inline">
          <span class="sr">Theme</span>
          <select value={state.theme} onChange={(e) => change({ theme: e.currentTarget.value as typeof state.theme }, "replace")}>
            {themes.map((t) => <option key={t} value={t}>{t}</option>)}
          </select>
        </label>
        <Help />
      </header>
      {shown !== "" && shown !== dismissed && (
        <div class="note" role="status">
          <span>{notices.map((n) => <span key={n} class="line">{n}</span>)}</span>
          <button type="button" onClick={() => setDismissed(shown)}>Dismiss</button>
        </div>
      )}
      {page === "/" && <Services state={state} />}
      {graphs.includes(page) && (
        <main class="workbench">
          <h1 class="sr">{titles[page]}</h1>
          {page === "/explore" && <Explore state={state} dark={dark} />}
          {page === "/diff" && <Diff state={state} dark={dark} />}
          {page === "/open" && <Open state={state} dark={dark} />}
        </main>
      )}
      {page === "/fn" && <FunctionPage key={state.name} state={state} />}
      {page === "/targets" && <Targets />}
    </div>
  );
}
