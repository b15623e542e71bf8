import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { percent, value } from "../format";
import { match, PatternError } from "../flame/client";
import { change } from "../location";
import type { State } from "../url";
import type { Top, TopRow } from "../wire";

const rowHeight = 24;
const overscan = 10;

type Column = "function" | "self" | "total";

interface Props {
  top: Top;
  state: State;
  onHover: (fn: string) => void;
}

/** Functions by what they used; the complete equivalent of the graph without pictures. */
export function TopTable({ top, state, onHover }: Props) {
  const scroller = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  const [matched, setMatched] = useState<{ rows: readonly TopRow[]; bits: Uint8Array } | null>(null);

  useEffect(() => {
    if (state.search === "") {
      setMatched(null);
      return;
    }
    let stale = false;
    match(top.rows.map((r) => r.function), state.search).then(
      (bits) => !stale && setMatched({ rows: top.rows, bits }),
      (err: unknown) => {
        // The search field says what is wrong with the pattern; here it selects nothing less than all.
        if (!(err instanceof PatternError)) throw err;
        if (!stale) setMatched(null);
      },
    );
    return () => void (stale = true);
  }, [top, state.search]);

  const rows = useMemo(() => {
    const chosen = matched?.rows === top.rows ? top.rows.filter((_, i) => matched.bits[i]) : top.rows.slice();
    const descending = state.sort.startsWith("-") ? -1 : 1;
    const column = state.sort.replace("-", "") as Column;
    return chosen.sort((a, b) => {
      const order = column === "function" ? (a.function < b.function ? -1 : a.function > b.function ? 1 : 0) : a[column] - b[column];
      return descending * order || b.total - a.total || (a.function < b.function ? -1 : 1);
    });
  }, [top, matched, state.sort]);

  useEffect(() => {
    const el = scroller.current;
    if (!el) return;
    const observer = new ResizeObserver(() => setView((v) => ({ ...v, height: el.clientHeight })));
    observer.observe(el);
    return () => observer.disconnect();
  }, []);

  // Bring the selected function into sight when the selection came from the graph.
  useEffect(() => {
    const el = scroller.current;
    const k = state.fn === "" ? -1 : rows.findIndex((r) => r.function === state.fn);
    if (!el || k < 0) return;
    const y = k * rowHeight;
    if (y < el.scrollTop || y > el.scrollTop + el.clientHeight - 2 * rowHeight) el.scrollTop = Math.max(0, y - el.clientHeight / 3);
  }, [state.fn, top]);

  const first = Math.max(0, Math.floor(view.top / rowHeight) - overscan);
  const last = Math.min(rows.length, Math.ceil((view.top + view.height) / rowHeight) + overscan);
  const header = (column: Column, label: string) => {
    const active = state.sort.replace("-", "") === column;
    const descending = state.sort.startsWith("-");
    const next = active ? (descending ? column : `-${column}`) : column === "function" ? column : `-${column}`;
    return (
      <th scope="col" class={column === "function" ? "" : "num"} aria-sort={active ? (descending ? "descending" : "ascending") : "none"}
        colSpan={column === "function" ? 1 : 2}>
        <button type="button" onClick={() => change({ sort: next as State["sort"] }, "replace")}>
          {label}<span class="arrow" aria-hidden="true">{active ? (descending ? "▾" : "▴") : ""}</span>
        </button>
      </th>
    );
  };
  const select = (row: TopRow) => change({ fn: row.function === state.fn ? "" : row.function }, "replace");
  return (
    <div class="top-table" ref={scroller} onScroll={(e) => setView({ top: e.currentTarget.scrollTop, height: e.currentTarget.clientHeight })}>
      <table aria-rowcount={rows.length + 1}>
        <thead>
          <tr>{header("self", "Self")}{header("total", "Total")}{header("function", "Function")}</tr>
        </thead>
        <tbody onPointerLeave={() => onHover("")}>
          {first > 0 && <tr aria-hidden="true" class="pad"><td colSpan={5} height={first * rowHeight} /></tr>}
          {rows.slice(first, last).map((row, i) => (
            <tr key={row.function} aria-rowindex={first + i + 2} aria-selected={row.function === state.fn}
              onClick={() => select(row)} onPointerEnter={() => onHover(row.function)}>
              <td class="num">{value(row.self, top.unit)}</td>
              <td class="num pct">{percent(row.self, top.total)}</td>
              <td class="num">{value(row.total, top.unit)}</td>
              <td class="num pct">{percent(row.total, top.total)}</td>
              <td class="fn" title={`${row.function}\n${row.binary}${row.file ? "\n" + row.file : ""}`}>
                <button type="button" onClick={(e) => { e.stopPropagation(); select(row); }}>{row.function}</button>
              </td>
            </tr>
          ))}
          {last < rows.length && <tr aria-hidden="true" class="pad"><td colSpan={5} height={(rows.length - last) * rowHeight} /></tr>}
        </tbody>
      </table>
      {rows.length === 0 && <p class="muted pad">No function matches the search.</p>}
    </div>
  );
}
