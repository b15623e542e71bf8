import { useEffect, useState } from "preact/hooks";
import { change, follow, href, useLocation, type Page } from "./location";
import { Explore } from "./pages/explore";
import { Services } from "./pages/services";
import { Targets } from "./pages/targets";
import { Help } from "./parts/help";
import { useTheme } from "./theme";
import { zone } from "./time";
import { themes } from "./url";

const titles: Record<Page, string> = { "/": "Services", "/explore": "Explore", "/targets": "Targets" };

export function Shell() {
  const { page, state, notices } = useLocation();
  const dark = useTheme(state.theme);
  const [dismissed, setDismissed] = useState("");
  useEffect(() => {
    document.title = `${titles[page]} · Pilotlight`;
  }, [page]);
  const shown = notices.join("\n");
  return (
    <div class={page === "/explore" ? "shell workspace" : "shell"}>
      <header class="top">
        <a class="brand" href={href("/", state)} onClick={follow}>
          <svg viewBox="0 0 32 32" width="20" height="20" aria-hidden="true">
            <path class="flame-outer" d="M16 2c1 5 8 9 8 17a8 8 0 0 1-16 0c0-4 2-6 3-9 1 3 2 4 3 4 1-3 0-7 2-12z" />
            <path class="flame-inner" d="M16 15c1 3 4 4.5 4 8a4 4 0 0 1-8 0c0-3 3-5 4-8z" />
          </svg>
          Pilotlight
        </a>
        <nav aria-label="Pages">
          {(Object.keys(titles) as Page[]).map((p) => (
            <a key={p} href={href(p, state)} onClick={follow} aria-current={p === page ? "page" : undefined}>{titles[p]}</a>
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
      {page === "/explore" && <Explore state={state} dark={dark} />}
      {page === "/targets" && <Targets />}
    </div>
  );
}
