import { useEffect, useRef } from "preact/hooks";
import { getJson } from "../api";
import { percent, value } from "../format";
import { useLoad } from "../load";
import type { SourceText, TopRow } from "../wire";
import { Busy, Cancelled, ErrorNote } from "./notices";

/** From this share of its function on, a line is one to look at. */
const hotShare = 0.1;

/** The lines of one function, as a view of its own. */
export function SourceView({ name, url, row, total, tick }: { name: string; url: string; row: TopRow | undefined; total: number; tick: number }) {
  return (
    <div class="pane source-view">
      <header>
        <h2 class="mono">{name}</h2>
        {row && (
          <span>
            <span class="muted">self</span> <b>{percent(row.self, total)}</b> <span class="muted">total</span> <b>{percent(row.total, total)}</b>
          </span>
        )}
      </header>
      <SourceLines url={url} of={row?.total ?? 0} tick={tick} scrolls />
    </div>
  );
}

/** What each line used, with its text where the server has it. `of` is what shares are of: the function's total. */
export function SourceLines({ url, of, tick, scrolls = false }: { url: string; of: number; tick: number; scrolls?: boolean }) {
  const loaded = useLoad(url, (signal) => getJson<SourceText>(url, signal), tick);
  const box = useRef<HTMLDivElement>(null);
  const text = loaded.data;
  useEffect(() => {
    const el = box.current;
    const hottest = el?.querySelector<HTMLElement>("[data-hottest]");
    if (el && hottest) el.scrollTop = hottest.offsetTop - el.clientHeight / 3;
  }, [text]);
  if (loaded.failure) return <ErrorNote what="Not loaded" failure={loaded.failure} retry={loaded.retry} />;
  if (!text) {
    if (loaded.loading) return <div class="pad"><Busy cancel={loaded.cancel} /></div>;
    return loaded.cancelled ? <Cancelled kept={false} load={loaded.retry} /> : null;
  }
  const most = Math.max(...text.lines.map((l) => l.total));
  const hottest = text.lines.findIndex((l) => l.total === most);
  return (
    <>
      <p class="part">
        {text.file !== "" && <span class="mono">{text.file}</span>} {text.no_text && <span>No text: {text.no_text}.</span>}
      </p>
      {text.lines.length > 0 && (
        <div class={text.no_text ? "lines" : "lines with-text"} ref={box} tabIndex={scrolls ? 0 : -1} role="region" aria-label="Lines">
          <table>
            <thead>
              <tr><th scope="col" class="num">Self</th><th scope="col" class="num">Total</th><th scope="col" class="num" title="Of the function's total">Share</th><th scope="col" class="num">Line</th>{!text.no_text && <th scope="col">Text</th>}</tr>
            </thead>
            <tbody>
              {text.lines.map((l, i) => (
                <tr key={l.line} class={of > 0 && l.total >= hotShare * of ? "hot" : ""} data-hottest={i === hottest ? "" : undefined}>
                  <td class="num">{l.self > 0 && value(l.self, text.unit)}</td>
                  <td class="num">{l.total > 0 && value(l.total, text.unit)}</td>
                  <td class="num pct">{l.total > 0 && percent(l.total, of)}</td>
                  <td class="num line-number">{l.line === 0 ? "unknown" : l.line}</td>
                  {!text.no_text && <td class="code mono">{l.text}</td>}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
    </>
  );
}
