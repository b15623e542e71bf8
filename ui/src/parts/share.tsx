import { useEffect, useState } from "preact/hooks";
import { apiUrl, type Params } from "../api";
import type { FlameView } from "../flame/view";
import { href, type Page } from "../location";
import { unixSeconds, parseTime } from "../time";
import type { State } from "../url";
import { copyText } from "./commands";
import { Popover } from "./popover";

/** The state with its times as they are now, so that whoever opens the link sees the same. */
export function pinned(state: State, now = Date.now()): State {
  const pin = (text: string) => {
    const ms = text === "" ? null : parseTime(text, now);
    return ms === null ? text : unixSeconds(ms);
  };
  return { ...state, from: pin(state.from), to: pin(state.to), "b.from": pin(state["b.from"]), "b.to": pin(state["b.to"]), refresh: "off" };
}

const formats = [
  ["folded", "Folded", "profile.folded"],
  ["speedscope", "speedscope", "profile.speedscope.json"],
  ["firefox", "Firefox", "profile.firefox.json"],
  ["svg", "SVG", "profile.svg"],
] as const;

/** A link to the view, and the profile in the forms that other tools read. */
export function Share({ page, state, what, now, view }: { page: Page; state: State; what: Params; now: number; view: { current: FlameView | null } }) {
  const [said, setSaid] = useState("");
  // Files have one side: of a diff that of A.
  const { "b.query": _query, "b.from": _from, "b.to": _to, normalize: _normalize, ...own } = what;
  const pprof = apiUrl("pprof", own);
  const line = `go tool pprof '${(window.location.origin + pprof).replaceAll("'", "%27")}'`;
  const link = window.location.origin + href(page, pinned(state, now));
  useEffect(() => setSaid(""), [pprof, link]);
  const copy = (text: string, what: string) => {
    copyText(text).then(
      () => setSaid(`${what} copied.`),
      () => setSaid("The browser does not allow it: select the text and copy it."),
    );
  };
  const savePicture = async () => {
    const blob = await view.current?.png();
    if (!blob) return setSaid("There is no picture: open the flame graph.");
    const url = URL.createObjectURL(blob);
    save(url, "flamegraph.png");
    URL.revokeObjectURL(url);
  };
  return (
    <Popover class="share-menu" label="Export" hotkey="e">
      {() => (
        <>
          <label>Link to this view, with its times fixed
            <span class="row"><input class="mono" readOnly value={link} onFocus={(e) => e.currentTarget.select()} /><button type="button" onClick={() => copy(link, "Link")}>Copy link</button></span>
          </label>
          <label>Open in pprof
            <span class="row"><input class="mono" readOnly value={line} onFocus={(e) => e.currentTarget.select()} /><button type="button" onClick={() => copy(line, "Line")}>Copy line</button></span>
          </label>
          <div class="row wrap">
            <span class="muted">{page === "/diff" ? "Save A as" : "Save as"}</span>
            <a class="button" href={pprof} download="profile.pb.gz">pprof</a>
            {formats.map(([format, label, file]) => (
              <a key={format} class="button" href={apiUrl("export", { ...own, format })} download={file}>{label}</a>
            ))}
            <button type="button" onClick={() => void savePicture()}>PNG</button>
            <span class="muted" role="status">{said}</span>
          </div>
        </>
      )}
    </Popover>
  );
}

function save(url: string, name: string): void {
  const a = document.createElement("a");
  a.href = url;
  a.download = name;
  a.click();
}
