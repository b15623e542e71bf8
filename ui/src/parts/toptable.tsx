import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { changeText } from "../flame/draw";
import { percent, value } from "../format";
import { change } from "../location";
import type { State } from "../url";
import type { Top, TopRow } from "../wire";
import { useMatches } from "./search";

const rowHeight = 24;
const overscan = 10;

type Column = "function" | "self" | "total" | "change";

interface Props {
  top: Top;
  state: State;
  /** Of a diff: what one of B counts as one of A. */
  scale: number;
  /** With the columns that there is no room for beside a graph. */
  wide?: boolean;
  /** The functions to show; null for all. */
  only?: ReadonlySet<string> | null;
  onHover: (fn: string) => void;
  onSelect: (fn: string) => void;
}

/** How A's total differs from B's, in A's unit. */
export function rowChange(row: TopRow, scale: number): number {
  return row.total - (row.total_b ?? 0) * scale;
}

function rowSelfChange(row: TopRow, scale: number): number {
  return row.self - (row.self_b ?? 0) * scale;
}

/** Functions by what they used; the complete equivalent of the graph without pictures. */
export function TopTable({ top, state, scale, wide = false, only = null, onHover, onSelect }: Props) {
  const scroller = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 600 });
  const diff = top.total_b !== undefined;
  const names = useMemo(() => top.rows.map((r) => r.function), [top]);
  // The search field says what is wrong with a pattern; here a bad one selects nothing less than all.
  const { bits } = useMatches(names, state.search);

  const rows = useMemo(() => {
    const chosen = top.rows.filter((r, i) => (!bits || bits[i]) && (!only || only.has(r.function)));
    const descending = state.sort.startsWith("-") ? -1 : 1;
    const column = sortColumn(state, diff);
    const key = (r: TopRow) => {
      if (column === "change") return Math.abs(rowChange(r, scale));
      if (column === "self" && diff) return Math.abs(rowSelfChange(r, scale));
      return column === "function" ? 0 : r[column];
    };
    return chosen.sort((a, b) => {
      const order = column === "function" ? (a.function < b.function ? -1 : a.function > b.function ? 1 : 0) : key(a) - key(b);
      return descending * order || b.total - a.total || (a.function < b.function ? -1 : 1);
    });
  }, [top, bits, only, state.sort, scale]);

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
    const k = state.name === "" ? -1 : rows.findIndex((r) => r.function === state.name);
    if (!el || k < 0) return;
    const y = k * rowHeight;
    if (y < el.scrollTop || y > el.scrollTop + el.clientHeight - 2 * rowHeight) el.scrollTop = Math.max(0, y - el.clientHeight / 3);
  }, [state.name, top]);

  // The place scrolled to may be one of a longer table: rows that are not there would keep it in sight, empty.
  const first = Math.max(0, Math.min(Math.floor(view.top / rowHeight), rows.length) - overscan);
  const last = Math.min(rows.length, Math.ceil((view.top + view.height) / rowHeight) + overscan);
  const active = sortColumn(state, diff);
  const header = (column: Column, label: string, span: number) => {
    const descending = state.sort.startsWith("-");
    const next = active === column ? (descending ? column : `-${column}`) : column === "function" ? column : `-${column}`;
    return (
      <th scope="col" class={column === "function" ? "" : "num"} aria-sort={active === column ? (descending ? "descending" : "ascending") : "none"} colSpan={span}>
        <button type="button" onClick={() => change({ sort: next as State["sort"] }, "replace")}>
          {label}<span class="arrow" aria-hidden="true">{active === column ? (descending ? "▾" : "▴") : ""}</span>
        </button>
      </th>
    );
  };
  const whole = Math.max(top.total, (top.total_b ?? 0) * scale);
  const select = (row: TopRow) => onSelect(row.function === state.name ? "" : row.function);
  return (
    <div class={`top-table${diff ? " diff" : ""}${wide ? " with-files" : ""}`} ref={scroller} tabIndex={-1}
      onScroll={(e) => setView({ top: e.currentTarget.scrollTop, height: e.currentTarget.clientHeight })}>
      <table aria-label="Functions" aria-rowcount={rows.length + 1}>
        <thead>
          {diff
            ? <tr>{header("self", "Δ self", 1)}{header("change", "Δ total", 1)}{header("total", "Total A", 1)}<th scope="col" class="num plain">Total B</th>{header("function", "Function", 1)}</tr>
            : <tr>{header("self", "Self", 2)}{header("total", "Total", 2)}{header("function", "Function", 1)}{wide && <><th scope="col" class="plain">Binary</th><th scope="col" class="plain">File</th></>}</tr>}
        </thead>
        <tbody onPointerLeave={() => onHover("")}>
          {first > 0 && <tr aria-hidden="true" class="pad"><td height={first * rowHeight} /></tr>}
          {rows.slice(first, last).map((row, i) => (
            <tr key={row.function} aria-rowindex={first + i + 2} aria-selected={row.function === state.name}
              onClick={() => select(row)} onPointerEnter={() => onHover(row.function)}>
              {diff ? (
                <>
                  {[rowSelfChange(row, scale), rowChange(row, scale)].map((c, i) => <td key={i} class={`num ${changeClass(c)}`}>{changeText(c, whole)}</td>)}
                  <td class="num">{value(row.total, top.unit)}</td>
                  <td class="num">{value(row.total_b ?? 0, top.unit)}</td>
                </>
              ) : (
                <>
                  <td class="num">{value(row.self, top.unit)}</td>
                  <td class="num pct">{percent(row.self, top.total)}</td>
                  <td class="num">{value(row.total, top.unit)}</td>
                  <td class="num pct">{percent(row.total, top.total)}</td>
                </>
              )}
              <td class="fn" title={`${row.function}\n${row.binary}${row.file ? "\n" + row.file : ""}`}>
                <button type="button" onClick={(e) => { e.stopPropagation(); select(row); }}>{row.function}</button>
              </td>
              {wide && !diff && <><td class="muted" title={row.binary}>{row.binary}</td><td class="muted" title={row.file}>{row.file}</td></>}
            </tr>
          ))}
          {last < rows.length && <tr aria-hidden="true" class="pad"><td height={(rows.length - last) * rowHeight} /></tr>}
        </tbody>
      </table>
      {rows.length === 0 && <p class="muted pad">No function matches the search.</p>}
    </div>
  );
}

/** By change is a diff's own order; its order by self is that of the change of self, where ancestors do not come first. */
function sortColumn(state: State, diff: boolean): Column {
  const column = state.sort.replace("-", "") as Column;
  return !diff && column === "change" ? "self" : column;
}

export function changeClass(change: number): string {
  return change > 0 ? "more" : change < 0 ? "less" : "muted";
}
